//! `kiln build`: builds images.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgAction, Args, ValueHint};

use super::Context;
use super::confine::Confine;
use super::failure::Failure;
use super::given::Given;
use super::naming::Naming;
use super::printer::Printer;
use super::render::{Display, Options};
use super::values::{MODES, TYPES};
use crate::build::event::Event;
use crate::build::request::Request;

/// What image to build; shared by `build` and `plan`.
#[derive(Debug, Args)]
pub struct Image {
    /// Elements to build the image from, such as `vm debian-minimal`
    #[arg(value_name = "ELEMENT", required = true)]
    elements: Vec<String>,

    /// Name of the output; may contain a path, and each format adds its suffix
    ///
    /// Default: `image`, or IMAGE_NAME.
    #[arg(short, long, alias = "name", value_name = "NAME", value_hint = ValueHint::FilePath, help_heading = "Output")]
    output: Option<PathBuf>,

    /// Formats to write: qcow2, raw, vmdk, vhd, vhdx, vdi, tar, tgz, squashfs, docker, oci, aci
    ///
    /// Several are separated by commas, or the option is repeated. Default: qcow2.
    #[arg(short = 't', long = "type", value_name = "TYPE", help_heading = "Output", long_help = types_help())]
    types: Vec<String>,

    /// Leave qcow2 images uncompressed: faster, and much larger
    #[arg(short, long, help_heading = "Output")]
    uncompressed: bool,

    #[command(flatten)]
    naming: Naming,

    /// Options for the writer of a format, in the notation of qemu-img
    #[arg(
        long,
        alias = "qemu-img-options",
        value_name = "KEY=VALUE,…",
        help_heading = "Output"
    )]
    format_options: Option<String>,

    /// Architecture, such as amd64 or arm64
    ///
    /// Default: the host's, or ARCH.
    #[arg(short, long, value_name = "ARCH", help_heading = "Content")]
    arch: Option<String>,

    /// Packages to install as well, separated by commas; may be repeated
    #[arg(
        short,
        long = "package",
        alias = "packages",
        value_name = "PACKAGE",
        help_heading = "Content"
    )]
    packages: Vec<String>,

    /// Leave out the element `base`, which is otherwise implied
    #[arg(short, long, alias = "skip-base", help_heading = "Content")]
    no_base: bool,

    /// Search this directory for elements before those of ELEMENTS_PATH; may be repeated
    #[arg(
        short = 'E',
        long,
        value_name = "DIR",
        value_hint = ValueHint::DirPath,
        help_heading = "Content"
    )]
    elements_path: Vec<PathBuf>,

    /// Install from `source` or `package` where elements offer both
    ///
    /// Default: `source`, or DIB_DEFAULT_INSTALLTYPE.
    #[arg(long, value_name = "TYPE", help_heading = "Content")]
    install_type: Option<String>,

    /// Start hooks with ELEMENTS_PATH, HOME, LOGNAME, PATH, TERM and USER alone
    #[arg(short, long, help_heading = "Content")]
    clear_env: bool,

    /// Size of the image in GiB, instead of what its content needs
    #[arg(long, value_name = "GIB", help_heading = "Disk")]
    image_size: Option<String>,

    /// MiB to add to the size that the content needs
    #[arg(
        long,
        alias = "image-extra-size",
        value_name = "MIB",
        help_heading = "Disk"
    )]
    extra_size: Option<String>,

    /// Size of the ext4 journal in MiB
    ///
    /// Default: 64, or DIB_JOURNAL_SIZE.
    #[arg(
        long,
        alias = "mkfs-journal-size",
        value_name = "MIB",
        help_heading = "Disk"
    )]
    journal_size: Option<String>,

    /// Label of the root filesystem
    #[arg(long, value_name = "LABEL", help_heading = "Disk")]
    root_label: Option<String>,

    /// Options for the root filesystem, in the notation of mke2fs
    #[arg(
        long,
        value_name = "OPTIONS",
        allow_hyphen_values = true,
        help_heading = "Disk"
    )]
    mkfs_options: Option<String>,

    /// Blocks up to which the root filesystem can grow while mounted
    #[arg(long, value_name = "BLOCKS", help_heading = "Disk")]
    max_online_resize: Option<String>,

    /// Where downloads and base roots are kept
    ///
    /// Default: `~/.cache/image-create`, or DIB_IMAGE_CACHE.
    #[arg(
        long,
        alias = "cache-dir",
        value_name = "DIR",
        value_hint = ValueHint::DirPath,
        help_heading = "Build"
    )]
    image_cache: Option<PathBuf>,

    /// Build from the image cache alone, without the network
    #[arg(long, help_heading = "Build")]
    offline: bool,

    /// Never build in memory
    #[arg(long, help_heading = "Build")]
    no_tmpfs: bool,

    /// Build in memory if twice this many GiB are there
    ///
    /// Default: 2, or DIB_MIN_TMPFS.
    #[arg(long, value_name = "GIB", help_heading = "Build")]
    min_tmpfs: Option<String>,

    /// How to become root in the sandbox, instead of what works best here
    #[arg(long, value_name = "MODE", help_heading = "Build", long_help = mode_help())]
    mode: Option<String>,

    #[command(flatten)]
    confine: Confine,

    /// Threads that work at the same time
    ///
    /// Default: one for each CPU, or KILN_JOBS.
    #[arg(short, long, value_name = "N", help_heading = "Build")]
    jobs: Option<NonZeroUsize>,

    /// Trace hooks; twice traces more of them
    #[arg(short = 'x', long, action = ArgAction::Count, help_heading = "Build")]
    trace: u8,
}

