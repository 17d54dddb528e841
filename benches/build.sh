#!/bin/bash
# Measures whole image builds, by kiln and, where it is there, by a peer, in turn.
#
#   benches/build.sh [-r ROUNDS] [-k KILN] [-p DISK_IMAGE_CREATE] [-d DIR] [ELEMENT…]
#
#   -r  rounds; every round runs each case once (1)
#   -k  the program to measure (target/*/release/kiln, else `kiln` in PATH)
#   -p  a disk-image-create of diskimage-builder, which needs root
#   -d  directory for caches, images and logs, made if missing (a temporary one)
#
# The elements are `vm debian-minimal` unless some are named. DIB_RELEASE and all
# other DIB_* variables reach both programs; name the mirror in
# DIB_DISTRIBUTION_MIRROR, so that both use the same.
#
# A round is: kiln with an empty cache (cold), with the cache that this left
# (warm), the same without network (offline); then the peer cold and warm.
#
# Needs bash, awk, jq, GNU time and GNU coreutils. Prints tables in Markdown.
# Peak memory is what the processes of a build held at one moment, sampled twice
# a second: anonymous memory, plus the files on each tmpfs that the build mounted.
# Page cache does not count: the kernel takes it back whenever it is wanted.
set -eu -o pipefail
export LC_ALL=C

# shellcheck source=benches/common.sh
. "$(dirname "$0")/common.sh"

rounds=1 kiln='' peer='' directory=''
while getopts r:k:p:d: option; do
    case $option in
        r) rounds=$OPTARG ;;
        k) kiln=$OPTARG ;;
        p) peer=$OPTARG ;;
        d) directory=$OPTARG ;;
        *) usage 4,9 ;;
    esac
