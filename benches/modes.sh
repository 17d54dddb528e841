#!/bin/bash
# Measures one bootstrap in each mode, in turn, and prints a table in Markdown.
#
#   benches/modes.sh [-r ROUNDS] [-k KILN] [-d DIR] [-m "MODE…"] [ELEMENT…]
#
#   -r  rounds; every round runs each mode once (3)
#   -k  the program to measure (target/*/release/kiln, else `kiln` in PATH)
#   -d  directory for caches and logs, made if missing (a temporary one)
#   -m  the modes; all are compared with the first (subordinate single)
#
# The element is `debian-minimal` unless some are named. Packages come from a
# cache that a first build fills, so only processors and memory count; finished
# roots are removed from it before each build, so each build is a bootstrap.
#
# Run it as a normal user. The supervisor answers on the processor that called,
# which the scheduler only does for ordinary processes: give it the machine with
# `nice -n -20` (where sessions share it, `echo -20 >/proc/self/autogroup` first),
# not with the real-time class.
set -eu -o pipefail
export LC_ALL=C

# shellcheck source=benches/common.sh
. "$(dirname "$0")/common.sh"

rounds=3 kiln='' directory='' modes='subordinate single'
while getopts r:k:d:m: option; do
    case $option in
        r) rounds=$OPTARG ;;
        k) kiln=$OPTARG ;;
        d) directory=$OPTARG ;;
        m) modes=$OPTARG ;;
        *) usage 4,9 ;;
    esac
done
shift $((OPTIND - 1))
if [ $# = 0 ]; then
    set -- debian-minimal
fi
find_kiln
if [ -z "$directory" ]; then
    directory=$(mktemp -d)
    clean_up() {
        "$kiln" cache clear --image-cache "$directory/cache" >/dev/null 2>&1 || :
        rm -rf -- "$directory"
    }
    trap clean_up EXIT
fi
mkdir -p "$directory"
directory=$(realpath "$directory")
results="$directory/modes.tsv"
: >"$results"

# build MODE ELEMENT…: one build without a finished root.
build() {
    local mode=$1 status=0
    shift
    # Their files may be of other ids, so they are moved away instead of removed.
    find "$directory/cache/kiln" -maxdepth 1 -name roots \
        -exec mv {} "$directory/cache/kiln/roots.old.$((++former))" \; 2>/dev/null || :
    rm -rf "$directory/out"
    mkdir -p "$directory/out"
    /usr/bin/time -o "$directory/time" -f '%e %U %S' \
        "$kiln" build "$@" -o "$directory/out/image" -t tar --mode "$mode" --json \
        --image-cache "$directory/cache" "${extra[@]}" \
        >"$directory/out.json" 2>"$directory/out.err" || status=$?
    if [ "$status" != 0 ]; then
        echo "error: mode $mode failed with status $status:" >&2
        tail -n 5 "$directory/out.json" "$directory/out.err" >&2
        exit 1
    fi
}

extra=() former=0
build "${modes%% *}" "$@"
extra=(--offline)
for ((round = 1; round <= rounds; round++)); do
    for mode in $modes; do
        read -r load _ </proc/loadavg
        build "$mode" "$@"
        read -r wall user system <"$directory/time"
        printf '%s\t%s\t%s\t%s\n' "$mode" "$wall" "$(awk "BEGIN { print $user + $system }")" "$load" >>"$results"
        echo "round $round, $mode: $wall s" >&2
    done
done

echo "| mode | wall s | CPU s | wall | CPU | load before |"
echo "|---|---|---|---|---|---|"
awk -F '\t' '
    function median(list, n,   values, i, j, t) {
        split(list, values, " ")
        for (i = 1; i <= n; i++)
            for (j = i + 1; j <= n; j++)
                if (values[j] + 0 < values[i] + 0) { t = values[i]; values[i] = values[j]; values[j] = t }
        return n % 2 ? values[(n + 1) / 2] : (values[n / 2] + values[n / 2 + 1]) / 2
    }
    {
        if (!($1 in count)) order[++modes] = $1
        count[$1]++
        wall[$1] = wall[$1] " " $2; cpu[$1] = cpu[$1] " " $3; load[$1] = load[$1] " " $4
    }
    END {
        for (m = 1; m <= modes; m++) {
            mode = order[m]; n = count[mode]
            w = median(wall[mode], n); c = median(cpu[mode], n)
            if (m == 1) { first_wall = w; first_cpu = c }
            printf "| %s | %.1f | %.1f | %.2f× | %.2f× | %.1f |\n", mode, w, c, w / first_wall, c / first_cpu, median(load[mode], n)
        }
    }' "$results"
