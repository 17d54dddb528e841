//! Every environment variable that kiln reads or gives to hooks, once.
//!
//! `docs/environment.md`, the tables in `docs/cli.md` and in the manual page, and
//! the warnings about misspelt names are made from this table. Variables that
//! only elements know are in the elements' own metadata.

use std::collections::BTreeSet;

use crate::element::{self, similar};

/// What the value of a variable is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Any text.
    Text,
    /// `1`, or nothing or `0`.
    Flag,
    /// A number.
    Number,
    /// A path; relative ones start at the current directory.
    Path,
    /// A list, separated by what its meaning says.
    List,
    /// A YAML document.
    Yaml,
    /// A shell command or function.
    Shell,
}

/// Who sets a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The caller, for kiln.
    Read,
    /// kiln, for hooks.
    Given,
    /// The caller, and hooks get what became of it.
    Both,
    /// The caller; read by DIB, and without meaning for kiln.
    Ignored,
}

/// An environment variable.
#[derive(Debug)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What its value is.
    pub kind: Type,
    /// Who sets it.
    pub role: Role,
    /// What an unset variable means.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
}

impl Variable {
    /// Since when it exists: kiln's own have its first version.
    pub fn since(&self) -> &'static str {
        let own = self.name.starts_with("KILN_")
            || ["NO_COLOR", "SOURCE_DATE_EPOCH", "POSIXLY_CORRECT"].contains(&self.name);
        if own { "kiln 0.1" } else { "DIB" }
    }

    /// Whether the caller's value counts for kiln.
    pub fn is_read(&self) -> bool {
        matches!(self.role, Role::Read | Role::Both)
    }
}

const fn variable(
    name: &'static str,
    kind: Type,
    role: Role,
    default: &'static str,
    help: &'static str,
) -> Variable {
    Variable {
        name,
        kind,
        role,
        default,
        help,
    }
}

use Role::{Both, Given, Ignored, Read};
use Type::{Flag, List, Number, Path, Shell, Text, Yaml};

