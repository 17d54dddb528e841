#!/bin/sh
# Devices are there: what elements brought takes over.
/bin/bash /lib/ramdisk/init </dev/console >/dev/console 2>&1
