//! The faces `disk-image-create` and `ramdisk-image-create`.
//!
//! The same options, variables and rules as diskimage-builder's commands of
//! these names; what happens is what `kiln build` does.

use std::path::PathBuf;

use super::Context;
use super::build;
use super::failure::Failure;
use super::getopt::{self, Flag, Part};
use super::given::Given;
use super::render::Options;

/// Columns of the help text.
const WIDTH: usize = 88;

/// An option of `disk-image-create`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Id {
    /// `-a`
    Arch,
    /// `-o`
    Output,
    /// `-t`
    Types,
    /// `-x`
    Trace,
    /// `-u`
    Uncompressed,
    /// `-c`
    ClearEnvironment,
    /// `-n`
    SkipBase,
    /// `-p`
    Packages,
    /// `-h`
    Help,
    /// `--version`
    Version,
    /// `--checksum`
    Checksum,
    /// `--image-size`
    ImageSize,
    /// `--image-extra-size`
    ExtraSize,
    /// `--image-cache`
    ImageCache,
    /// `--max-online-resize`
    MaxOnlineResize,
    /// `--mkfs-options`
    MkfsOptions,
    /// `--mkfs-journal-size`
    JournalSize,
    /// `--min-tmpfs`
    MinTmpfs,
    /// `--no-tmpfs`
    NoTmpfs,
    /// `--offline`
    Offline,
    /// `--qemu-img-options`
    QemuImgOptions,
    /// `--root-label`
    RootLabel,
    /// `--ramdisk-element`
    RamdiskElement,
    /// `--install-type`
    InstallType,
    /// `--docker-target`
    DockerTarget,
    /// `--logfile`
    Logfile,
}

const fn flag(
    id: Id,
    short: Option<char>,
    long: Option<&'static str>,
    value: Option<&'static str>,
    help: &'static str,
) -> Flag<Id> {
    // DIB documents these two but its parser does not know them.
    let added = matches!(id, Id::ExtraSize | Id::JournalSize);
    let flag = Flag::new(id, short, long, value, help);
    Flag { added, ..flag }
}

/// Every option, in the order of the help text.
#[rustfmt::skip]
pub static FLAGS: &[Flag<Id>] = &[
    flag(Id::Arch, Some('a'), None, Some("ARCH"),
        "Builds for this architecture, such as amd64, arm64 or armhf (default: the host's, or $ARCH)."),
    flag(Id::Output, Some('o'), None, Some("NAME"),
        "Names the output; it may contain a path, and each format adds its suffix (default: image, or $IMAGE_NAME)."),
    flag(Id::Types, Some('t'), None, Some("TYPE,..."),
        "Writes these formats: qcow2, raw, vmdk, vhd, vhdx, vdi, tar, tgz, squashfs, docker, oci, aci (default: qcow2). When repeated, the last one counts."),
    flag(Id::Packages, Some('p'), None, Some("PACKAGE,..."),
        "Installs these packages in the image as well; may be repeated."),
    flag(Id::SkipBase, Some('n'), None, None,
        "Leaves out the element base, which is otherwise implied."),
    flag(Id::Uncompressed, Some('u'), None, None,
        "Leaves qcow2 images uncompressed: faster, and much larger."),
    flag(Id::Trace, Some('x'), None, None,
        "Traces hooks; twice traces more of them."),
    flag(Id::ClearEnvironment, Some('c'), None, None,
        "Starts from an environment of ELEMENTS_PATH, HOME, LOGNAME, PATH, TERM and USER alone."),
    flag(Id::Checksum, None, Some("checksum"), None,
        "Writes files with MD5 and SHA-256 sums beside the outputs."),
    flag(Id::ImageSize, None, Some("image-size"), Some("GIB"),
        "Makes the image this large, instead of as large as its content needs; fractions are allowed."),
    flag(Id::ExtraSize, None, Some("image-extra-size"), Some("MIB"),
        "Adds this much space to the size that the content needs."),
    flag(Id::JournalSize, None, Some("mkfs-journal-size"), Some("MIB"),
        "Gives the journal of ext4 this size (default: 64)."),
    flag(Id::MkfsOptions, None, Some("mkfs-options"), Some("OPTIONS"),
        "Applies options in the notation of mke2fs to the root filesystem; they override kiln's own."),
    flag(Id::MaxOnlineResize, None, Some("max-online-resize"), Some("BLOCKS"),
        "Reserves what the root filesystem needs to grow to this many blocks while it is mounted."),
    flag(Id::RootLabel, None, Some("root-label"), Some("LABEL"),
        "Labels the root filesystem (default: cloudimg-rootfs, or img-rootfs for xfs)."),
    flag(Id::QemuImgOptions, None, Some("qemu-img-options"), Some("KEY=VALUE,..."),
        "Passes options to the writer of the format, in the notation of qemu-img."),
    flag(Id::ImageCache, None, Some("image-cache"), Some("DIR"),
        "Keeps downloads and base roots here (default: ~/.cache/image-create, or $DIB_IMAGE_CACHE)."),
    flag(Id::Offline, None, Some("offline"), None,
        "Builds from the image cache alone, without the network."),
    flag(Id::NoTmpfs, None, Some("no-tmpfs"), None,
        "Never builds in memory."),
    flag(Id::MinTmpfs, None, Some("min-tmpfs"), Some("GIB"),
        "Builds in memory if twice this much is there (default: 2)."),
    flag(Id::InstallType, None, Some("install-type"), Some("TYPE"),
        "Installs from source or package where elements offer both (default: source)."),
    flag(Id::DockerTarget, None, Some("docker-target"), Some("REPO:TAG"),
        "Names and tags the image of type docker."),
    flag(Id::RamdiskElement, None, Some("ramdisk-element"), Some("ELEMENT"),
        "Builds ramdisks with this element (default: ramdisk)."),
    flag(Id::Logfile, None, Some("logfile"), Some("FILE"),
        "Appends every line to this file, and prints none unless $DIB_QUIET is 0."),
    flag(Id::Version, None, Some("version"), None, "Prints the version."),
    flag(Id::Help, Some('h'), Some("help"), None, "Prints this text."),
];

