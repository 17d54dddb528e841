#!/bin/bash
# Measures what kiln itself adds to hooks, and how long it plans many elements.
#
#   benches/hooks.sh [-r ROUNDS] [-k KILN] [-n NUMBER]
#
#   -r  rounds; each takes every case once, in turn (5)
#   -k  the program to measure (target/*/release/kiln, else `kiln` in PATH)
#   -n  hooks, and elements (200)
#
# Elements are made up: a root with bash alone, and elements with a dependency, a
# list of packages and a hook each. The overhead of a hook is what a build with
# NUMBER hooks that do nothing takes longer than one with none, for each hook,
# without what the same programs take when a loop of bash starts them. Prints a
# table in Markdown with the medians.
#
# Needs bash and GNU coreutils.
set -eu -o pipefail
export LC_ALL=C

# shellcheck source=benches/common.sh
. "$(dirname "$0")/common.sh"

rounds=5 kiln='' number=200
while getopts r:k:n: option; do
    case "$option" in
        r) rounds=$OPTARG ;;
        k) kiln=$OPTARG ;;
        n) number=$OPTARG ;;
        *) usage 4,8 ;;
    esac
done
find_kiln
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# An element as kiln's own are, whose root is a static busybox.
mkdir -p none/base many/base none/os/root.d
printf 'operating-system\n' >none/os/element-provides
cat >none/os/root.d/10-root <<'SCRIPT'
#!/bin/bash
set -eu -o pipefail
cd "$TARGET_ROOT"
mkdir -p bin dev etc proc root sys tmp usr/lib var/log
cp -L "$(type -P bash)" bin/bash
ln -s bash bin/sh
ldd bin/bash | sed -nE 's@^[[:space:]]([^ ]+ => )?(/[^ ]+) .*@\2@p' | while read -r library; do
    mkdir -p ".${library%/*}"
    cp -L "$library" ".$library"
done
SCRIPT
chmod +x none/os/root.d/10-root
cp -a none/os many/os
cp -a none outside
for ((i = 0; i < number; i++)); do
    name=$(printf 'element-%03d' "$i")
    mkdir -p "many/$name/install.d" "outside/$name/post-root.d" "plan/$name/install.d"
    printf '#!/bin/sh\n' >"many/$name/install.d/50-$name"
    printf '#!/bin/sh\n' >"outside/$name/post-root.d/50-$name"
    printf '#!/bin/sh\n' >"plan/$name/install.d/50-$name"
    printf 'package-%d:\n' "$i" >"plan/$name/package-installs.yaml"
    [ "$i" -eq 0 ] || printf 'element-%03d\n' $((i - 1)) >"plan/$name/element-deps"
    printf 'summary: Element %d\ncategory: tests\n' "$i" >"plan/$name/element.yaml"
done
cp -a none/os none/base plan
find . -name '50-*' -exec chmod +x {} +
elements=()
for ((i = 0; i < number; i++)); do
    elements+=("$(printf 'element-%03d' "$i")")
done

# took COMMAND...: milliseconds that it takes.
took() {
    local start=$EPOCHREALTIME
    "$@" >out 2>&1 || { cat out >&2; exit 1; }
    local end=$EPOCHREALTIME
    echo $(((${end/./} - ${start/./}) / 10))
}
build() {
    local path=$1
    shift
    ELEMENTS_PATH="$work/$path" "$kiln" build os -n -q -t tar -o image --overwrite "$@"
}
plan() {
    ELEMENTS_PATH="$work/plan" "$kiln" plan os -n "${elements[$((number - 1))]}"
}
version() {
    "$kiln" --version
}
loop() {
    local i
    for ((i = 0; i < number; i++)); do
        "many/${elements[0]}/install.d/50-${elements[0]}"
    done
}
median() {
    sort -n | sed -n "$(((rounds + 1) / 2))p"
}
for ((round = 0; round < rounds; round++)); do
    took build none >>none.times
    took build many "${elements[@]}" >>inside.times
    took build outside "${elements[@]}" >>outside.times
    took loop >>loop.times
    took plan >>plan.times
    took version >>version.times
done
show() {
    awk -v hundredths="$1" -v unit="$2" 'BEGIN { printf "%.2f %s", hundredths / 100, unit }'
}
none=$(median <none.times) inside=$(median <inside.times) outside=$(median <outside.times)
loop=$(median <loop.times) plan=$(median <plan.times) version=$(median <version.times)
echo "| what | median of $rounds |"
echo '|---|---|'
echo "| build without such hooks | $(show "$none" ms) |"
echo "| build with $number hooks inside | $(show "$inside" ms) |"
echo "| build with $number hooks outside | $(show "$outside" ms) |"
echo "| the same hooks from a loop of bash | $(show "$loop" ms) |"
echo "| **kiln's own share of a hook inside** | $(show $(((inside - none - loop) / number)) ms) |"
echo "| **kiln's own share of a hook outside** | $(show $(((outside - none - loop) / number)) ms) |"
echo "| start of the program alone | $(show "$version" ms) |"
echo "| **plan of $number elements**, with the start | $(show "$plan" ms) |"
