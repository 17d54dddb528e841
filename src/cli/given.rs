//! What the arguments of a build said, before the environment fills the gaps.
//!
//! Every face that starts builds fills a [`Given`]; turning it into a
//! [`Request`] is the one place that knows DIB's variables and defaults.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::confine::Confine;
use super::failure::Failure;
use super::nearest::nearest;
use crate::build::place::{Memory, OnDisk};
use crate::build::plan::host_arch;
use crate::build::request::Request;
use crate::sandbox::network::Network;

/// Image types that kiln writes.
pub const TYPES: [&str; 12] = crate::sink::NAMES;
/// Identities that can be asked for instead of the probed one.
pub use crate::sandbox::choice::MODES;
/// Variables that survive when a build starts with a cleared environment: without
/// ELEMENTS_PATH, which no option of DIB's stands for, the elements are not found.
const KEPT: [&str; 6] = ["ELEMENTS_PATH", "HOME", "LOGNAME", "PATH", "TERM", "USER"];

/// The process that asks: its environment and directory.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// Its environment.
    pub environment: BTreeMap<OsString, OsString>,
    /// Its current directory.
    pub current_dir: PathBuf,
}

/// The arguments of a build; what was not said is `None`, `false` or empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// Elements in order.
    pub elements: Vec<String>,
    /// Whether elements of an inherited `IMAGE_ELEMENT` come first, as in DIB.
    pub inherit_elements: bool,
    /// Build a ramdisk with the element that `RAMDISK_ELEMENT` names.
    pub ramdisk: bool,
    /// Output name.
    pub image_name: Option<PathBuf>,
    /// Output formats; each may still be a comma list.
    pub image_types: Vec<String>,
    /// Architecture.
    pub arch: Option<String>,
    /// Do not imply `base`.
    pub skip_base: bool,
    /// Packages; each may still be a comma list.
    pub packages: Vec<String>,
    /// Leave qcow2 uncompressed.
    pub uncompressed: bool,
    /// Start hooks with almost no environment.
    pub clear_environment: bool,
    /// `key=value,…` for image writers.
    pub qemu_img_options: Option<String>,
    /// Write checksum files.
    pub checksum: bool,
    /// Image size in GiB.
    pub image_size: Option<String>,
    /// Extra size in MiB.
    pub image_extra_size: Option<String>,
    /// Journal size in MiB.
    pub journal_size: Option<String>,
    /// Blocks up to which the filesystem may grow.
    pub max_online_resize: Option<String>,
    /// mke2fs options.
    pub mkfs_options: Option<String>,
    /// Label of the root filesystem.
    pub root_label: Option<String>,
    /// Image cache.
    pub image_cache: Option<PathBuf>,
    /// Never use the network.
    pub offline: bool,
    /// Never build in memory.
    pub no_tmpfs: bool,
    /// GiB of memory needed to build in memory.
    pub min_tmpfs: Option<String>,
    /// `source` or `package`.
    pub install_type: Option<String>,
    /// How many times tracing was asked for.
    pub trace: u32,
    /// Directories searched for elements before those of `ELEMENTS_PATH`.
    pub elements_path: Vec<PathBuf>,
    /// Identity.
    pub mode: Option<String>,
    /// What hooks may use and see.
    pub confine: Confine,
    /// Replace outputs instead of renaming the old ones.
    pub overwrite: bool,
    /// Threads.
    pub jobs: Option<NonZeroUsize>,
    /// Variables that the face sets for hooks.
    pub variables: Vec<(&'static str, String)>,
    /// The arguments as they were written.
    pub arguments: Vec<String>,
}

impl Caller {
    /// This process.
    pub fn current() -> Result<Self, Failure> {
        let current_dir = env::current_dir().map_err(|error| {
            Failure::new(format!("cannot tell the current directory: {error}"))
                .hint("change to a directory that exists")
        })?;
        Ok(Self {
            environment: env::vars_os().collect(),
            current_dir,
        })
    }