fn types_help() -> String {
    format!(
        "Formats to write: {}\n\nSeveral are separated by commas, or the option is repeated. \
         Default: qcow2.",
        TYPES.join(", ")
    )
}

fn mode_help() -> String {
    format!(
        "How to become root in the sandbox, instead of what works best here: auto, {}\n\n\
         `kiln doctor` shows what works.",
        MODES.join(", ")
    )
}

impl Image {
    /// What was said, with the command line that said it.
    pub fn given(self, arguments: &[String]) -> Given {
        Given {
            elements: self.elements,
            inherit_elements: false,
            ramdisk: false,
            image_name: self.output,
            image_types: self.types,
            arch: self.arch,
            skip_base: self.no_base,
            packages: self.packages,
            uncompressed: self.uncompressed,
            clear_environment: self.clear_env,
            qemu_img_options: self.format_options,
            checksum: self.naming.checksum,
            image_size: self.image_size,
            image_extra_size: self.extra_size,
            journal_size: self.journal_size,
            max_online_resize: self.max_online_resize,
            mkfs_options: self.mkfs_options,
            root_label: self.root_label,
            image_cache: self.image_cache,
            offline: self.offline,
            no_tmpfs: self.no_tmpfs,
            min_tmpfs: self.min_tmpfs,
            install_type: self.install_type,
            trace: self.trace.into(),
            elements_path: self.elements_path,
            mode: self.mode,
            confine: self.confine,
            overwrite: self.naming.overwrite,
            fsync: self.naming.fsync,
            jobs: self.jobs,
            variables: Vec::new(),
            arguments: arguments.to_vec(),
        }
    }
}

/// Arguments of `kiln build`.
#[derive(Debug, Args)]
#[command(after_help = "Example: kiln build vm debian-minimal -o debian")]
pub struct Arguments {
    #[command(flatten)]
    image: Image,

    /// Append every line to this file, with the time
    #[arg(
        long,
        alias = "logfile",
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        help_heading = "Display"
    )]
    log_file: Option<PathBuf>,

    /// Print events as JSON, one a line
    #[arg(long, conflicts_with = "quiet", help_heading = "Display")]
    json: bool,

    /// Print nothing but errors
    #[arg(short, long, help_heading = "Display")]
    quiet: bool,
}

/// Runs `kiln build`.
pub fn run(arguments: Arguments, words: &[String], context: &mut Context) -> Result<u8, Failure> {
    let Arguments {
        image,
        log_file,
        json,
        quiet,
    } = arguments;
    let request = image.given(words).into_request(&context.caller)?;
    let options = Options::choose(&context.caller, json, quiet, log_file, false);
    execute(request, &options, &mut context.printer)
}

/// What runs a build: sends events, the last of which says how it ended, and
/// returns the exit status.
pub type Runner = fn(Request, &mut dyn FnMut(Event)) -> u8;

/// Runs a build, shows it, and returns the exit status.
///
/// Every face ends here.
pub fn execute(request: Request, options: &Options, printer: &mut Printer) -> Result<u8, Failure> {
    show(crate::build::run, request, options, printer)
}

