#!/bin/sh
# Runs the fuzz targets, one after the other: fuzz/run.sh [SECONDS [TARGET...]]
# Needs cargo-fuzz (cargo install cargo-fuzz) and a nightly compiler, or RUSTC_BOOTSTRAP=1 with a stable one.
set -eu
cd "$(dirname "$0")"
seconds=${1:-60}
[ $# -gt 0 ] && shift
targets=${*:-safetensors container file tile entropy}
toolchain=+nightly
[ -n "${RUSTC_BOOTSTRAP:-}" ] && toolchain=
cargo run --quiet --example seeds -- corpus
status=0
for target in $targets; do
    log=$(mktemp)
    echo "== $target: $seconds seconds"
    # New inputs go to corpus/, a crash to artifacts/; the files of regressions/ are seeds too.
    RAYON_NUM_THREADS=1 cargo $toolchain fuzz run "$target" "corpus/$target" "regressions/$target" -- \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=16384 -print_final_stats=1 >"$log" 2>&1 || {
        status=1
        grep -E "panicked|ERROR|SUMMARY|Test unit" "$log" || tail -n 20 "$log"
    }
    # Edges covered (cov), features, corpus.
    grep -E "cov: " "$log" | tail -n 1
    grep -E "stat::(number_of_executed_units|average_exec_per_sec|peak_rss_mb)" "$log" || true
    rm -f "$log"
done
exit $status