    /// A variable that is set and not empty.
    pub fn var(&self, name: &str) -> Option<&OsStr> {
        self.environment
            .get(OsStr::new(name))
            .map(OsString::as_os_str)
            .filter(|value| !value.is_empty())
    }

    /// A variable that is set, not empty, and text.
    pub fn text(&self, name: &str) -> Result<Option<String>, Failure> {
        self.var(name)
            .map(|value| {
                value.to_str().map(str::to_owned).ok_or_else(|| {
                    Failure::new(format!("variable `{name}` is not valid UTF-8"))
                        .hint(format!("unset `{name}` or correct its value"))
                })
            })
            .transpose()
    }

    /// The image cache: `DIB_IMAGE_CACHE`, else `~/.cache/image-create`.
    pub fn image_cache(&self) -> Result<PathBuf, Failure> {
        if let Some(cache) = self.var("DIB_IMAGE_CACHE") {
            return Ok(self.current_dir.join(cache));
        }
        match self.var("HOME") {
            Some(home) => Ok(self.current_dir.join(home).join(".cache/image-create")),
            None => Err(
                Failure::new("no place for the image cache: `HOME` is not set").hint(
                    "set `HOME`, or name a directory with `--image-cache` or `DIB_IMAGE_CACHE`",
                ),
            ),
        }
    }

    /// Directories of `ELEMENTS_PATH` in order.
    pub fn elements_path(&self) -> Result<Vec<PathBuf>, Failure> {
        let Some(list) = self.var("ELEMENTS_PATH") else {
            return Ok(Vec::new());
        };
        list.as_bytes()
            .split(|&byte| byte == b':')
            .map(|part| match part {
                [] => Err(Failure::new(format!(
                    "`ELEMENTS_PATH` has an empty entry: `{}`",
                    list.display()
                ))
                .hint("remove the superfluous `:`; the current directory is written `.`")),
                part => Ok(self.current_dir.join(OsStr::from_bytes(part))),
            })
            .collect()
    }
}

impl Given {
    /// Fills what was not said from the environment and checks every value.
    pub fn into_request(self, caller: &Caller) -> Result<Request, Failure> {
        let mut caller = caller.clone();
        if self.clear_environment || caller.var("CLEAR_ENV").is_some_and(|value| value == "1") {
            caller
                .environment
                .retain(|name, _| KEPT.iter().any(|kept| name == kept));
        }
        let mut exported: BTreeMap<&str, OsString> = BTreeMap::new();
        let mut export = |name: &'static str, value: &OsStr| {
            exported.insert(name, value.to_owned());
        };

        let mut elements = Vec::new();
        if self.inherit_elements
            && let Some(inherited) = caller.text("IMAGE_ELEMENT")?
        {
            elements.extend(inherited.split_whitespace().map(str::to_owned));
        }
        elements.extend(self.elements);
        if elements.is_empty() {
            return Err(
                Failure::new("at least one distribution root element must be specified").hint(
                    "for a bootable Debian: `vm debian-minimal`; `kiln elements list` shows all",
                ),
            );
        }

        let image_types = image_types(&self.image_types)?;
        let image_name = image_name(self.image_name, &caller, &image_types)?;
        export("IMAGE_NAME", image_name.as_os_str());

        let arch = match self.arch {
            Some(arch) if arch.is_empty() => {
                return Err(Failure::new("the architecture is empty")
                    .hint("name one, such as `amd64` or `arm64`, or leave the option out"));
            }
            Some(arch) => Some(arch),
            None => caller.text("ARCH")?,
        };
        if let Some(arch) = &arch {
            known_arch(arch)?;
            export("ARCH", OsStr::new(arch));
        }

        let skip_base = self.skip_base || caller.var("SKIP_BASE").is_some_and(|value| value == "1");
        let checksum =
            self.checksum || caller.var("DIB_CHECKSUM").is_some_and(|value| value != "0");
        let confinement = self.confine.resolve(&caller)?;
        let unplugged = confinement.network == Network::None;
        let offline = self.offline || unplugged || caller.var("DIB_OFFLINE").is_some();
        let no_tmpfs = self.no_tmpfs || no_tmpfs(&caller);
        for (said, name) in [
            (self.skip_base, "SKIP_BASE"),
            (self.checksum, "DIB_CHECKSUM"),
            (self.offline || unplugged, "DIB_OFFLINE"),
            (self.no_tmpfs, "DIB_NO_TMPFS"),
            (self.overwrite, "OVERWRITE_OLD_IMAGE"),
        ] {
            if said {
                export(name, OsStr::new("1"));
            }
        }