fn show(
    runner: Runner,
    request: Request,
    options: &Options,
    printer: &mut Printer,
) -> Result<u8, Failure> {
    let mut display = Display::open(options, printer)?;
    let status = runner(request, &mut |event| display.event(&event, printer));
    match display.finish(printer) {
        0 => Ok(status),
        failed => Ok(failed),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::cli::caller::Caller;
    use crate::cli::render::Style;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Shared {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("not poisoned").clone()).expect("text")
        }
    }

    fn hook(events: &mut dyn FnMut(Event), seconds: Option<f64>) {
        let (phase, hook, element) = ("install.d".to_owned(), "50-x".to_owned(), "mine".to_owned());
        events(Event::PhaseStarted {
            phase: phase.clone(),
            hooks: 1,
        });
        events(Event::HookStarted {
            phase: phase.clone(),
            hook: hook.clone(),
            element: element.clone(),
        });
        events(Event::Output {
            line: "hello".to_owned(),
        });
        if let Some(seconds) = seconds {
            events(Event::HookFinished {
                phase: phase.clone(),
                hook: hook.clone(),
                element,
                seconds,
            });
            events(Event::PhaseFinished {
                phase,
                seconds,
                profile: vec![(hook, seconds)],
            });
        }
    }

    fn good(_: Request, events: &mut dyn FnMut(Event)) -> u8 {
        hook(events, Some(1.5));
        events(Event::OutputWritten {
            path: "a.raw".into(),
            format: "raw".to_owned(),
            virtual_size: 1 << 30,
            file_size: 1 << 30,
            disk_size: 1 << 20,
        });
        events(Event::Finished { seconds: 2.0 });
        0
    }

    fn bad(_: Request, events: &mut dyn FnMut(Event)) -> u8 {
        hook(events, None);
        events(Event::Failed {
            message: "hook `50-x` failed".to_owned(),
            hints: vec!["look".to_owned()],
            status: 7,
        });
        7
    }

    fn display(runner: Runner, style: Style, log: Option<PathBuf>) -> (u8, String, String) {
        let (out, err) = (Shared::default(), Shared::default());
        let mut printer = Printer::to(Box::new(out.clone()), Box::new(err.clone()));
        let given = Given {
            elements: vec!["x".to_owned()],
            ..Given::default()
        };
        let request = given.into_request(&Caller::default()).expect("valid");
        let options = Options {
            style,
            log_file: log,
            announce: true,
        };
        let status = show(runner, request, &options, &mut printer).expect("it can be shown");
        (status, out.text(), err.text())
    }

    const PLAIN: Style = Style::Plain { stamps: false };

    #[test]
    fn a_good_build_ends_with_its_images() {
        let (status, out, err) = display(good, PLAIN, None);
        assert_eq!((status, err.as_str()), (0, ""));
        assert!(out.starts_with("Running hooks from install.d\n"), "{out}");
        assert!(
            out.ends_with(
                "Build completed successfully\n\
                 Slowest hooks:\n  1.5 s  install.d/50-x  (mine)\n\
                 Built in 2.0 s, 1 hook\n\
                 a.raw: raw, virtual 1.0 GiB, file 1.0 GiB, on disk 1.0 MiB\n"
            ),
            "{out}"
        );
    }

    #[test]
    fn a_failed_build_has_the_hooks_status_and_repeats_hidden_output() {
        let (status, out, err) = display(bad, PLAIN, None);
        assert_eq!(status, 7);
        assert!(out.ends_with("hello\n"), "{out}");
        assert_eq!(err, "error: hook `50-x` failed\nhint: look\n");
        let (status, out, err) = display(bad, Style::Quiet, None);
        assert_eq!((status, out.as_str()), (7, ""));
        assert_eq!(
            err,
            "error: hook `50-x` failed\nhint: look\n\
             last output of install.d/50-x (mine):\n  | hello\n"
        );
    }

    #[test]
    fn json_is_the_events_and_nothing_else() {
        let (_, out, _) = display(good, Style::Json, None);
        let events: Vec<Event> = out
            .lines()
            .map(|line| serde_json::from_str(line).expect("an event"))
            .collect();
        assert_eq!(events.len(), 7);
        assert_eq!(events.last(), Some(&Event::Finished { seconds: 2.0 }));
    }

    #[test]
    fn stamps_are_as_long_as_those_of_dib() {
        let (_, out, _) = display(good, Style::Plain { stamps: true }, None);
        for line in out.lines() {
            let (stamp, _) = line.split_once(" | ").expect("a stamp");
            assert_eq!(stamp.len(), "2026-03-01 12:00:00.123".len(), "{line}");
        }
    }

    #[test]
    fn the_log_file_is_stamped_and_appended_whatever_the_style() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = dir.path().join("log");
        std::fs::write(&log, "before\n").expect("written");
        let (_, out, _) = display(bad, Style::Quiet, Some(log.clone()));
        assert_eq!(out, format!("Output logs going to: {}\n", log.display()));
        let text = std::fs::read_to_string(log).expect("read");
        let lines: Vec<&str> = text
            .lines()
            .map(|line| line.split_once(" | ").map_or(line, |(_, line)| line))
            .collect();
        assert_eq!(
            lines,
            [
                "before",
                "Running hooks from install.d",
                "dib-run-parts Running install.d/50-x (mine)",
                "hello",
                "error: hook `50-x` failed",
                "hint: look",
            ]
        );
    }
}