/// The text of `--help`, of `disk-image-create` or of `ramdisk-image-create`.
pub fn help(program: &str, ramdisk: bool) -> String {
    let (what, example) = if ramdisk {
        (
            "Builds a kernel and a ramdisk, NAME.kernel and NAME.initramfs, from elements. Of\n\
             the formats only archives are written besides. Needs no root and no other programs.",
            "-a amd64 -o deploy debian-minimal deploy-baremetal",
        )
    } else {
        (
            "Builds a disk image from elements. Needs no root and no other programs.",
            "-a amd64 -o debian -t qcow2,raw vm debian-minimal",
        )
    };
    format!(
        "Usage: {program} [OPTION]... ELEMENT...\n\
         \n\
         {what}\n\
         \n\
         {}\n\
         Elements are looked up in the directories of $ELEMENTS_PATH, then among the\n\
         bundled ones, which `kiln elements list` shows. Options and elements may be mixed;\n\
         long options may be abbreviated.\n\
         \n\
         Example: {program} {example}\n",
        getopt::help(FLAGS, WIDTH),
    )
}

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// The help text.
    Help,
    /// The version.
    Version,
    /// A build, and the file to log to.
    Build(Box<Given>, Option<PathBuf>),
}

/// Reads a command line of `disk-image-create`, without the program's name.
pub fn parse(arguments: &[String], posix: bool) -> Result<Asked, Failure> {
    let mut given = Given {
        inherit_elements: true,
        arguments: arguments.to_vec(),
        ..Given::default()
    };
    let mut log_file = None;
    for part in getopt::parse(FLAGS, arguments, posix)? {
        let (id, value) = match part {
            Part::Operand(element) => {
                given.elements.push(element);
                continue;
            }
            Part::Option(id, value) => (id, value.unwrap_or_default()),
        };
        match id {
            // As in DIB these act at once: options after them do not matter,
            // while mistakes anywhere in the line have already been reported.
            Id::Help => return Ok(Asked::Help),
            Id::Version => return Ok(Asked::Version),
            Id::Arch => given.arch = Some(value),
            Id::Output => given.image_name = Some(value.into()),
            Id::Types => given.image_types = vec![value],
            Id::Trace => given.trace = given.trace.saturating_add(1),
            Id::Uncompressed => given.uncompressed = true,
            Id::ClearEnvironment => given.clear_environment = true,
            Id::SkipBase => given.skip_base = true,
            Id::Packages => given.packages.push(value),
            Id::Checksum => given.checksum = true,
            Id::ImageSize => given.image_size = Some(value),
            Id::ExtraSize => given.image_extra_size = Some(value),
            Id::ImageCache => given.image_cache = Some(value.into()),
            Id::MaxOnlineResize => given.max_online_resize = Some(value),
            Id::MkfsOptions => given.mkfs_options = Some(value),
            Id::JournalSize => given.journal_size = Some(value),
            Id::MinTmpfs => given.min_tmpfs = Some(value),
            Id::NoTmpfs => given.no_tmpfs = true,
            Id::Offline => given.offline = true,
            Id::QemuImgOptions => given.qemu_img_options = Some(value),
            Id::RootLabel => given.root_label = Some(value),
            Id::RamdiskElement => given.variables.push(("RAMDISK_ELEMENT", value)),
            Id::InstallType => given.install_type = Some(value),
            Id::DockerTarget => given.variables.push(("DOCKER_TARGET", value)),
            Id::Logfile => log_file = Some(value.into()),
        }
    }
    Ok(Asked::Build(Box::new(given), log_file))
}