        let mut setting = |given: Option<String>, option: &'static str, name: &'static str| {
            Ok::<_, Failure>(match given {
                Some(text) => {
                    export(name, OsStr::new(&text));
                    Some(Setting { text, from: option })
                }
                None => caller.text(name)?.map(|text| Setting { text, from: name }),
            })
        };
        let image_size = setting(self.image_size, "--image-size", "DIB_IMAGE_SIZE")?;
        let extra_size = setting(
            self.image_extra_size,
            "--image-extra-size",
            "DIB_IMAGE_EXTRA_SIZE",
        )?;
        let journal_size = setting(self.journal_size, "--mkfs-journal-size", "DIB_JOURNAL_SIZE")?;
        let max_online_resize = setting(
            self.max_online_resize,
            "--max-online-resize",
            "MAX_ONLINE_RESIZE",
        )?;
        let min_tmpfs = setting(self.min_tmpfs, "--min-tmpfs", "DIB_MIN_TMPFS")?;
        let root_label = setting(self.root_label, "--root-label", "ROOT_LABEL")?;
        let qemu_img_options = setting(
            self.qemu_img_options,
            "--qemu-img-options",
            "QEMU_IMG_OPTIONS",
        )?;
        let install_type = setting(
            self.install_type,
            "--install-type",
            "DIB_DEFAULT_INSTALLTYPE",
        )?;
        if let Some(cache) = &self.image_cache {
            export(
                "DIB_IMAGE_CACHE",
                caller.current_dir.join(cache).as_os_str(),
            );
        }

        let inherited_trace = match caller.text("DIB_DEBUG_TRACE")? {
            Some(text) => whole::<u32>(
                &Setting {
                    text,
                    from: "DIB_DEBUG_TRACE",
                },
                "a level",
            )?,
            None => 0,
        };
        let debug_trace = inherited_trace.saturating_add(self.trace);
        if self.trace > 0 {
            export("DIB_DEBUG_TRACE", OsStr::new(&debug_trace.to_string()));
        }
        if let Some(jobs) = self.jobs {
            export("KILN_JOBS", OsStr::new(&jobs.to_string()));
        }
        for (name, value) in &self.variables {
            export(name, OsStr::new(value));
        }

        let ramdisk = match self
            .variables
            .iter()
            .find(|(name, _)| *name == "RAMDISK_ELEMENT")
        {
            _ if !self.ramdisk => None,
            Some((_, element)) => Some(element.clone()),
            None => Some(
                caller
                    .text("RAMDISK_ELEMENT")?
                    .unwrap_or_else(|| "ramdisk".to_owned()),
            ),
        };

        let mut elements_path: Vec<PathBuf> = self
            .elements_path
            .iter()
            .map(|path| caller.current_dir.join(path))
            .collect();
        elements_path.extend(caller.elements_path()?);

        let mode = match self.mode.as_deref() {
            None | Some("auto") => None,
            Some(mode) if MODES.contains(&mode) => self.mode,
            Some(mode) => {
                return Err(Failure::new(format!("unknown mode `{mode}`"))
                    .hint(format!("known are auto, {}", MODES.join(", "))));
            }
        };

