//! What the arguments of a build said, before the environment fills the gaps.
//!
//! Every face that starts builds fills a [`Given`]; turning it into a
//! [`Request`] is the one place that knows DIB's variables and defaults.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::caller::Caller;
use super::confine::Confine;
use super::failure::Failure;
use super::values::{
    MODES, Setting, Size, checked_size, comma_list, image_types, known_arch, output_name, pairs,
    whole,
};
use crate::build::place::{Memory, OnDisk};
use crate::build::request::Request;
use crate::sandbox::network::Network;

/// Variables that survive when a build starts with a cleared environment: without
/// ELEMENTS_PATH, which no option of DIB's stands for, the elements are not found.
const KEPT: [&str; 6] = ["ELEMENTS_PATH", "HOME", "LOGNAME", "PATH", "TERM", "USER"];

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
    /// Wait until outputs are on their disk.
    pub fsync: bool,
    /// Threads.
    pub jobs: Option<NonZeroUsize>,
    /// Variables that the face sets for hooks.
    pub variables: Vec<(&'static str, String)>,
    /// The arguments as they were written.
    pub arguments: Vec<String>,
}

/// What an option or else a variable gives, checked.
struct Settings {
    image_size: Option<String>,
    image_extra_size: Option<String>,
    journal_size: Option<String>,
    qemu_img_options: Vec<(String, String)>,
    max_online_resize: Option<u64>,
    min_tmpfs: u64,
    root_label: Option<String>,
    install_type: String,
}

/// Variables that hooks get because of options; what was not said comes from the caller.
struct Exports<'a> {
    caller: &'a Caller,
    list: BTreeMap<&'static str, OsString>,
}

impl Exports<'_> {
    fn add(&mut self, name: &'static str, value: impl AsRef<OsStr>) {
        self.list.insert(name, value.as_ref().to_owned());
    }

    /// The caller's environment with these variables.
    fn environment(self) -> BTreeMap<OsString, OsString> {
        let mut environment = self.caller.environment.clone();
        let list = self.list.into_iter();
        environment.extend(list.map(|(name, value)| (name.into(), value)));
        environment
    }

    /// A value from an option, which is exported, or else from the variable.
    fn setting(
        &mut self,
        given: Option<&str>,
        option: &'static str,
        name: &'static str,
    ) -> Result<Option<Setting>, Failure> {
        match given {
            Some(text) => {
                self.add(name, text);
                let text = text.to_owned();
                Ok(Some(Setting { text, from: option }))
            }
            None => Ok(self
                .caller
                .text(name)?
                .map(|text| Setting { text, from: name })),
        }
    }
}

impl Given {
    /// Fills what was not said from the environment and checks every value.
    pub fn into_request(self, caller: &Caller) -> Result<Request, Failure> {
        let caller = self.cleared(caller);
        let mut exports = Exports {
            caller: &caller,
            list: BTreeMap::new(),
        };
        let elements = self.all_elements(&caller)?;
        let image_types = image_types(&self.image_types)?;
        let image_name = image_name(self.image_name.clone(), &caller, &image_types)?;
        exports.add("IMAGE_NAME", &image_name);
        let arch = self.arch(&mut exports)?;
        let confinement = self.confine.clone().resolve(&caller)?;
        let unplugged = confinement.network == Network::None;
        self.export_flags(unplugged, &mut exports);
        let debug_trace = self.debug_trace(&mut exports)?;
        let image_cache = self.image_cache(&mut exports);
        if let Some(jobs) = self.jobs {
            exports.add("KILN_JOBS", jobs.to_string());
        }
        let ramdisk = self.ramdisk(&caller)?;
        let mode = self.mode()?;
        let elements_path = self.elements_path(&caller)?;
        let settings = self.settings(&mut exports)?;
        // The face's own come last: they win.
        for (name, value) in &self.variables {
            exports.add(name, value);
        }
        let environment = exports.environment();
        let is_one = |name| caller.var(name).is_some_and(|value| value == "1");
        Ok(Request {
            elements,
            image_name,
            image_types,
            arch,
            skip_base: self.skip_base || is_one("SKIP_BASE"),
            ramdisk,
            packages: packages(&self.packages),
            compress: !self.uncompressed,
            qemu_img_options: settings.qemu_img_options,
            checksum: self.checksum || caller.var("DIB_CHECKSUM").is_some_and(|value| value != "0"),
            image_size: settings.image_size,
            image_extra_size: settings.image_extra_size,
            journal_size: settings.journal_size,
            max_online_resize: settings.max_online_resize,
            mkfs_options: self.mkfs_options.unwrap_or_default(),
            root_label: settings.root_label,
            image_cache,
            offline: self.offline || unplugged || caller.var("DIB_OFFLINE").is_some(),
            no_tmpfs: self.no_tmpfs || no_tmpfs(&caller),
            min_tmpfs: settings.min_tmpfs,
            install_type: settings.install_type,
            debug_trace,
            elements_path,
            mode,
            confinement,
            environment,
            arguments: self.arguments,
            fsync: self.fsync,
            current_dir: caller.current_dir,
        })
    }

