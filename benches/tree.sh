#!/bin/bash
# Makes the tree that docs/benchmarks.md measures with: a Debian 12 with compiler,
# kernel and documentation, filled up to 70,000 entries and 1.5 GB of data, and
# the hard cases of tree_corpus.py. Needs root, mmdebstrap and python3; packages
# come from wherever the host's apt gets them.
#
#   benches/tree.sh TREE [ENTRIES [BYTES]]     (default: 70000 1500000000)
set -euo pipefail

tree=${1:?usage: tree.sh TREE [ENTRIES [BYTES]]}
entries=${2:-70000}
bytes=${3:-1500000000}
here=$(dirname "$(readlink -f "$0")")
if [ "$(id -u)" != 0 ]; then
    echo "tree.sh needs root: owners, devices and trusted attributes are part of the tree" >&2
    exit 1
fi
if [ -e "$tree" ]; then
    echo "$tree exists already" >&2
    exit 1
fi
packages=linux-image-cloud-amd64,linux-headers-cloud-amd64,cloud-init,build-essential
packages+=,git,gdb,cmake,python3-numpy,locales,man-db,libboost-dev
# Without a mirror, mmdebstrap takes the host's own sources.
if grep -rqs bookworm /etc/apt/sources.list /etc/apt/sources.list.d; then
    mmdebstrap --quiet --variant=important --include="$packages" bookworm "$tree"
else
    mmdebstrap --quiet --variant=important --include="$packages" bookworm "$tree" \
        "${DEBIAN_MIRROR:-http://ftp.debian.org/debian}"
fi
exec python3 "$here/tree_corpus.py" "$tree" "$entries" "$bytes"
