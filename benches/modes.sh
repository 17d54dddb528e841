#!/bin/bash
# Measures one bootstrap in each mode, in turn, and prints a table in Markdown.
#
#   benches/modes.sh [-r ROUNDS] [-k KILN] [-d DIR] [-t DIR] [-m "MODE…"] [ELEMENT…]
#   benches/modes.sh -b […]
#
#   -r  rounds; every round runs each mode once (3)
#   -k  the program to measure (target/*/release/kiln, else `kiln` in PATH)
#   -d  directory for caches and logs, made if missing (a temporary one)
#   -t  directory in memory, for modes that cannot mount one (/dev/shm)
#   -m  the modes; all are compared with the first (subordinate single)
#   -b  let an unmodified debootstrap make the root, the same for each mode; one
#       mode more is `proot`, which runs it under PRoot and fakeroot without kiln
#
# The element is `debian-minimal` unless some are named. Packages come from a
# cache that a first build fills, so only processors and memory count; finished
# roots are removed from it before each build, so each build is a bootstrap.
# With -b it is a root of variant minbase from a tarball of its packages.
# Everything ends with a tar. DIB_RELEASE and DIB_DISTRIBUTION_MIRROR count.
#
# Run it as a normal user, for whom mode `chroot` is that of root of a user
# namespace with one id (`unshare -r`). The supervisor answers on the processor that called,
# which the scheduler only does for ordinary processes: give it the machine with
# `nice -n -20` (where sessions share it, `echo -20 >/proc/self/autogroup` first),
# not with the real-time class.
set -eu -o pipefail
export LC_ALL=C

# shellcheck source=benches/common.sh
. "$(dirname "$0")/common.sh"

rounds=3 kiln='' directory='' memory=/dev/shm modes='subordinate single' bootstrap=''
while getopts r:k:d:t:m:b option; do
    case $option in
        r) rounds=$OPTARG ;;
        k) kiln=$OPTARG ;;
        d) directory=$OPTARG ;;
        t) memory=$OPTARG ;;
        m) modes=$OPTARG ;;
        b) bootstrap=1 ;;
        *) usage 4,13 ;;
    esac
done
shift $((OPTIND - 1))
if [ $# = 0 ]; then
    set -- debian-minimal
fi
find_kiln
case " $modes " in
    *' proot '*)
        if [ -z "$bootstrap" ]; then
            echo "error: \`proot\` runs debootstrap alone: add -b" >&2
            exit 1
        fi
        ;;
esac
# Where a root ends that no namespace takes along.
memory=$(mktemp -d -p "$memory")
temporary=''
clean_up() {
    # PRoot leaves directories that their owner may not read.
    chmod -R u+rwX "$memory" 2>/dev/null || :
    rm -rf -- "$memory"
    if [ -n "$temporary" ]; then
        "$kiln" cache clear --image-cache "$directory/cache" >/dev/null 2>&1 || :
        rm -rf -- "$directory"
    fi
}
trap clean_up EXIT
if [ -z "$directory" ]; then
    directory=$(mktemp -d)
    temporary=1
fi
mkdir -p "$directory"
directory=$(realpath "$directory")
results="$directory/modes.tsv"
: >"$results"

# with_debootstrap: an element that runs it, and what it needs.
with_debootstrap() {
    local suite=${DIB_RELEASE:-bookworm} element="$directory/elements/with-debootstrap"
    PATH=$PATH:/usr/sbin:/sbin
    export DIB_PACKAGES="$directory/packages-$suite.tar"
    if [ ! -e "$DIB_PACKAGES" ]; then
        rm -rf "$directory/download" # of a download that failed
        # It wants to be root, but only to download.
        unshare --map-root-user debootstrap --variant=minbase --make-tarball="$DIB_PACKAGES.part" \
            "$suite" "$directory/download" \
            "${DIB_DISTRIBUTION_MIRROR:-http://ftp.debian.org/debian}" >"$directory/download.log"
        mv "$DIB_PACKAGES.part" "$DIB_PACKAGES"
    fi
    mkdir -p "$element/root.d"
    echo operating-system >"$element/element-provides"
    cat >"$element/root.d/10-debootstrap" <<END
#!/bin/bash
exec debootstrap --variant=minbase --unpack-tarball="\$DIB_PACKAGES" $suite "\$TARGET_ROOT"
END
    chmod 755 "$element/root.d/10-debootstrap"
}

# under_proot: the same without kiln. PRoot cannot follow debootstrap's own chroot,
# so the second stage is started in the root; the first one, which only unpacks, needs
# what fakeroot does.
under_proot() {
    local root="$memory/root"
    chmod -R u+rwX "$root" 2>/dev/null || :
    rm -rf -- "$root"
    # shellcheck disable=SC2016 # sh expands these
    env -i PATH="$PATH" LC_ALL=C /usr/bin/time -o "$directory/time" -f '%e %U %S' sh -eu -c '
        fakeroot debootstrap --foreign --variant=minbase --unpack-tarball="$1" "$2" "$3"
        # Where it could mount nothing it made a link.
        rm -f "$3/proc"
        mkdir -p "$3/proc"
        DEBOOTSTRAP_DIR=/debootstrap proot -0 -r "$3" -b /proc -b /dev -w / \
            /bin/sh /debootstrap/debootstrap --second-stage
        proot -0 tar -C "$3" -cf "$4" .' sh \
        "$DIB_PACKAGES" "${DIB_RELEASE:-bookworm}" "$root" "$directory/out/image.tar"
}

# build MODE ELEMENT…: one build without a finished root.
build() {
    local mode=$1 status=0
    shift
    # Their files may be of other ids, so they are moved away instead of removed.
    find "$directory/cache/kiln" -maxdepth 1 -name roots \
        -exec mv {} "$directory/cache/kiln/roots.old.$((++former))" \; 2>/dev/null || :
    rm -rf "$directory/out"
    mkdir -p "$directory/out"
    if [ "$mode" = proot ]; then
        under_proot >"$directory/out.json" 2>"$directory/out.err" || status=$?
    else
        local way=()
        if [ "$mode" = chroot ] && [ "$(id -u)" != 0 ]; then
            way=(unshare --map-root-user)
        fi
        TMPDIR=$memory /usr/bin/time -o "$directory/time" -f '%e %U %S' "${way[@]}" \
            "$kiln" build "$@" -o "$directory/out/image" -t tar --mode "$mode" --json \
            --image-cache "$directory/cache" "${extra[@]}" \
            >"$directory/out.json" 2>"$directory/out.err" || status=$?
    fi
    if [ "$status" != 0 ]; then
        echo "error: mode $mode failed with status $status:" >&2
        tail -n 5 "$directory/out.json" "$directory/out.err" >&2
        exit 1
    fi
}

extra=() former=0
if [ -n "$bootstrap" ]; then
    with_debootstrap
    set -- -n with-debootstrap
    extra=(-E "$directory/elements")
else
    build "${modes%% *}" "$@"
    extra=(--offline)
fi
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
awk -F '\t' "$awk_median"'
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
