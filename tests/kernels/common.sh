# shellcheck shell=bash
# What `run` and `hosts` share: Debian's kernels and roots, and the machine that boots them.

# shellcheck disable=SC2034 # for those who read this file
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly source
readonly directory=${KILN_KERNELS_DIR:-/var/tmp/kiln-kernels}

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}

# The archive is the one that this machine uses: its address comes from apt.
archive() {
    # shellcheck disable=SC2016 # apt expands these
    apt-get indextargets --format '$(LABEL)|$(COMPONENT)|$(REPO_URI)' 'Created-By: Packages' |
        awk -F'|' '$1 == "Debian" && $2 == "main" && !uri { uri = $3 } END { print uri }'
}

# bootstrap TARGET SUITE OPTION...: what packages unpack to, made once.
bootstrap() {
    local target=$1 suite=$2
    shift 2
    [[ ! -e $target/.done ]] || return 0
    rm -rf "$target"
    # A snapshot of the archive may be old.
    mmdebstrap --mode=root --aptopt='Acquire::Check-Valid-Until "false"' \
        --aptopt='Acquire::Languages "none"' --dpkgopt='path-exclude=/usr/share/doc/*' \
        "$@" "$suite" "$target" "$(archive)"
    touch "$target/.done"
}

triple_of() {
    case $1 in
    amd64) echo x86_64-unknown-linux-gnu ;;
    arm64) echo aarch64-unknown-linux-gnu ;;
    *) fail "nothing is known of $1" ;;
    esac
}

# cargo_for ARCH ARGUMENT...: in this tree, for programs of another architecture with
# Rust's own target if it is installed with a cross compiler, otherwise in a root of
# Debian sid, whose packages have both.
cargo_for() {
    local triple linker
    triple=$(triple_of "$1")
    shift
    linker=${triple%%-*}-linux-gnu-gcc
    if [[ $triple == "$(uname -m)"-* ]]; then
        (cd "$source" && cargo "$@" 2>&1)
        return
    fi
    local variable=${triple^^}
    local -x CARGO_BUILD_TARGET=$triple
    local -x "CARGO_TARGET_${variable//-/_}_LINKER=$linker" "CC_${triple//-/_}=$linker"
    if [[ -d $(rustc --print target-libdir --target "$triple") ]] && command -v "$linker" >/dev/null; then
        (cd "$source" && cargo "$@" 2>&1)
    else
        # Everything is compiled anew: without optimisation.
        compile_in_debian "cargo $* --config 'profile.dev.package.\"*\".opt-level=0'"
    fi
}

compile_in_debian() {
    local root=$directory/compiler
    local packages=cargo,rustc,gcc,libc6-dev,gcc-aarch64-linux-gnu,libc6-dev-arm64-cross
    bootstrap "$root" sid --variant=minbase --architectures=amd64,arm64 \
        --include="$packages,libstd-rust-dev:arm64" >&2
    mkdir -p "$root/source" "$root/cargo/registry" "$root/target"
    (cd "$source" && cargo fetch --locked --quiet >&2)
    # shellcheck disable=SC2016 # expanded inside
    unshare --mount --propagation private bash -euc '
        root=$1 source=$2 registry=$3
        mount --bind "$source" "$root/source"
        mount -o remount,bind,ro "$root/source"
        mount --bind "$registry" "$root/cargo/registry"
        mount -t proc proc "$root/proc"
        mount --bind /dev "$root/dev"
        exec chroot "$root" env -u RUSTUP_TOOLCHAIN -u RUSTC HOME=/cargo PATH=/usr/bin:/bin \
            CARGO_HOME=/cargo CARGO_NET_OFFLINE=true CARGO_TARGET_DIR=/target \
            sh -c "cd /source && $4 2>&1"
    ' _ "$root" "$source" "${CARGO_HOME:-$HOME/.cargo}/registry" "$1" |
        sed "s#(/target#($root/target#"
}

# bootstrap_kernel ARCH SUITE: a kernel with its modules and a few programs, unpacked
# in $directory/ARCH-SUITE.
bootstrap_kernel() {
    local tree=$directory/$1-$2
    bootstrap "$tree" "$2" --variant=extract --architectures="$1" \
        --include="busybox-static,coreutils,dash,uidmap,util-linux,linux-image-$1"
    # Since Debian 13 packages have nothing outside /usr.
    [[ -e $tree/lib/modules ]] || ln -s usr/lib "$tree/lib"
    depmod -b "$tree" "$(version_of "$tree")"
}

version_of() {
    basename "$1"/lib/modules/*
}

# kernel_of TREE: since Debian 14 the kernel is beside its modules.
kernel_of() {
    local version file
    version=$(version_of "$1")
    for file in "$1/boot/vmlinuz-$version" "$1/lib/modules/$version/vmlinuz"; do
        [[ ! -e $file ]] || printf '%s\n' "$file"
    done
}

# add_modules TREE TARGET NAME...: these and what they need, uncompressed in
# TARGET/modules, with their order in `list`.
add_modules() {
    local tree=$1 target=$2/modules version name file
    shift 2
    version=$(version_of "$tree")
    mkdir -p "$target"
    for name in "$@"; do
        modprobe -d "$tree" -S "$version" --show-depends "$name" 2>/dev/null |
            sed -n 's/^insmod \([^ ]*\).*/\1/p'
    done | awk '!seen[$0]++' >"$target/list"
    while read -r file; do
        case $file in
        *.xz) xz -dc "$file" >"$target/$(basename "$file" .xz)" ;;
        *) cp "$file" "$target/" ;;
        esac
    done <"$target/list"
    sed -i 's#.*/##; s#\.xz$##' "$target/list"
}

# pack DIRECTORY: an initramfs beside it.
pack() {
    (cd "$1" && find . | cpio --quiet -o -H newc -R 0:0) >"$1.cpio"
}

# boot ARCH TREE INITRAMFS PARAMETERS OPTION...: until the guest turns itself off; what
# it says goes to standard output.
boot() {
    local tree=$2 initramfs=$3 parameters=$4 machine console
    case $1 in
    amd64) machine=(qemu-system-x86_64 -machine q35 -cpu max) console=ttyS0 ;;
    arm64) machine=(qemu-system-aarch64 -machine virt -cpu cortex-a72) console=ttyAMA0 ;;
    *) fail "no machine for $1" ;;
    esac
    shift 4
    timeout --foreground "${KILN_KERNELS_LIMIT:-3600}" \
        "${machine[@]}" -accel tcg,thread=multi -smp "${KILN_KERNELS_CPUS:-2}" \
        -nodefaults -nographic -no-reboot -serial stdio \
        -kernel "$(kernel_of "$tree")" -initrd "$initramfs" \
        -append "console=$console panic=-1 loglevel=4 $parameters" "$@" </dev/null
}

# disk FILE FORMAT OPTION...: QEMU's options for a disk that need not survive a crash.
disk() {
    local name
    name=$(basename "$1" | tr -c 'a-z0-9\n' -)
    printf '%s\n' -drive "file=$1,format=$2,if=none,id=$name,cache=unsafe" \
        -device "virtio-blk-pci,drive=$name"
}