    /// Values that an option or else a variable gives.
    fn settings(&self, exports: &mut Exports<'_>) -> Result<Settings, Failure> {
        let mut size = |given: Option<&str>, option, name, size| {
            let setting = exports.setting(given, option, name)?;
            let checked = setting.map(|setting| checked_size(setting, size));
            checked.transpose()
        };
        let image_size = size(
            self.image_size.as_deref(),
            "--image-size",
            "DIB_IMAGE_SIZE",
            Size::Image,
        )?;
        let image_extra_size = size(
            self.image_extra_size.as_deref(),
            "--image-extra-size",
            "DIB_IMAGE_EXTRA_SIZE",
            Size::Extra,
        )?;
        let journal_size = size(
            self.journal_size.as_deref(),
            "--mkfs-journal-size",
            "DIB_JOURNAL_SIZE",
            Size::Journal,
        )?;
        let mut setting = |given: Option<&str>, option, name| exports.setting(given, option, name);
        let max_online_resize = setting(
            self.max_online_resize.as_deref(),
            "--max-online-resize",
            "MAX_ONLINE_RESIZE",
        )?;
        let min_tmpfs = setting(self.min_tmpfs.as_deref(), "--min-tmpfs", "DIB_MIN_TMPFS")?;
        let root_label = setting(self.root_label.as_deref(), "--root-label", "ROOT_LABEL")?;
        let qemu_img_options = setting(
            self.qemu_img_options.as_deref(),
            "--qemu-img-options",
            "QEMU_IMG_OPTIONS",
        )?;
        let install_type = setting(
            self.install_type.as_deref(),
            "--install-type",
            "DIB_DEFAULT_INSTALLTYPE",
        )?;
        Ok(Settings {
            image_size,
            image_extra_size,
            journal_size,
            qemu_img_options: qemu_img_options.map_or(Ok(Vec::new()), |text| pairs(&text))?,
            max_online_resize: max_online_resize
                .map(|text| whole(&text, "a number of blocks"))
                .transpose()?,
            min_tmpfs: gib(min_tmpfs)?,
            root_label: root_label.map(|label| label.text),
            install_type: install_type.map_or_else(|| "source".to_owned(), |kind| kind.text),
        })
    }

    /// The image cache, if one is named.
    fn image_cache(&self, exports: &mut Exports<'_>) -> Option<PathBuf> {
        const NAME: &str = "DIB_IMAGE_CACHE";
        let caller = exports.caller;
        if let Some(cache) = &self.image_cache {
            let cache = caller.current_dir.join(cache);
            exports.add(NAME, &cache);
            return Some(cache);
        }
        Some(caller.current_dir.join(caller.var(NAME)?))
    }

    /// Directories of elements: those of options come first.
    fn elements_path(&self, caller: &Caller) -> Result<Vec<PathBuf>, Failure> {
        let given = self.elements_path.iter();
        let mut path: Vec<PathBuf> = given.map(|path| caller.current_dir.join(path)).collect();
        path.extend(caller.elements_path()?);
        Ok(path)
    }

    /// The caller, with almost no environment where that was asked for.
    fn cleared(&self, caller: &Caller) -> Caller {
        let mut caller = caller.clone();
        if self.clear_environment || caller.var("CLEAR_ENV").is_some_and(|value| value == "1") {
            caller
                .environment
                .retain(|name, _| KEPT.iter().any(|kept| name == kept));
        }
        caller
    }

    fn all_elements(&self, caller: &Caller) -> Result<Vec<String>, Failure> {
        let mut elements = Vec::new();
        if self.inherit_elements
            && let Some(inherited) = caller.text("IMAGE_ELEMENT")?
        {
            elements.extend(inherited.split_whitespace().map(str::to_owned));
        }
        elements.extend(self.elements.iter().cloned());
        if elements.is_empty() {
            return Err(
                Failure::new("at least one distribution root element must be specified").hint(
                    "for a bootable Debian: `vm debian-minimal`; `kiln elements list` shows all",
                ),
            );
        }
        Ok(elements)
    }