        let image_cache = match self.image_cache {
            Some(cache) => Some(cache),
            None => caller.var("DIB_IMAGE_CACHE").map(PathBuf::from),
        };
        let request = Request {
            elements,
            image_name,
            image_types,
            arch,
            skip_base,
            ramdisk,
            packages: comma_list(&self.packages),
            compress: !self.uncompressed,
            qemu_img_options: qemu_img_options.map_or(Ok(Vec::new()), |text| pairs(&text))?,
            checksum,
            image_size: image_size
                .map(|size| checked_size(size, true))
                .transpose()?,
            image_extra_size: extra_size
                .map(|size| checked_size(size, false))
                .transpose()?,
            journal_size: journal_size
                .map(|size| checked_size(size, false))
                .transpose()?,
            max_online_resize: max_online_resize
                .map(|text| whole(&text, "a number of blocks"))
                .transpose()?,
            mkfs_options: self.mkfs_options.unwrap_or_default(),
            root_label: root_label.map(|label| label.text),
            image_cache: image_cache.map(|cache| caller.current_dir.join(cache)),
            offline,
            no_tmpfs,
            min_tmpfs: gib(min_tmpfs)?,
            install_type: install_type.map_or_else(|| "source".to_owned(), |kind| kind.text),
            debug_trace,
            elements_path,
            mode,
            confinement,
            environment: BTreeMap::new(),
            arguments: self.arguments,
            current_dir: caller.current_dir,
        };
        let mut environment = caller.environment;
        environment.extend(
            exported
                .into_iter()
                .map(|(name, value)| (name.into(), value)),
        );
        Ok(Request {
            environment,
            ..request
        })
    }
}

/// The architecture to look elements up for: `ARCH`, else the host's.
pub fn arch(caller: &Caller) -> Result<String, Failure> {
    Ok(caller.text("ARCH")?.unwrap_or_else(host_arch))
}

/// Architectures of the distributions that elements are for, in Debian's names and
/// in the kernel's, which some elements take as well.
pub const ARCHES: [&str; 22] = [
    "amd64", "arm64", "armel", "armhf", "i386", "loong64", "mips64el", "mipsel", "powerpc",
    "ppc64", "ppc64el", "ppc64le", "riscv64", "s390x", "x86", "x86_64", "aarch64", "arm", "armv7l",
    "i686", "ppc", "s390",
];

/// Refuses an architecture that no distribution has, before anything is fetched.
fn known_arch(arch: &str) -> Result<(), Failure> {
    if ARCHES.contains(&arch) {
        return Ok(());
    }
    let failure = Failure::new(format!("unknown architecture `{arch}`"));
    Err(match nearest(arch, ARCHES) {
        Some(meant) => failure.hint(format!("did you mean `{meant}`?")),
        None => failure.hint("for example: `amd64`, `arm64`, `armhf`, `ppc64el`, `riscv64`"),
    })
}

/// A value and the option or variable that it came from.
struct Setting {
    text: String,
    from: &'static str,
}