/// All of them, by name.
#[rustfmt::skip]
pub static VARIABLES: &[Variable] = &[
    variable("ACI_MANIFEST", Path, Read, "", "Manifest of images of type aci; without it kiln writes one."),
    variable("ARCH", Text, Both, "the host's", "Architecture of the image, in Debian's names; on Debian and its kin that of the host's packages (`dpkg --print-architecture`). Option: `--arch`, `-a`."),
    variable("BUSYBOX", Path, Read, "that in PATH", "The busybox of a ramdisk."),
    variable("CLEAR_ENV", Flag, Read, "", "`1` starts hooks with ELEMENTS_PATH, HOME, LOGNAME, PATH, TERM and USER alone. Option: `--clear-env`, `-c`."),
    variable("DIB_ARGS", Text, Given, "", "The arguments of the command, separated by blanks."),
    variable("DIB_BAREMETAL_INITRD_PATTERN", Text, Read, "", "Names in `/boot` of which the newest is the ramdisk that is copied out of an image."),
    variable("DIB_BAREMETAL_KERNEL_PATTERN", Text, Read, "", "Names in `/boot` of which the newest is the kernel that is copied out of an image; counts only together with DIB_BAREMETAL_INITRD_PATTERN."),
    variable("DIB_BLOCK_DEVICE_CONFIG", Yaml, Both, "the element's", "Partitions and filesystems, as YAML or as `file://PATH`."),
    variable("DIB_BLOCK_DEVICE_PARAMS_YAML", Path, Read, "", "Parameters of `dib-block-device`. Option: `--params`."),
    variable("DIB_BLOCK_SIZE", Number, Both, "512", "Bytes of a sector: 512 or 4096. Counts before the configuration's."),
    variable("DIB_BOOT_LABEL", Text, Given, "", "Label of the filesystem at `/boot`, if there is one."),
    variable("DIB_CHECKSUM", Text, Both, "0", "`1` writes MD5 and SHA-256 sums beside the outputs; `md5` or `sha256` only that. Option: `--checksum`."),
    variable("DIB_DEBUG_TRACE", Number, Both, "0", "Trace level of hooks; the option `-x` adds to it."),
    variable("DIB_DEFAULT_INSTALLTYPE", Text, Both, "source", "`source` or `package`; hooks see it from `extra-data.d` on. Option: `--install-type`."),
    variable("DIB_ENV", Shell, Given, "", "All variables of the caller whose names begin with `DIB_`, as bash declares them."),
    variable("DIB_GZIP_BIN", Path, Ignored, "", "Program that compressed outputs of type tgz; kiln compresses them itself."),
    variable("DIB_IMAGE_CACHE", Path, Both, "~/.cache/image-create", "Where downloads and base roots are kept. Option: `--image-cache`."),
    variable("DIB_IMAGE_EXTRA_SIZE", Number, Both, "", "MiB to add to the size that the content needs. Option: `--extra-size`, `--image-extra-size`."),
    variable("DIB_IMAGE_FILENAME", Text, Both, "", "Set by nodepool; hooks get it as it is."),
    variable("DIB_IMAGE_NAME", Text, Both, "", "Set by nodepool; hooks get it as it is."),
    variable("DIB_IMAGE_SIZE", Number, Both, "", "Size of the image in GiB; hooks from `block-device.d` on see it in KiB. Option: `--image-size`."),
    variable("DIB_JOURNAL_SIZE", Number, Both, "64", "Size of the ext4 journal in MiB. Option: `--journal-size`, `--mkfs-journal-size`."),
    variable("DIB_KERNEL_VERSION", Text, Read, "the newest", "Kernel of a ramdisk."),
    variable("DIB_LIB_UDEV_ROOT", Path, Read, "", "Directory in the target below which a ramdisk's `lib/udev` is."),
    variable("DIB_LOCKFILES", Path, Both, "~/.cache/dib/lockfiles", "Directory for locks that elements share between builds; without a home that can be written to, `lockfiles` in the image cache."),
    variable("DIB_MIN_TMPFS", Number, Both, "2", "GiB; builds happen in memory if twice this much is there. Option: `--min-tmpfs`."),
    variable("DIB_MODULE_ROOT", Path, Read, "", "Directory in the target below which a ramdisk's `lib/modules` and `lib/firmware` are."),
    variable("DIB_MOUNTPOINTS", List, Given, "", "Mount points of the image, separated by `|`."),
    variable("DIB_NO_TIMESTAMP", Flag, Read, "0", "`1` prints lines without the time; the log file keeps it."),
    variable("DIB_NO_TMPFS", Flag, Both, "0", "Anything but `0` never builds in memory. Option: `--no-tmpfs`."),
    variable("DIB_OFFLINE", Flag, Both, "", "Anything builds from the image cache alone. Option: `--offline`."),
    variable("DIB_PYTHON_EXEC", Path, Both, "python3 in PATH", "Python for hooks of the host that call one; kiln itself needs none."),
    variable("DIB_PYTHON_LOGGING_CONFIG_FILE", Path, Ignored, "", "Configuration of DIB's Python logging; see KILN_LOG."),
    variable("DIB_QUIET", Flag, Read, "", "`1` prints nothing but errors; `0` prints even if `disk-image-create` has a log file."),
    variable("DIB_RELEASE", Text, Both, "the element's", "Release of the distribution; read by elements."),
    variable("DIB_ROOT_FSTYPE", Text, Given, "", "Type of the root filesystem."),
    variable("DIB_ROOT_LABEL", Text, Given, "", "Label of the root filesystem."),
    variable("DIB_SHOW_IMAGE_USAGE", Flag, Read, "0", "Report files and directories of 10 MiB and more when the size of the image is computed, largest first."),
    variable("DIB_SHOW_IMAGE_USAGE_FULL", Flag, Read, "0", "With DIB_SHOW_IMAGE_USAGE: report all files and directories."),
    variable("DOCKER_TARGET", Text, Both, "NAME:latest", "Name and tag of images of type docker and oci. Option: `--docker-target`."),
    variable("DUMP_CONFIG_GRAPH", Flag, Ignored, "", "Wrote the graph of the block devices; `kiln plan` shows the disk."),
    variable("ELEMENTS_DIR", Path, Read, "", "Elements that `dib-lint` checks."),
    variable("ELEMENTS_PATH", List, Both, "", "Directories of elements, separated by `:`. Earlier ones win; the bundled elements come last."),
    variable("EXTRA_DETACH", Shell, Ignored, "", "Command that ran when DIB detached devices; kiln has none to detach."),
    variable("EXTRA_UNMOUNT", Shell, Ignored, "", "Command that ran when DIB unmounted the image; mounts of a build end with it."),
    variable("FS_TYPE", Text, Both, "ext4", "Type of the root filesystem, where its configuration does not say."),
    variable("GENTOO_PROFILE", Text, Both, "", "Read by elements."),
    variable("HOME", Path, Both, "that in /etc/passwd", "Home of the caller; a path that is not absolute counts as none. `/root` inside of the target."),
    variable("IMAGE_BLOCK_DEVICE", Path, Given, "", "Stands for the disk, from `pre-finalise.d` on. Nothing is there: programs of boot loaders are answered by kiln."),
    variable("IMAGE_BLOCK_DEVICES", Shell, Given, "", "The same for all partitions, as the body of an array in bash."),
    variable("IMAGE_ELEMENT", List, Both, "", "Elements of the build, separated by blanks. From the caller: elements that `disk-image-create` puts before those of its arguments."),
    variable("IMAGE_ELEMENT_YAML", Yaml, Given, "", "The same with the directory of each."),
    variable("IMAGE_NAME", Text, Both, "image", "Name of the output. Option: `--output`, `-o`."),
    variable("IMAGE_TYPE", Text, Both, "qcow2", "First of the types that are written."),
    variable("KILN_BUILD_TIMEOUT", Text, Read, "", "Time that the whole build may take. Option: `--build-timeout`."),
    variable("KILN_DISK", Text, Read, "", "Size that the build's directory may have. Option: `--disk`."),
    variable("KILN_JOBS", Number, Read, "one for each CPU", "Threads that work at the same time. Option: `--jobs`."),
    variable("KILN_LAYERS", Path, Given, "", "Directory for layers of the target."),
    variable("KILN_LAYOUT", Path, Given, "", "What is known of the disk, as JSON."),
    variable("KILN_LOG", Text, Read, "", "Diagnostics for developers on standard error, such as `debug` or `kiln::sandbox=trace`."),
    variable("KILN_MEMORY", Text, Read, "", "Memory that hooks may use together. Option: `--memory`."),
    variable("KILN_NETWORK", Text, Read, "host", "Network of hooks: `host` or `none`. Option: `--network`."),
    variable("KILN_PASS_ENV", List, Read, "", "Variables that hooks get although they look like secrets, separated by commas. Option: `--pass-env`."),
    variable("KILN_PROCESSES", Number, Read, "4096", "Processes and threads that hooks may have at a time. Option: `--processes`."),
    variable("KILN_RECORD", Path, Given, "", "Directory in which helpers leave what kiln does later."),
    variable("KILN_SELINUX", Text, Read, "auto", "SELinux labels by the policy in the tree: `auto` where it has one that is not disabled, `on` (else an error) or `off`. Also for `kiln pack`."),
    variable("KILN_SHOW", List, Read, "", "Paths that hooks of the host see although they would be hidden, separated by `:`. Option: `--show`."),
    variable("KILN_TIMEOUT", Text, Read, "", "Time that one hook may take. Option: `--timeout`."),
    variable("KILN_UMASK", Text, Given, "", "The caller's umask, in octal. Hooks have 0022, so that the target is the same whoever builds it; those that write files for the caller take this one."),
    variable("KILN_VERSION", Text, Given, "", "Version of kiln."),
    variable("LC_ALL", Text, Given, "", "`C`."),
    variable("LIB_DIR", Path, Read, "", "Shell files that `dib-lint` checks as well."),
    variable("LOGNAME", Text, Given, "", "See USER."),
    variable("MAX_ONLINE_RESIZE", Number, Both, "", "Blocks up to which the root filesystem can grow while mounted. Option: `--max-online-resize`."),
    variable("NO_COLOR", Flag, Read, "", "Anything prints without colour."),
    variable("OVERWRITE_OLD_IMAGE", Flag, Both, "0", "`1` replaces older outputs instead of renaming them. Option: `--overwrite`."),
    variable("PATH", List, Both, "", "Outside, the caller's with kiln's helpers before and the directories of administrators behind it; inside, the helpers and the six directories of a system."),
    variable("POSIXLY_CORRECT", Flag, Read, "", "If set, the options of `disk-image-create` end at the first element."),
    variable("QEMU_IMG_OPTIONS", List, Read, "", "Options for the writer of a format; where nothing but raw images and archives is wanted, those of other formats are only warned about. Option: `--format-options`, `--qemu-img-options`."),
    variable("RAMDISK_ELEMENT", Text, Read, "ramdisk", "Element that builds ramdisks. Option: `--ramdisk-element`."),
    variable("ROOT_LABEL", Text, Read, "", "Label of the root filesystem. Option: `--root-label`."),
    variable("RUN_PARTS_REGEX", Text, Both, "^[0-9A-Za-z_-]+$", "Names that hooks must have to run."),
    variable("SKIP_BASE", Flag, Both, "0", "`1` leaves out the element `base`. Option: `--no-base`, `-n`."),
    variable("SOURCE_DATE_EPOCH", Number, Both, "", "Latest time in the image, in seconds since 1970, so that the same build gives the same bytes."),
    variable("TARGET_ROOT", Path, Given, "", "The target, in `root.d` and `cleanup.d`."),
    variable("TMPDIR", Path, Both, "", "Where builds happen that do not happen in memory; `TMP_DIR` is the second choice, `/tmp` the third. Hooks outside get a directory of the build."),
    variable("TMP_BUILD_DIR", Path, Given, "", "The build's own directory."),
    variable("TMP_DIR", Path, Read, "", "See TMPDIR."),
    variable("TMP_HOOKS_PATH", Path, Given, "", "The merged hooks of all elements; `/tmp/in_target.d` inside."),
    variable("TMP_IMAGE_DIR", Path, Given, "", "A directory for images that hooks make."),
    variable("TMP_MOUNT_PATH", Path, Given, "", "The target."),
    variable("USER", Text, Given, "", "`root`, outside as well: there it is the caller by another name, so that files which hooks give to `$USER` are the caller's."),
    variable("_LIB", Path, Given, "", "Directory of the shell files that elements source: `die`, `common-functions`, `img-functions`, `ramdisk-functions` and their defaults."),
    variable("break", List, Both, "", "Points at which the build stops for a shell, separated by commas: `before-PHASE`, `after-PHASE`, `after-error`."),
    variable("break_cmd", Shell, Both, "bash", "Command that runs at break points instead of a shell."),
    variable("break_outside_target", Flag, Both, "", "Anything runs the command of `after-error` on the host and not in the target."),
];

