case "${ARCH:-}" in
    arm64 | aarch64)
        echo "error: block-device-gpt cannot boot on $ARCH; use block-device-efi" >&2
        exit 1
        ;;
esac
export DIB_BLOCK_DEVICE=gpt