/// Splits comma lists and drops empty parts.
fn comma_list(lists: &[String]) -> Vec<String> {
    lists
        .iter()
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

fn image_types(given: &[String]) -> Result<Vec<String>, Failure> {
    if given.is_empty() {
        return Ok(vec!["qcow2".to_owned()]);
    }
    let supported = || format!("supported are {}", TYPES.join(", "));
    let mut types: Vec<String> = Vec::new();
    for kind in comma_list(given) {
        if !TYPES.contains(&kind.as_str()) {
            let failure = Failure::new(format!("unknown image type `{kind}`"));
            // As qemu-img calls it, which DIB passes such words on to.
            let meant = if kind == "vpc" {
                Some("vhd")
            } else {
                nearest(&kind, TYPES)
            };
            return Err(match meant {
                Some(meant) => failure.hint(format!("did you mean `{meant}`?")),
                None => failure,
            }
            .hint(supported()));
        }
        if !types.contains(&kind) {
            types.push(kind);
        }
    }
    if types.is_empty() {
        return Err(Failure::new("the list of image types is empty").hint(supported()));
    }
    Ok(types)
}

/// The output name: as given, from `IMAGE_NAME`, or `image`; and as in DIB, without
/// the suffix of the only format.
fn image_name(
    given: Option<PathBuf>,
    caller: &Caller,
    types: &[String],
) -> Result<PathBuf, Failure> {
    let name = given
        .or_else(|| caller.var("IMAGE_NAME").map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from("image"));
    output_name(name, types)
}

/// A name that outputs can have: one of a file, without the suffix that the only
/// format would add again.
pub fn output_name(name: PathBuf, types: &[String]) -> Result<PathBuf, Failure> {
    let invalid = |why: &str| {
        Failure::new(format!("output name `{}` {why}", name.display()))
            .hint("give a file name, without the format's suffix, as in `-o images/debian`")
    };
    if name.as_os_str().is_empty() {
        return Err(invalid("is empty"));
    }
    let ends_in_directory =
        name.file_name().is_none() || name.as_os_str().as_bytes().ends_with(b"/");
    if ends_in_directory {
        return Err(invalid("is a directory"));
    }
    if let [only] = types {
        let suffix = format!(".{only}");
        if let Some(stem) = name.as_os_str().as_bytes().strip_suffix(suffix.as_bytes()) {
            let stem = Path::new(OsStr::from_bytes(stem));
            if stem.file_name().is_some() && !stem.as_os_str().as_bytes().ends_with(b"/") {
                return Ok(stem.to_owned());
            }
        }
    }
    Ok(name)
}

fn pairs(setting: &Setting) -> Result<Vec<(String, String)>, Failure> {
    options(&setting.text, &setting.from)
}

/// Options of image writers: `key=value`, separated by commas. `from` is where
/// they were given, for messages.
pub fn options(
    text: &str,
    from: &(impl std::fmt::Display + ?Sized),
) -> Result<Vec<(String, String)>, Failure> {
    comma_list(&[text.to_owned()])
        .into_iter()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Failure::new(format!(
                "`{from}` has `{pair}` where `key=value` is expected"
            ))
            .hint("write it as in `compat=1.1,cluster_size=65536`")),
        })
        .collect()
}

fn whole<N: std::str::FromStr>(setting: &Setting, what: &str) -> Result<N, Failure> {
    setting.text.trim().parse().map_err(|_| {
        Failure::new(format!(
            "`{}` is `{}`, which is not {what}",
            setting.from, setting.text
        ))
        .hint("give a whole number, without a unit")
    })
}

/// Whether the environment wants builds on disk.
fn no_tmpfs(caller: &Caller) -> bool {
    caller.var("DIB_NO_TMPFS").is_some_and(|value| value != "0")
}

/// The GiB without which no build is made in memory.
fn gib(setting: Option<Setting>) -> Result<u64, Failure> {
    setting.map_or(Ok(2), |setting| whole(&setting, "a number of GiB"))
}

/// Whether a build without options is made in memory, as far as that decides.
pub fn in_memory(caller: &Caller) -> Result<Result<(), OnDisk>, Failure> {
    let from = "DIB_MIN_TMPFS";
    let min_tmpfs = gib(caller.text(from)?.map(|text| Setting { text, from }))?;
    Ok(Memory::of_host().serves(no_tmpfs(caller), min_tmpfs))
}