/// Families of variables: every name that begins so is an element's.
const FAMILIES: [&str; 4] = [
    "DIB_INSTALLTYPE_",
    "DIB_REPOLOCATION_",
    "DIB_REPOREF_",
    "DIB_REPOTYPE_",
];

/// Warnings about variables of the caller whose names look like slips of known
/// ones. What the build's own elements mention anywhere is never one.
pub fn misspelt<'a>(
    environment: impl Iterator<Item = &'a str>,
    hooks: &element::hooks::HookTree,
    library: &element::Library,
) -> Vec<String> {
    let own: BTreeSet<&str> = VARIABLES.iter().map(|variable| variable.name).collect();
    let unknown: Vec<&str> = environment
        .filter(|name| name.starts_with("DIB_") && !own.contains(name))
        .filter(|name| !FAMILIES.iter().any(|family| name.starts_with(family)))
        .collect();
    if unknown.is_empty() {
        return Vec::new();
    }
    // Only now are files read: most builds have no unknown variable.
    let mentioned = mentioned(hooks);
    let mut known: BTreeSet<String> = own.iter().map(|&name| name.to_owned()).collect();
    known.extend(mentioned.iter().cloned());
    for element in library.iter() {
        if let Ok(Some(metadata)) = element.metadata() {
            known.extend(metadata.variables.into_iter().map(|one| one.name));
        }
    }
    unknown
        .into_iter()
        .filter(|name| !known.contains(*name))
        .filter_map(|name| {
            let meant = similar::misspelt(name, known.iter().map(String::as_str))?;
            Some(format!(
                "variable `{name}` is known to nobody here; did you mean `{meant}`?"
            ))
        })
        .collect()
}

