#!/bin/sh
# Peak memory of the commands, without mapped files: tools/measure_memory.sh IMPASTO MODEL...
# IMPASTO is the command, MODEL a Hugging Face folder. Linux only.
#
# The peak of RssAnon (sampled every 5 ms from /proc/PID/status) is the memory that the program itself allocates; VmHWM also counts the pages
# of the mapped checkpoint and file, which the system may drop at any time.
set -eu
impasto=$1
shift
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

measure() {
    what=$1
    shift
    "$@" >"$scratch/out" 2>&1 &
    pid=$!
    anon=0
    high=0
    while status=$(cat "/proc/$pid/status" 2>/dev/null) && [ -n "$status" ]; do
        now=$(printf '%s\n' "$status" | awk '/^RssAnon:/ { print $2 }')
        [ -n "$now" ] || break
        [ "$now" -le "$anon" ] || anon=$now
        high=$(printf '%s\n' "$status" | awk '/^VmHWM:/ { print $2 }')
        sleep 0.005
    done
    wait "$pid" || { cat "$scratch/out"; exit 1; }
    printf '| %s | %d | %d |\n' "$what" $((anon * 1024 / 1000000)) $((high * 1024 / 1000000))
}

echo '| job | peak memory without mapped files, MB | with mapped files, MB |'
echo '|---|---|---|'
for model in "$@"; do
    name=$(basename "$model")
    file=$scratch/a.impasto
    measure "$name, encode --lossless" "$impasto" -q encode "$model" -o "$file" --lossless
    measure "$name, verify" "$impasto" -q verify "$file"
    measure "$name, decode" "$impasto" -q decode "$file" -o "$scratch/out-$name"
    rm -rf "$scratch/out-$name"
    measure "$name, encode --bpw 4" "$impasto" -q encode "$model" -o "$file" --bpw 4
    measure "$name, verify, 4 bits" "$impasto" -q verify "$file"
    measure "$name, decode, 4 bits" "$impasto" -q decode "$file" -o "$scratch/out-$name"
    rm -rf "$scratch/out-$name"
done
