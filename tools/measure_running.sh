#!/bin/sh
# Runs a file in packed and coded residence under memory limits: measure_running.sh IMPASTO FILE MEGABYTES...
#
# The limit is that of a control group, so it includes pages of the mapped file, which the system may drop. Needs root.
set -eu
impasto=$1 file=$2
shift 2
for root in /sys/fs/cgroup/memory /sys/fs/cgroup; do
    [ -e "$root/cgroup.procs" ] && break
done
group=$root/impasto-$$
mkdir "$group"
trap 'rmdir "$group"' EXIT
limit=memory.max
[ -e "$group/$limit" ] || limit=memory.limit_in_bytes
for megabytes in "$@"; do
    echo $((megabytes * 1000000)) >"$group/$limit"
    for residence in packed coded; do
        # The shell joins the group, then replaces itself with the command.
        if said=$(sh -c 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"' sh "$group" \
            "$impasto" run "$file" -p "The history of Rome" --raw -n 16 --residence $residence 2>&1); then
            echo "$megabytes MB, $residence: $(echo "$said" | tail -n 1)"
        else
            echo "$megabytes MB, $residence: ended with $?"
        fi
    done
done
