#!/bin/sh
# There is no root to wait for.
# shellcheck disable=SC2034 # dracut reads these
root=ramdisk
# shellcheck disable=SC2034
rootok=1
