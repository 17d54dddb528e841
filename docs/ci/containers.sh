#!/bin/sh
# Run lines for docker and podman; kiln is mounted from this machine. Any image with bash
# and coreutils does.
set -eu
kiln=$(command -v kiln)

# docker, as it comes: root, mode `chroot`.
docker_root() {
    docker run --rm -v "$kiln:/usr/local/bin/kiln:ro" -v "$PWD:/output" -w /output debian:12-slim \
        `# tried as: docker root` \
        kiln build vm debian-minimal -o debian -t qcow2
}

# docker with SYS_ADMIN: mode `root`, with namespaces around hooks. AppArmor's profile of
# docker refuses mounts whatever the capabilities are.
docker_sys_admin() {
    docker run --rm --cap-add SYS_ADMIN --security-opt apparmor=unconfined \
        -v "$kiln:/usr/local/bin/kiln:ro" -v "$PWD:/output" -w /output debian:12-slim \
        `# tried as: docker root with SYS_ADMIN` \
        kiln build vm debian-minimal -o debian -t qcow2
}

# podman, as it comes, run by anybody: root of the container, mode `root`.
podman_root() {
    podman run --rm -v "$kiln:/usr/local/bin/kiln:ro" -v "$PWD:/output" -w /output debian:12-slim \
        `# tried as: podman root` \
        kiln build vm debian-minimal -o debian -t qcow2
}

# podman as another user, without any privilege: mode `single`. SYS_CHROOT is for the
# filter, which refuses `chroot` to containers without it; the user does not get it.
podman_user() {
    podman run --rm --user 1234 --cap-drop all --cap-add SYS_CHROOT --security-opt no-new-privileges \
        -e HOME=/output -v "$kiln:/usr/local/bin/kiln:ro" -v "$PWD:/output:U" -w /output debian:12-slim \
        `# tried as: pod user where user namespaces are allowed` \
        kiln build vm debian-minimal -o debian -t qcow2
}

"$@"