    fn arch(&self, exports: &mut Exports<'_>) -> Result<Option<String>, Failure> {
        let arch = match &self.arch {
            Some(arch) if arch.is_empty() => {
                return Err(Failure::new("the architecture is empty")
                    .hint("name one, such as `amd64` or `arm64`, or leave the option out"));
            }
            Some(arch) => Some(arch.clone()),
            None => exports.caller.text("ARCH")?,
        };
        if let Some(arch) = &arch {
            known_arch(arch)?;
            exports.add("ARCH", arch);
        }
        Ok(arch)
    }

    fn export_flags(&self, unplugged: bool, exports: &mut Exports<'_>) {
        for (said, name) in [
            (self.skip_base, "SKIP_BASE"),
            (self.checksum, "DIB_CHECKSUM"),
            (self.offline || unplugged, "DIB_OFFLINE"),
            (self.no_tmpfs, "DIB_NO_TMPFS"),
            (self.overwrite, "OVERWRITE_OLD_IMAGE"),
        ] {
            if said {
                exports.add(name, "1");
            }
        }
    }

    /// The level of tracing: what is inherited, and what was asked for on top.
    fn debug_trace(&self, exports: &mut Exports<'_>) -> Result<u32, Failure> {
        let from = "DIB_DEBUG_TRACE";
        let inherited: u32 = match exports.caller.text(from)? {
            Some(text) => whole(&Setting { text, from }, "a level")?,
            None => 0,
        };
        let level = inherited.saturating_add(self.trace);
        if self.trace > 0 {
            exports.add(from, level.to_string());
        }
        Ok(level)
    }

    /// The element that makes the ramdisk, where one is built.
    fn ramdisk(&self, caller: &Caller) -> Result<Option<String>, Failure> {
        const NAME: &str = "RAMDISK_ELEMENT";
        if !self.ramdisk {
            return Ok(None);
        }
        let mut variables = self.variables.iter();
        if let Some((_, element)) = variables.find(|(name, _)| *name == NAME) {
            return Ok(Some(element.clone()));
        }
        let inherited = caller.text(NAME)?;
        Ok(Some(inherited.unwrap_or_else(|| "ramdisk".to_owned())))
    }

    fn mode(&self) -> Result<Option<String>, Failure> {
        match self.mode.as_deref() {
            None | Some("auto") => Ok(None),
            Some(mode) if MODES.contains(&mode) => Ok(Some(mode.to_owned())),
            Some(mode) => Err(Failure::new(format!("unknown mode `{mode}`"))
                .hint(format!("known are auto, {}", MODES.join(", ")))),
        }
    }
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

/// Packages of `-p`: DIB's shell splits its lists at blanks as well.
fn packages(lists: &[String]) -> Vec<String> {
    let words = lists.iter().flat_map(|list| list.split_whitespace());
    comma_list(&words.map(str::to_owned).collect::<Vec<_>>())
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

#[cfg(test)]
mod tests {
    use std::path::Path;

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
    fn sizes_and_packages_are_those_that_dib_takes() {
        for extra in ["0", "1.5", ".5", "100"] {
            let request = Given {
                image_extra_size: Some(extra.to_owned()),
                packages: vec!["a b,c".to_owned(), " d ,, e\n".to_owned()],
                ..given()
            }
            .into_request(&caller(&[]))
            .expect(extra);
            assert_eq!(request.image_extra_size.as_deref(), Some(extra));
            assert_eq!(request.packages, ["a", "b", "c", "d", "e"]);
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
        let with = |change: fn(&mut Given)| {
            let mut given = given();
            change(&mut given);
            given
        };
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
                with(|given| given.image_size = Some("5G".into())),
                "`--image-size` is `5G`, which is not a size in GiB",
            ),
            (
                with(|given| given.image_size = Some("0.0".into())),
                "`--image-size` is `0.0`, which is not a size in GiB",
            ),
            (
                with(|given| given.image_extra_size = Some("1.5M".into())),
                "`--image-extra-size` is `1.5M`, which is not a size in MiB",
            ),
            (
                with(|given| given.journal_size = Some("1.5".into())),
                "`--mkfs-journal-size` is `1.5`, which is not a size in MiB",
            ),
            (
                with(|given| given.min_tmpfs = Some("-1".into())),
                "`--min-tmpfs` is `-1`, which is not a number of GiB",
            ),
            (
                with(|given| given.qemu_img_options = Some("compat".into())),
                "`--qemu-img-options` has `compat` where `key=value` is expected",
            ),
            (
                with(|given| given.image_name = Some("dir/".into())),
                "output name `dir/` is a directory",
            ),
            (
                with(|given| given.mode = Some("x".into())),
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
