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
