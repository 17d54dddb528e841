#!/bin/bash
# dracut's module that runs /lib/ramdisk/init instead of mounting a root.

check() {
    return 255
}

depends() {
    echo bash base
}

# shellcheck disable=SC2154 # dracut sets moddir
install() {
    inst_hook cmdline 80 "$moddir/cmdline.sh"
    inst_hook pre-mount 50 "$moddir/run.sh"
}