/// Names that begin with `DIB_` in the files of the elements.
fn mentioned(hooks: &element::hooks::HookTree) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, entry) in hooks.entries() {
        let text = match &entry.file.body {
            element::Body::Path(path) => std::fs::read(path).unwrap_or_default(),
            element::Body::Bytes(bytes) => bytes.to_vec(),
            element::Body::Link(_) | element::Body::Directory => continue,
        };
        let text = String::from_utf8_lossy(&text);
        let mut rest = text.as_ref();
        while let Some(at) = rest.find("DIB_") {
            rest = &rest[at..];
            let end = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            found.insert(rest[..end].to_owned());
            rest = &rest[end.max(4)..];
        }
    }
    found
}

/// The reference of all variables, in Markdown.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Environment variables\n\n\
         <!-- Generated by `kiln man --environment`; `KILN_UPDATE=1 cargo test --test cli` writes it anew. -->\n\n\
         Variables of elements are in their own pages (`kiln elements show NAME`). Values may hold\n\
         anything, newlines too: hooks get them byte for byte. A variable of the caller whose name\n\
         begins with `DIB_` and looks like a slip of a known one is warned about.\n",
    );
    let section = |title: &str, about: &str, wanted: &dyn Fn(&Variable) -> bool| {
        let mut text = format!(
            "\n## {title}\n\n{about}\n\n| variable | type | default | since | meaning |\n|---|---|---|---|---|\n"
        );
        for variable in VARIABLES.iter().filter(|variable| wanted(variable)) {
            let default = match variable.default {
                "" => String::new(),
                value => format!("`{value}`"),
            };
            text.push_str(&format!(
                "| `{}` | {} | {default} | {} | {} |\n",
                variable.name,
                match variable.kind {
                    Text => "text",
                    Flag => "flag",
                    Number => "number",
                    Path => "path",
                    List => "list",
                    Yaml => "YAML",
                    Shell => "shell",
                },
                variable.since(),
                variable.help
            ));
        }
        text
    };
    text.push_str(&section(
        "Read",
        "What a caller sets. Options of the command line count before them.",
        &|variable| variable.is_read(),
    ));
    text.push_str(&section(
        "Given to hooks",
        "What hooks find besides the caller's own variables. Hooks outside also find the bash\n\
         functions `die`, `_ps4` and `get_image_element_array`. They run in the directory in which\n\
         kiln was started, with a HOME of the caller's; hooks inside run in `/` as root, with the\n\
         HOME `/root`, and without TMPDIR and what changes shells and loaders.",
        &|variable| matches!(variable.role, Role::Given | Role::Both),
    ));
    text.push_str(&section(
        "Without meaning",
        "What DIB reads and kiln does not need; hooks get them as they are.",
        &|variable| variable.role == Role::Ignored,
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_sorted_and_unique() {
        assert!(VARIABLES.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    #[test]
    fn every_variable_is_in_the_page() {
        let page = markdown();
        for variable in VARIABLES {
            assert!(
                page.contains(&format!("| `{}` | ", variable.name)),
                "{}",
                variable.name
            );
            assert!(!variable.help.is_empty(), "{}", variable.name);
        }
    }
}
