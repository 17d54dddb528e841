# Sourced by the other scripts here.
# shellcheck shell=bash

# usage LINES: prints these lines of the script's own begin and ends it.
usage() {
    sed -n "$1s/^#\( \|\$\)//p" "$0" >&2
    exit 1
}

# find_kiln: makes $kiln the absolute path of the program to measure; what it
# names already, else a release of this tree, else what is in PATH.
find_kiln() {
    local here candidate
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    if [ -z "$kiln" ]; then
        for candidate in "$here"/target/release/kiln "$here"/target/*/release/kiln; do
            if [ -x "$candidate" ]; then kiln=$candidate; fi
        done
        kiln=${kiln:-$(command -v kiln || :)}
    fi
    if [ ! -x "$kiln" ]; then
        echo "error: no kiln to measure; \`cargo build --release\` makes one, -k names one" >&2
        exit 1
    fi
    kiln=$(realpath "$kiln")
}

# For awk programs: median(LIST, N) is that of N numbers, which blanks separate.
# shellcheck disable=SC2034 # by the scripts that source this
awk_median='
    function median(list, n,   values, i, j, t) {
        split(list, values, " ")
        for (i = 1; i <= n; i++)
            for (j = i + 1; j <= n; j++)
                if (values[j] + 0 < values[i] + 0) { t = values[i]; values[i] = values[j]; values[j] = t }
        return n % 2 ? values[(n + 1) / 2] : (values[n / 2] + values[n / 2 + 1]) / 2
    }
'
