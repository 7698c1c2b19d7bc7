#!/bin/sh
#SBATCH --job-name=impasto
# Encodes a model in shards as a Slurm array, one task for each shard, and joins them:
#     slurm-array.sh MODEL OUTPUT SHARDS [OPTION OF ENCODE...]
# Run it where jobs are submitted. Options of sbatch come from its variables, such as SBATCH_PARTITION, or from SBATCH_OPTIONS:
# SBATCH_OPTIONS="--cpus-per-task=16 --mem=64G". Model and output must be on a file system that all nodes have. IMPASTO names another
# command than impasto.
set -eu
export IMPASTO="${IMPASTO:-impasto}"
model=$1 output=$2 of=$3
shift 3
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    code=0
    "$IMPASTO" -q encode "$model" -o "$output" --shard "$SLURM_ARRAY_TASK_ID/$of" --threads "${SLURM_CPUS_PER_TASK:-0}" "$@" || code=$?
    # A shard that needs others is no failure: the next array goes on.
    [ "$code" -eq 7 ] || exit "$code"
    exit 0
fi
tries=3
while :; do
    # Tasks that died are run again; those that are done code nothing again.
    # shellcheck disable=SC2086 # several options
    until sbatch --wait --quiet --array="1-$of" ${SBATCH_OPTIONS:-} "$0" "$model" "$output" "$of" "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || exit 1
    done
    code=0
    "$IMPASTO" -q merge "$output" || code=$?
    [ "$code" -eq 7 ] || exit "$code"
done