done
shift $((OPTIND - 1))
if [ $# = 0 ]; then
    set -- vm debian-minimal
fi
elements=("$@")

find_kiln
for tool in jq /usr/bin/time awk; do
    if ! command -v "$tool" >/dev/null; then
        echo "error: \`$tool\` is missing" >&2
        exit 1
    fi
done
if [ -n "$directory" ]; then
    mkdir -p "$directory"
else
    directory=$(mktemp -d)
    # shellcheck disable=SC2064 # the name of now
    trap "rm -rf -- '$directory'" EXIT
fi
directory=$(realpath "$directory")
results="$directory/results.tsv"
: >"$results"

# tmpfs_devices PID: device and mount point of every tmpfs that the process sees.
tmpfs_devices() {
    awk '{ for (i = 7; i <= NF; i++) if ($i == "-") break }
        $(i + 1) == "tmpfs" { print $3, $5 }' "/proc/$1/mountinfo" 2>/dev/null || :
}

# sample PID FILE: follows a process and all below it until it ends; the peak of
# anonymous memory, tmpfs and both together, in KiB, goes to FILE.
sample() {
    local root=$1 file=$2 known peak_anon=0 peak_tmpfs=0 peak=0
    known=$(tmpfs_devices self | awk '{ print $1 }' | sort -u)
    echo "0 0 0" >"$file"
    while [ -d "/proc/$root" ]; do
        local family anon=0 tmpfs=0 pid device mountpoint used namespace
        declare -A devices=() namespaces=()
        family=$(ps -e -o pid=,ppid= | awk -v root="$root" '
            { parent[$1] = $2 }
            END {
                for (pid in parent)
                    for (p = pid; p != ""; p = parent[p])
                        if (p == root) { print pid; break }
            }')
        for pid in $family; do
            # It may end while it is looked at.
            used=$(awk '$1 == "RssAnon:" { print $2 }' "/proc/$pid/status" 2>/dev/null || :)
            anon=$((anon + ${used:-0}))
            namespace=$(readlink "/proc/$pid/ns/mnt" 2>/dev/null || :)
            if [ -z "$namespace" ] || [ -n "${namespaces[$namespace]:-}" ]; then
                continue
            fi
            namespaces[$namespace]=1
            while read -r device mountpoint; do
                if [ -n "${devices[$device]:-}" ] || grep -qxF "$device" <<<"$known"; then
                    continue
                fi
                # Another mount may lie over it.
                if [ "$(stat -c %Hd:%Ld "/proc/$pid/root$mountpoint" 2>/dev/null)" != "$device" ]; then
                    continue
                fi
                # df would look for the file system in the mounts of this namespace.
                used=$(stat -f -c '%b %f %S' "/proc/$pid/root$mountpoint" 2>/dev/null |
                    awk '{ printf "%d", ($1 - $2) * $3 / 1024 }' || :)
                devices[$device]=1
                tmpfs=$((tmpfs + ${used:-0}))
            done < <(tmpfs_devices "$pid")
        done
        peak_anon=$((anon > peak_anon ? anon : peak_anon))
        peak_tmpfs=$((tmpfs > peak_tmpfs ? tmpfs : peak_tmpfs))
        peak=$((anon + tmpfs > peak ? anon + tmpfs : peak))
        echo "$peak_anon $peak_tmpfs $peak" >"$file"
        sleep 0.5
    done
}

# measure PROGRAM CASE COMMAND…: runs a command and notes what it took.
measure() {
    local program=$1 case=$2 log load pid status=0
    shift 2
    log="$directory/$round-$program-$case"
    read -r load _ </proc/loadavg
    /usr/bin/time -o "$log.time" -f '%e %U %S' "$@" >"$log.out" 2>"$log.err" &
    pid=$!
    sample "$pid" "$log.memory"
    wait "$pid" || status=$?
    if [ "$status" != 0 ]; then
        echo "error: $program ($case) failed with status $status; the end of its output:" >&2
        tail -n 20 "$log.out" "$log.err" >&2
        cp -- "$log.out" "$log.err" "${TMPDIR:-/tmp}" || :
        exit 1
    fi
    local wall user system anon tmpfs peak
    read -r wall user system <"$log.time"
    read -r anon tmpfs peak <"$log.memory"
    printf '%s\t' "$round" "$program" "$case" "$wall" "$user" "$system" "$anon" "$tmpfs" "$peak" >>"$results"
    printf '%s\n' "$load" >>"$results"
    echo "round $round, $program $case: $wall s" >&2
}

kiln_case() {
    local case=$1
    shift
    measure kiln "$case" "$kiln" build "${elements[@]}" -o "$directory/out/kiln" -t qcow2 \
        --overwrite --json --image-cache "$directory/cache-kiln" "$@"
}

peer_case() {
    rm -rf "$directory"/out/peer*
    measure peer "$1" env DIB_IMAGE_CACHE="$directory/cache-peer" \
        "$peer" -o "$directory/out/peer" -t qcow2 "${elements[@]}"
}

mkdir -p "$directory/out"
for ((round = 1; round <= rounds; round++)); do
    rm -rf "$directory/cache-kiln" "$directory/cache-peer" 2>/dev/null || {
        # Files of a user namespace's other ids are only its root's to remove.
        "$kiln" cache clear --image-cache "$directory/cache-kiln" >/dev/null
        rm -rf "$directory/cache-kiln"
    }
    kiln_case cold
    kiln_case warm
    kiln_case offline --offline
    if [ -n "$peer" ]; then
        peer_case cold
        peer_case warm
    fi
done

echo "## Totals (median of $rounds)"
echo
echo "| build | wall s | CPU s | peak anonymous MiB | peak tmpfs MiB | peak of both MiB | load before |"
echo "|---|---|---|---|---|---|---|"
awk -F '\t' "$awk_median"'
    {
        key = $2 " " $3
        if (!(key in count)) order[++keys] = key
        count[key]++
        wall[key] = wall[key] " " $4; cpu[key] = cpu[key] " " ($5 + $6)
        anon[key] = anon[key] " " $7 / 1024; tmpfs[key] = tmpfs[key] " " $8 / 1024
        peak[key] = peak[key] " " $9 / 1024; load[key] = load[key] " " $10
    }
    END {
        for (k = 1; k <= keys; k++) {
            key = order[k]; n = count[key]
            printf "| %s | %.1f | %.1f | %.0f | %.0f | %.0f | %.1f |\n", key, median(wall[key], n), \
                median(cpu[key], n), median(anon[key], n), median(tmpfs[key], n), \
                median(peak[key], n), median(load[key], n)
        }
    }' "$results"
echo

echo "## kiln by phase and step, seconds (median of $rounds)"
echo
echo "| phase or step | cold | warm | offline |"
echo "|---|---|---|---|"
names=$(jq -r 'select(.event == "phase-finished" or .event == "step-finished") | .phase // .step' \
    "$directory/1-kiln-cold.out" | awk '!seen[$0]++')
while IFS= read -r name; do
    row="| $name |"
    for case in cold warm offline; do
        value=$(for ((round = 1; round <= rounds; round++)); do
            jq -r --arg name "$name" 'select(.event == "phase-finished" or .event == "step-finished")
                | select((.phase // .step) == $name) | .seconds' "$directory/$round-kiln-$case.out" |
                awk '{ sum += $1 } END { if (NR) print sum }'
        done | sort -n | awk '{ v[NR] = $1 }
            END { if (NR) printf "%.1f", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2; else printf "–" }')
        row+=" $value |"
    done
    echo "$row"
done <<<"$names"
echo

echo "## kiln's slowest hooks, seconds (round 1)"
echo
echo "| hook | cold | warm |"
echo "|---|---|---|"
jq -r 'select(.event == "hook-finished") | "\(.seconds)\t\(.phase)/\(.hook)"' "$directory/1-kiln-cold.out" |
    sort -rn | head -n 12 | while IFS=$'\t' read -r seconds hook; do
        warm=$(jq -r --arg hook "$hook" 'select(.event == "hook-finished" and "\(.phase)/\(.hook)" == $hook) | .seconds' \
            "$directory/1-kiln-warm.out" | head -n 1)
        printf '| %s | %.1f | %.1f |\n' "$hook" "$seconds" "${warm:-0}"
    done
