case "${ARCH:-}" in
    ppc64 | ppc64le | ppc64el)
        echo "error: block-device-efi-4k cannot boot on $ARCH, which has no UEFI; use block-device-gpt or block-device-mbr" >&2
        exit 1
        ;;
esac
export DIB_BLOCK_DEVICE=efi
