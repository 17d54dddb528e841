export DISTRO_NAME=ubuntu
export DIB_RELEASE=${DIB_RELEASE:-noble}
export DIB_DEBIAN_COMPONENTS=${DIB_DEBIAN_COMPONENTS:-main,universe}
export EFI_BOOT_DIR=EFI/ubuntu
if [ -z "${DIB_DISTRIBUTION_MIRROR:-}" ]; then
    case "$ARCH" in
        amd64 | x86_64 | i386) DIB_DISTRIBUTION_MIRROR=http://archive.ubuntu.com/ubuntu ;;
        *) DIB_DISTRIBUTION_MIRROR=http://ports.ubuntu.com/ubuntu-ports ;;
    esac
fi
export DIB_DISTRIBUTION_MIRROR
