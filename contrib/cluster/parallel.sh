#!/bin/sh
# Encodes a model in shards with GNU parallel, and joins them: parallel.sh MODEL OUTPUT SHARDS [OPTION OF ENCODE...]
# Options of parallel, such as hosts, come from PARALLEL: PARALLEL="--sshloginfile hosts --jobs 1 --workdir .". Model and output must be
# on a file system that all hosts have. Each process uses all processors: where several run on one machine, give --threads, too.
# IMPASTO names another command than impasto.
set -eu
export IMPASTO="${IMPASTO:-impasto}"
model=$1 output=$2 of=$3
shift 3
# Shards that need others end with 7, which is no failure: the next round goes on.
job='"$IMPASTO" -q encode "$@"; code=$?; [ $code -eq 7 ] || exit $code'
while :; do
    seq "$of" | parallel --will-cite --quote --env IMPASTO --retries 3 --halt soon,fail=1 \
        sh -c "$job" shard "$model" -o "$output" --shard "{}/$of" "$@"
    code=0
    "$IMPASTO" -q merge "$output" || code=$?
    [ "$code" -eq 7 ] || exit "$code"
done