/// Runs `disk-image-create`.
pub fn disk_image_create(
    program: &str,
    arguments: &[String],
    context: &mut Context,
) -> Result<u8, Failure> {
    run(program, arguments, false, context)
}

/// Runs `ramdisk-image-create`.
pub fn ramdisk_image_create(
    program: &str,
    arguments: &[String],
    context: &mut Context,
) -> Result<u8, Failure> {
    run(program, arguments, true, context)
}

fn run(
    program: &str,
    arguments: &[String],
    ramdisk: bool,
    context: &mut Context,
) -> Result<u8, Failure> {
    match read(program, arguments, context)? {
        Asked::Help => context.printer.data(help(program, ramdisk)),
        Asked::Version => context.printer.line(env!("CARGO_PKG_VERSION")),
        Asked::Build(mut given, log_file) => {
            given.ramdisk = ramdisk;
            let request = given.into_request(&context.caller)?;
            let options = Options::choose(&context.caller, false, false, log_file, true);
            return build::execute(request, &options, &mut context.printer);
        }
    }
    Ok(0)
}

fn read(program: &str, arguments: &[String], context: &Context) -> Result<Asked, Failure> {
    let posix = context
        .caller
        .environment
        .contains_key(std::ffi::OsStr::new("POSIXLY_CORRECT"));
    parse(arguments, posix).map_err(|failure| {
        if failure.hints.is_empty() {
            failure.hint(format!("`{program} --help` lists the options"))
        } else {
            failure
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(line: &str) -> Given {
        let words = shlex::split(line).expect("test lines are well quoted");
        match parse(&words, false) {
            Ok(Asked::Build(given, _)) => Given {
                arguments: Vec::new(),
                ..*given
            },
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn every_option_reaches_its_field() {
        let base = || Given {
            inherit_elements: true,
            ..Given::default()
        };
        let text = |value: &str| Some(value.to_owned());
        for (line, expected) in [
            (
                "-a arm64",
                Given {
                    arch: text("arm64"),
                    ..base()
                },
            ),
            (
                "-o out/name",
                Given {
                    image_name: Some("out/name".into()),
                    ..base()
                },
            ),
            (
                "-t raw -t qcow2,tar",
                Given {
                    image_types: vec!["qcow2,tar".into()],
                    ..base()
                },
            ),
            (
                "-p a,b -p c",
                Given {
                    packages: vec!["a,b".into(), "c".into()],
                    ..base()
                },
            ),
            ("-xx -x", Given { trace: 3, ..base() }),
            (
                "-u",
                Given {
                    uncompressed: true,
                    ..base()
                },
            ),
            (
                "-c",
                Given {
                    clear_environment: true,
                    ..base()
                },
            ),
            (
                "-n",
                Given {
                    skip_base: true,
                    ..base()
                },
            ),
            (
                "--checksum",
                Given {
                    checksum: true,
                    ..base()
                },
            ),
            (
                "--image-size 5",
                Given {
                    image_size: text("5"),
                    ..base()
                },
            ),
            (
                "--image-s=5",
                Given {
                    image_size: text("5"),
                    ..base()
                },
            ),
            (
                "--image-extra-size 7",
                Given {
                    image_extra_size: text("7"),
                    ..base()
                },
            ),
            (
                "--image-cache d",
                Given {
                    image_cache: Some("d".into()),
                    ..base()
                },
            ),
            (
                "--max-online-resize 9",
                Given {
                    max_online_resize: text("9"),
                    ..base()
                },
            ),
            (
                "--mkfs-options '-i 8192 -O ^x'",
                Given {
                    mkfs_options: text("-i 8192 -O ^x"),
                    ..base()
                },
            ),
            (
                "--mkfs -m0",
                Given {
                    mkfs_options: text("-m0"),
                    ..base()
                },
            ),
            (
                "--mkfs-journal-size 8",
                Given {
                    journal_size: text("8"),
                    ..base()
                },
            ),
            (
                "--min-tmpfs 4",
                Given {
                    min_tmpfs: text("4"),
                    ..base()
                },
            ),
            (
                "--no-tmpfs",
                Given {
                    no_tmpfs: true,
                    ..base()
                },
            ),
            (
                "--offline",
                Given {
                    offline: true,
                    ..base()
                },
            ),
            (
                "--qemu-img-options a=b",
                Given {
                    qemu_img_options: text("a=b"),
                    ..base()
                },
            ),
            (
                "--root-label L",
                Given {
                    root_label: text("L"),
                    ..base()
                },
            ),
            (
                "--install-type package",
                Given {
                    install_type: text("package"),
                    ..base()
                },
            ),
            (
                "vm -n debian-minimal",
                Given {
                    skip_base: true,
                    elements: vec!["vm".into(), "debian-minimal".into()],
                    ..base()
                },
            ),
            (
                "-- -n",
                Given {
                    elements: vec!["-n".into()],
                    ..base()
                },
            ),
            (
                "--ramdisk-element r",
                Given {
                    variables: vec![("RAMDISK_ELEMENT", "r".into())],
                    ..base()
                },
            ),
            (
                "--docker-target a:b",
                Given {
                    variables: vec![("DOCKER_TARGET", "a:b".into())],
                    ..base()
                },
            ),
        ] {
            assert_eq!(build(line), expected, "{line}");
        }
    }

    #[test]
    fn help_and_version_win_over_what_follows_but_not_over_mistakes() {
        let parse = |line: &str| {
            parse(
                &shlex::split(line).expect("test lines are well quoted"),
                false,
            )
        };
        assert_eq!(parse("-h --version"), Ok(Asked::Help));
        assert_eq!(parse("vm --version -h"), Ok(Asked::Version));
        assert_eq!(parse("-n --help vm"), Ok(Asked::Help));
        assert!(parse("-h --nonsense").is_err());
    }

    #[test]
    fn the_log_file_is_no_part_of_the_build() {
        let words = ["--logfile=build.log".to_owned(), "vm".to_owned()];
        let Ok(Asked::Build(given, log)) = parse(&words, false) else {
            panic!("a build")
        };
        assert_eq!(log, Some(PathBuf::from("build.log")));
        assert_eq!(given.arguments, words);
    }

    #[test]
    fn every_option_has_its_own_letter_and_name() {
        for (index, flag) in FLAGS.iter().enumerate() {
            for other in &FLAGS[index + 1..] {
                assert!(flag.short.is_none() || flag.short != other.short);
                assert!(flag.long.is_none() || flag.long != other.long);
                assert_ne!(flag.id, other.id);
            }
        }
    }

    #[test]
    fn help_fits_its_width() {
        for (program, ramdisk) in [("disk-image-create", false), ("ramdisk-image-create", true)] {
            for line in help(program, ramdisk).lines() {
                assert!(line.len() <= WIDTH, "{line}");
            }
        }
    }
}
