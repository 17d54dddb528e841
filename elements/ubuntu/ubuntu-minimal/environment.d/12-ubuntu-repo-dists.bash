export DIB_UBUNTU_MIRROR_DISTS=${DIB_UBUNTU_MIRROR_DISTS:-updates,security,backports}

# The bootstrap takes packages in their newest version at once. Not from backports:
# apt takes nothing from there that was not asked for.
KILN_BOOTSTRAP_EXTRA_SUITES=
for dist in ${DIB_UBUNTU_MIRROR_DISTS//,/ }; do
    if [ "$dist" != backports ]; then
        KILN_BOOTSTRAP_EXTRA_SUITES+="${KILN_BOOTSTRAP_EXTRA_SUITES:+ }$DIB_RELEASE-$dist"
    fi
done
unset dist
export KILN_BOOTSTRAP_EXTRA_SUITES
export KILN_BOOTSTRAP_INCLUDE="${KILN_BOOTSTRAP_INCLUDE:+$KILN_BOOTSTRAP_INCLUDE,}systemd-sysv,busybox,sudo,python3"