/// Checks that a size is a positive number and returns it as it was written.
fn checked_size(setting: Setting, fraction: bool) -> Result<String, Failure> {
    let Setting { text, from } = setting;
    let text = text.trim();
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let valid = match text.split_once('.') {
        Some((whole, part)) => {
            fraction && digits(whole) && digits(part) && !(whole.is_empty() && part.is_empty())
        }
        None => !text.is_empty() && digits(text),
    };
    // The longest that could mean anything is far below; it keeps parsers of
    // the number free of overflow.
    if valid && text.len() <= 15 {
        return Ok(text.to_owned());
    }
    let unit = if fraction { "GiB" } else { "MiB" };
    Err(Failure::new(format!(
        "`{from}` is `{text}`, which is not a size in {unit}"
    ))
    .hint(if fraction {
        "give a number without a unit, such as `5` or `2.5`"
    } else {
        "give a whole number without a unit, such as `512`"
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(variables: &[(&str, &str)]) -> Caller {
        Caller {
            environment: variables
                .iter()
                .map(|&(name, value)| (name.into(), value.into()))
                .collect(),
            current_dir: PathBuf::from("/here"),
        }
    }

    fn given() -> Given {
        Given {
            elements: vec!["vm".to_owned()],
            ..Given::default()
        }
    }

    fn env(request: &Request, name: &str) -> Option<String> {
        let value = request.environment.get(OsStr::new(name))?;
        Some(value.to_string_lossy().into_owned())
    }

    #[test]
    fn defaults_are_those_of_dib() {
        let request = given().into_request(&caller(&[])).expect("valid");
        assert_eq!(request.image_name, Path::new("image"));
        assert_eq!(request.image_types, ["qcow2"]);
        assert_eq!(request.install_type, "source");
        assert_eq!(request.min_tmpfs, 2);
        assert!(request.compress && !request.offline && !request.skip_base && !request.no_tmpfs);
        assert_eq!(request.arch, None);
        assert_eq!(env(&request, "IMAGE_NAME").as_deref(), Some("image"));
        assert_eq!(env(&request, "ARCH"), None);
    }

    #[test]
    fn variables_fill_what_the_arguments_left_open() {
        let caller = caller(&[
            ("ARCH", "arm64"),
            ("IMAGE_NAME", "out/name"),
            ("SKIP_BASE", "1"),
            ("DIB_CHECKSUM", "sha256"),
            ("DIB_OFFLINE", "0"),
            ("DIB_NO_TMPFS", "yes"),
            ("DIB_MIN_TMPFS", "8"),
            ("DIB_IMAGE_SIZE", "2.5"),
            ("DIB_IMAGE_EXTRA_SIZE", "100"),
            ("DIB_JOURNAL_SIZE", "16"),
            ("MAX_ONLINE_RESIZE", "1000"),
            ("ROOT_LABEL", "r"),
            ("QEMU_IMG_OPTIONS", "a=1,b=2"),
            ("DIB_DEFAULT_INSTALLTYPE", "package"),
            ("DIB_IMAGE_CACHE", "cache"),
            ("DIB_DEBUG_TRACE", "1"),
            ("ELEMENTS_PATH", "mine:/theirs"),
        ]);
        let request = Given {
            trace: 1,
            ..given()
        }
        .into_request(&caller)
        .expect("valid");
        assert_eq!(request.arch.as_deref(), Some("arm64"));
        assert_eq!(request.image_name, Path::new("out/name"));
        assert!(request.skip_base && request.checksum && request.no_tmpfs);
        assert!(request.offline, "DIB takes any value that is not empty");
        assert_eq!(request.min_tmpfs, 8);
        assert_eq!(request.image_size.as_deref(), Some("2.5"));
        assert_eq!(request.image_extra_size.as_deref(), Some("100"));
        assert_eq!(request.journal_size.as_deref(), Some("16"));
        assert_eq!(request.max_online_resize, Some(1000));
        assert_eq!(request.root_label.as_deref(), Some("r"));
        assert_eq!(
            request.qemu_img_options,
            [
                ("a".to_owned(), "1".to_owned()),
                ("b".to_owned(), "2".to_owned())
            ]
        );
        assert_eq!(request.install_type, "package");
        assert_eq!(
            request.image_cache.as_deref(),
            Some(Path::new("/here/cache"))
        );
        assert_eq!(request.debug_trace, 2);
        assert_eq!(env(&request, "DIB_DEBUG_TRACE").as_deref(), Some("2"));
        assert_eq!(env(&request, "DIB_CHECKSUM").as_deref(), Some("sha256"));
        assert_eq!(
            request.elements_path,
            [Path::new("/here/mine"), Path::new("/theirs")]
        );
    }

    #[test]
    fn arguments_win_over_variables_and_are_exported() {
        let caller = caller(&[
            ("ARCH", "arm64"),
            ("IMAGE_NAME", "x"),
            ("DIB_IMAGE_SIZE", "9"),
        ]);
        let request = Given {
            arch: Some("amd64".to_owned()),
            image_name: Some("y".into()),
            image_size: Some("5".to_owned()),
            ..given()
        }
        .into_request(&caller)
        .expect("valid");
        assert_eq!(request.image_size.as_deref(), Some("5"));
        for (name, value) in [
            ("ARCH", "amd64"),
            ("IMAGE_NAME", "y"),
            ("DIB_IMAGE_SIZE", "5"),
        ] {
            assert_eq!(env(&request, name).as_deref(), Some(value));
        }
    }

    #[test]
    fn the_only_formats_suffix_is_not_doubled() {
        for (name, types, expected) in [
            ("debian.qcow2", "qcow2", "debian"),
            ("debian.raw", "qcow2", "debian.raw"),
            ("debian.qcow2", "qcow2,raw", "debian.qcow2"),
            ("a/.raw", "raw", "a/.raw"),
            (".raw", "raw", ".raw"),
        ] {
            let request = Given {
                image_name: Some(name.into()),
                image_types: vec![types.to_owned()],
                ..given()
            }
            .into_request(&caller(&[]))
            .expect("valid");
            assert_eq!(request.image_name, Path::new(expected), "{name} as {types}");
        }
    }

    #[test]
    fn a_cleared_environment_keeps_only_the_essentials() {
        let caller = caller(&[
            ("HOME", "/h"),
            ("PATH", "/bin"),
            ("ARCH", "arm64"),
            ("DIB_X", "1"),
            ("ELEMENTS_PATH", "/e"),
        ]);
        let request = Given {
            clear_environment: true,
            ..given()
        }
        .into_request(&caller)
        .expect("valid");
        let names: Vec<_> = request.environment.keys().collect();
        assert_eq!(names, ["ELEMENTS_PATH", "HOME", "IMAGE_NAME", "PATH"]);
        assert_eq!(request.elements_path, [PathBuf::from("/e")]);
        assert_eq!(request.arch, None);
    }

    #[test]
    fn inherited_elements_come_first_where_dib_has_it_so() {
        let caller = caller(&[("IMAGE_ELEMENT", "a b")]);
        let request = Given {
            inherit_elements: true,
            ..given()
        }
        .into_request(&caller)
        .expect("valid");
        assert_eq!(request.elements, ["a", "b", "vm"]);
        let request = given().into_request(&caller).expect("valid");
        assert_eq!(request.elements, ["vm"]);
    }

    #[test]
    fn wrong_values_are_refused_with_advice() {
        let types = |text: &str| Given {
            image_types: vec![text.to_owned()],
            ..given()
        };
        let cases = [
            (
                Given::default(),
                "at least one distribution root element must be specified",
            ),
            (types("qcwo2"), "unknown image type `qcwo2`"),
            (types("vpc"), "unknown image type `vpc`"),
            (types(","), "the list of image types is empty"),
            (
                Given {
                    image_size: Some("5G".into()),
                    ..given()
                },
                "`--image-size` is `5G`, which is not a size in GiB",
            ),
            (
                Given {
                    image_extra_size: Some("1.5".into()),
                    ..given()
                },
                "`--image-extra-size` is `1.5`, which is not a size in MiB",
            ),
            (
                Given {
                    min_tmpfs: Some("-1".into()),
                    ..given()
                },
                "`--min-tmpfs` is `-1`, which is not a number of GiB",
            ),
            (
                Given {
                    qemu_img_options: Some("compat".into()),
                    ..given()
                },
                "`--qemu-img-options` has `compat` where `key=value` is expected",
            ),
            (
                Given {
                    image_name: Some("dir/".into()),
                    ..given()
                },
                "output name `dir/` is a directory",
            ),
            (
                Given {
                    mode: Some("x".into()),
                    ..given()
                },
                "unknown mode `x`",
            ),
        ];
        for (given, message) in cases {
            let failure = given.into_request(&caller(&[])).expect_err(message);
            assert_eq!(failure.message, message);
            assert!(!failure.hints.is_empty(), "{message} has no hint");
        }
        let failure = given()
            .into_request(&caller(&[("ELEMENTS_PATH", "a:")]))
            .expect_err("empty entry");
        assert_eq!(failure.message, "`ELEMENTS_PATH` has an empty entry: `a:`");
    }
}
