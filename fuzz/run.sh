#!/bin/sh
# Grows the corpora of the fuzz targets, one after the other, and says what they cover: fuzz/run.sh [SECONDS [TARGET...]]
# Each target is fuzzed for SECONDS (60), its corpus cut down to what adds coverage, and the coverage printed: edges and features as
# libFuzzer counts them, and the lines of the code under test, where the compiler has its LLVM tools (rustup component add llvm-tools).
# Needs cargo-fuzz (cargo install cargo-fuzz) and a nightly compiler, or RUSTC_BOOTSTRAP=1 with a stable one.
set -eu
cd "$(dirname "$0")"
seconds=${1:-60}
[ $# -gt 0 ] && shift
targets=${*:-safetensors gguf config container file portion tile layers entropy transform tokenizer template answer calls message request}
toolchain=+nightly
[ -n "${RUSTC_BOOTSTRAP:-}" ] && toolchain=
tools=$(ls -d "$(rustc $toolchain --print sysroot)"/lib/rustlib/*/bin 2>/dev/null | head -n 1)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export RAYON_NUM_THREADS=1

# The sources that a target is there for.
sources() {
    case $1 in
    safetensors) echo impasto-checkpoint/src/header.rs impasto-checkpoint/src/json.rs impasto-checkpoint/src/tensor.rs ;;
    gguf) for file in cursor.rs header.rs types.rs encode.rs hf; do echo "impasto-checkpoint/src/gguf/$file"; done ;;
    config) echo impasto-model/src/config impasto-model/src/graph impasto-text/src/chat/config.rs impasto-checkpoint/src/gguf/hf/to_gguf ;;
    container) echo impasto-container/src ;;
    file) echo impasto/src impasto-container/src impasto-codec/src ;;
    tile | layers | entropy) echo impasto-codec/src ;;
    transform) echo impasto-codec/src/transform ;;
    tokenizer) echo impasto-text/src/tokenizer ;;
    template) echo impasto-text/src/chat ;;
    calls) echo impasto-text/src/tools ;;
    message) echo impasto-text/src/chat/message.rs impasto-text/src/tools ;;
    request) echo impasto-serve/src/api ;;
    answer) for file in address answer date hub url; do echo "impasto-fetch/src/$file.rs"; done ;;
    esac
}

# A step of cargo fuzz; of what it prints only the cause of a failure is shown.
fuzz() {
    step=$1
    shift
    cargo $toolchain fuzz "$step" "$@" >"$log" 2>&1 || {
        status=1
        grep -E "panicked|ERROR|SUMMARY|Test unit|error:" "$log" || tail -n 20 "$log"
    }
}

# The lines of each source that the corpus of a target runs, of how many.
lines() {
    if [ ! -x "$tools/llvm-cov" ]; then
        echo "lines: not counted, the compiler has no LLVM tools"
        return
    fi
    fuzz coverage "$1" "corpus/$1" "regressions/$1"
    binary=$(find target -path "*/coverage/*/release/$1" -type f | head -n 1)
    for source in $(sources "$1"); do
        counted=$("$tools/llvm-cov" export "$binary" -instr-profile="coverage/$1/coverage.profdata" -summary-only "../crates/$source" |
            sed -E 's/.*"totals":.*"lines":\{"count":([0-9]+),"covered":([0-9]+).*/\2 of \1/')
        echo "lines of $source: $counted"
    done
}

cargo run --quiet --example seeds -- corpus
status=0
for target in $targets; do
    echo "== $target: $seconds seconds"
    # New inputs go to corpus/, a crash to artifacts/; the files of regressions/ are seeds too.
    fuzz run "$target" "corpus/$target" "regressions/$target" -- \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=16384 -print_final_stats=1
    grep -E "cov: " "$log" | tail -n 1
    grep -E "stat::(number_of_executed_units|average_exec_per_sec|peak_rss_mb)" "$log" || true
    grown=$(ls "corpus/$target" | wc -l)
    fuzz cmin "$target" "corpus/$target"
    echo "corpus: $grown inputs, $(ls "corpus/$target" | wc -l) of them kept"
    lines "$target"
done
exit $status
