//! Every environment variable that kiln itself reads, once.
//!
//! The reference in `docs/cli.md` and in the manual page is made from this
//! table. Variables of elements are in the elements' own metadata.

/// An environment variable.
#[derive(Debug)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What an unset variable means.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
}

const fn variable(name: &'static str, default: &'static str, help: &'static str) -> Variable {
    Variable {
        name,
        default,
        help,
    }
}

/// All of them, by name.
#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("ARCH", "the host's", "Architecture of the image, in Debian's names. Option: `--arch`, `-a`."),
    variable("CLEAR_ENV", "", "`1` starts hooks with HOME, LOGNAME, PATH, TERM and USER alone. Option: `--clear-env`, `-c`."),
    variable("DIB_BLOCK_DEVICE_CONFIG", "the element's", "Partitions and filesystems, as YAML or as `file://PATH`."),
    variable("DIB_CHECKSUM", "0", "`1` writes MD5 and SHA-256 sums beside the outputs; `md5` or `sha256` only that. Option: `--checksum`."),
    variable("DIB_DEBUG_TRACE", "0", "Trace level of hooks; the option `-x` adds to it."),
    variable("DIB_DEFAULT_INSTALLTYPE", "source", "`source` or `package`. Option: `--install-type`."),
    variable("DIB_IMAGE_CACHE", "~/.cache/image-create", "Where downloads and base roots are kept. Option: `--image-cache`."),
    variable("DIB_IMAGE_EXTRA_SIZE", "", "MiB to add to the size that the content needs. Option: `--extra-size`."),
    variable("DIB_IMAGE_SIZE", "", "Size of the image in GiB. Option: `--image-size`."),
    variable("DIB_JOURNAL_SIZE", "64", "Size of the ext4 journal in MiB. Option: `--journal-size`."),
    variable("DIB_MIN_TMPFS", "2", "GiB; builds happen in memory if twice this much is there. Option: `--min-tmpfs`."),
    variable("DIB_NO_TIMESTAMP", "0", "`1` prints lines without the time; the log file keeps it."),
    variable("DIB_NO_TMPFS", "0", "Anything but `0` never builds in memory. Option: `--no-tmpfs`."),
    variable("DIB_OFFLINE", "", "Anything builds from the image cache alone. Option: `--offline`."),
    variable("DIB_QUIET", "", "`1` prints nothing but errors; `0` prints even if `disk-image-create` has a log file."),
    variable("ELEMENTS_PATH", "", "Directories of elements, separated by `:`. Earlier ones win; the bundled elements come last."),
    variable("FS_TYPE", "ext4", "Type of the root filesystem, where its configuration does not say."),
    variable("IMAGE_ELEMENT", "", "Elements that `disk-image-create` puts before those of its arguments."),
    variable("IMAGE_NAME", "image", "Name of the output. Option: `--output`, `-o`."),
    variable("KILN_BUILD_TIMEOUT", "", "Time that the whole build may take. Option: `--build-timeout`."),
    variable("KILN_DISK", "", "Size that the build's directory may have. Option: `--disk`."),
    variable("KILN_JOBS", "one for each CPU", "Threads that work at the same time. Option: `--jobs`."),
    variable("KILN_LOG", "", "Diagnostics for developers on standard error, such as `debug` or `kiln::sandbox=trace`."),
    variable("KILN_MEMORY", "", "Memory that hooks may use together. Option: `--memory`."),
    variable("KILN_NETWORK", "host", "Network of hooks: `host` or `none`. Option: `--network`."),
    variable("KILN_PASS_ENV", "", "Variables that hooks get although they look like secrets, separated by commas. Option: `--pass-env`."),
    variable("KILN_PROCESSES", "4096", "Processes and threads that hooks may have at a time. Option: `--processes`."),
    variable("KILN_SHOW", "", "Paths that hooks of the host see although they would be hidden, separated by `:`. Option: `--show`."),
    variable("KILN_TIMEOUT", "", "Time that one hook may take. Option: `--timeout`."),
    variable("MAX_ONLINE_RESIZE", "", "Blocks up to which the root filesystem can grow while mounted. Option: `--max-online-resize`."),
    variable("NO_COLOR", "", "Anything prints without colour."),
    variable("OVERWRITE_OLD_IMAGE", "0", "`1` replaces older outputs instead of renaming them. Option: `--overwrite`."),
    variable("POSIXLY_CORRECT", "", "If set, the options of `disk-image-create` end at the first element."),
    variable("QEMU_IMG_OPTIONS", "", "Options for the writer of a format. Option: `--format-options`, `--qemu-img-options`."),
    variable("ROOT_LABEL", "", "Label of the root filesystem. Option: `--root-label`."),
    variable("RUN_PARTS_REGEX", "^[0-9A-Za-z_-]+$", "Names that hooks must have to run."),
    variable("SKIP_BASE", "0", "`1` leaves out the element `base`. Option: `--no-base`, `-n`."),
    variable("TMPDIR", "", "Where builds happen that do not happen in memory; `TMP_DIR` is the second choice, `/tmp` the third."),
    variable("break", "", "Points at which the build stops for a shell, separated by commas: `before-PHASE`, `after-PHASE`, `after-error`."),
    variable("break_cmd", "bash", "Command that runs at break points instead of a shell."),
];

#[cfg(test)]
mod tests {
    use super::VARIABLES;

    #[test]
    fn variables_are_sorted_and_unique() {
        assert!(VARIABLES.windows(2).all(|pair| pair[0].name < pair[1].name));
    }
}
