//! `kiln-bootstrap`: fills an empty target with a base system.
//!
//! Prints to standard output where the packages came from, quoted for the shell:
//! `SUITE='…'` (the code name where an alias was asked for), `MIRROR='…'` and, if
//! a security suite was asked for, `SECURITY_MIRROR='…'`.
//! Progress goes to standard error as lines, and to the descriptor
//! `KILN_EVENTS_FD` as events.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser as _;

use super::{Explain, env_text, say};
use crate::build::event::Event;
use crate::fetch::{Cache, Client, NoProxy, Options};
use crate::rootfs::apt::sources::{HOST_APT, Mirrors, Suite};
use crate::rootfs::apt::{self, Delivery, Keyring, Notice, Request};

/// Shortest time between two events about the progress of a step.
const PACE: Duration = Duration::from_millis(100);

/// Fills an empty directory with a base system, without tools of the host.
#[derive(Debug, clap::Parser)]
#[command(name = "kiln-bootstrap", no_binary_name = true)]
struct Arguments {
    #[command(subcommand)]
    source: Source,
}

#[derive(Debug, clap::Subcommand)]
enum Source {
    /// From a signed archive of Debian packages.
    Apt(Box<AptArguments>),
    /// Print, line by line, the hosts of URLs that `no_proxy` exempts from the proxy
    WithoutProxy {
        /// `http` and `https` URLs; anything else is passed over
        urls: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
struct AptArguments {
    /// Suite or code name, such as `stable` or `bookworm`
    #[arg(long)]
    suite: String,
    /// Another suite of the archive, whose newer versions count (repeatable)
    #[arg(long, visible_alias = "suite-extra", value_name = "SUITE")]
    extra_suite: Vec<String>,
    /// A suite of the security archive, whose newer versions count (repeatable)
    #[arg(long, value_name = "SUITE")]
    security_suite: Vec<String>,
    /// Take the updates and security suites that go with the suite
    #[arg(long)]
    companions: bool,
    /// The archive; by default the one that the host's apt uses
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// The security archive; by default the one that the host's apt uses
    #[arg(long, value_name = "URL")]
    security_mirror: Option<String>,
    /// Components, separated by commas or spaces
    #[arg(long, default_value = "main")]
    components: String,
    /// Debian architecture
    #[arg(long)]
    arch: String,
    /// Packages beyond the minimal system, separated by commas or spaces; `NAME=VERSION`
    /// asks for that version
    #[arg(long, default_value = "")]
    include: String,
    /// File of the certificates that may sign (`DIB_APT_KEYRING`, `DIB_DEBIAN_KEYRING`)
    #[arg(long, value_name = "FILE")]
    keyring: Option<PathBuf>,
    /// Whose archive it is: without a keyring, that one's keys count
    #[arg(long, value_enum, default_value = "debian")]
    distribution: Distribution,
    /// Take suites after their end, as those of snapshots are
    #[arg(long)]
    no_check_valid_until: bool,
    /// Image cache (`DIB_IMAGE_CACHE`)
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Never use the network (`DIB_OFFLINE`)
    #[arg(long)]
    offline: bool,
    /// The empty directory to fill
    target: PathBuf,
}

/// Distributions whose keys kiln has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Distribution {
    /// Debian
    Debian,
    /// Ubuntu
    Ubuntu,
}

/// Why there is no base system.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The arguments are wrong.
    #[error("{message}")]
    Usage {
        /// What clap says.
        message: String,
    },
    /// The keyring cannot be read.
    #[error("cannot read the keyring `{path}`")]
    Keyring {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// There is no place for a cache.
    #[error("there is neither `DIB_IMAGE_CACHE` nor `HOME`")]
    NoCache,
    /// The archive or its packages.
    #[error(transparent)]
    Apt(#[from] apt::Error),
    /// Programs of the packages have nowhere to run.
    #[error(transparent)]
    Sandbox(#[from] crate::sandbox::Error),
}

impl From<crate::fetch::Error> for Failure {
    fn from(error: crate::fetch::Error) -> Failure {
        Failure::Apt(error.into())
    }
}

impl From<apt::VerifyError> for Failure {
    fn from(error: apt::VerifyError) -> Failure {
        Failure::Apt(error.into())
    }
}

impl Explain for Failure {
    fn hint(&self) -> Option<String> {
        match self {
            Failure::Usage { .. } => None,
            Failure::Keyring { .. } => Some("check `DIB_APT_KEYRING`".to_owned()),
            Failure::NoCache => Some("name a directory in `DIB_IMAGE_CACHE`".to_owned()),
            Failure::Apt(error) => error.hint().map(str::to_owned),
            Failure::Sandbox(error) => error.hints().into_iter().next(),
        }
    }

    /// The root is made in the cache: the target has nothing of it yet.
    fn is_outside(&self) -> bool {
        true
    }

    fn code(&self) -> u8 {
        if matches!(self, Failure::Usage { .. }) {
            2
        } else {
            1
        }
    }
}

/// Runs the helper.
pub fn main(_called: &OsStr, args: &[OsString]) -> Result<ExitCode, Failure> {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) if !error.use_stderr() => {
            super::print(&error.to_string());
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => {
            return Err(Failure::Usage {
                message: error
                    .to_string()
                    .trim_start_matches("error: ")
                    .trim_end()
                    .to_owned(),
            });
        }
    };
    match arguments.source {
        Source::Apt(arguments) => {
            // Before there are threads.
            crate::sandbox::inside::prepare()?;
            apt_root(&arguments)
        }
        Source::WithoutProxy { urls } => {
            let value = env_text("no_proxy").or_else(|| env_text("NO_PROXY"));
            super::print(&hosts_without_proxy(&value.unwrap_or_default(), &urls));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The hosts of URLs that a `no_proxy` exempts, each in a line of its own.
fn hosts_without_proxy(no_proxy: &str, urls: &[String]) -> String {
    let no_proxy = NoProxy::parse(no_proxy);
    let hosts: BTreeSet<&str> = urls
        .iter()
        .filter(|url| url.starts_with("http://") || url.starts_with("https://"))
        .filter_map(|url| no_proxy.exempt_host(url))
        .collect();
    hosts.into_iter().map(|host| format!("{host}\n")).collect()
}

/// A set variable that says yes.
fn is_set(name: &str) -> bool {
    env_text(name).is_some_and(|value| value != "0")
}

/// Variables that elements set to their own default do not count as the user's wish.
fn wish(name: &str) -> Option<String> {
    let default = match name {
        "DIB_DEBIAN_SECURITY_MIRROR" => env_text("KILN_DEFAULT_SECURITY_MIRROR"),
        _ => env_text("KILN_DEFAULT_MIRROR"),
    };
    env_text(name).filter(|value| Some(value) != default.as_ref())
}

fn apt_root(arguments: &AptArguments) -> Result<ExitCode, Failure> {
    let chosen = Mirrors::choose(&wish, Path::new(HOST_APT));
    let mirrors = Mirrors {
        main: arguments.mirror.clone().unwrap_or(chosen.main),
        security: arguments.security_mirror.clone().unwrap_or(chosen.security),
    };
    let image_cache = match arguments
        .cache
        .clone()
        .or_else(|| env_text("DIB_IMAGE_CACHE").map(PathBuf::from))
    {
        Some(path) => path,
        None => {
            PathBuf::from(env_text("HOME").ok_or(Failure::NoCache)?).join(".cache/image-create")
        }
    };
    let keyring_file = arguments.keyring.clone().or_else(|| {
        env_text("DIB_APT_KEYRING")
            .or_else(|| env_text("DIB_DEBIAN_KEYRING"))
            .map(PathBuf::from)
    });
    let keyring = match keyring_file {
        None if arguments.distribution == Distribution::Ubuntu => Keyring::ubuntu()?,
        None => Keyring::debian()?,
        Some(path) => {
            let bytes = fs_err::read(&path).map_err(|source| Failure::Keyring {
                path: path.clone(),
                source,
            })?;
            Keyring::parse(&format!("`{}`", path.display()), &bytes)?
        }
    };
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| c == ',' || c.is_whitespace())
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let suites = |names: &[String], mirror: &str| -> Vec<Suite> {
        names
            .iter()
            .map(|name| Suite {
                mirror: mirror.to_owned(),
                name: name.clone(),
            })
            .collect()
    };
    let mut extra_suites = suites(&arguments.extra_suite, &mirrors.main);
    extra_suites.extend(suites(&arguments.security_suite, &mirrors.security));
    let security = arguments.companions || !arguments.security_suite.is_empty();
    let request = Request {
        suite: arguments.suite.clone(),
        extra_suites,
        companions: arguments.companions,
        components: words(&arguments.components),
        arch: arguments.arch.clone(),
        include: words(&arguments.include),
        keyring,
        epoch: env_text("SOURCE_DATE_EPOCH"),
        now: SystemTime::now(),
        may_expire: arguments.no_check_valid_until,
        mirrors,
    };
    let client = Client::new(Options {
        offline: arguments.offline || is_set("DIB_OFFLINE"),
        ..Options::default()
    })?;
    let cache = Cache::new(&image_cache);
    let reporter = Reporter::new();
    let report = |notice: Notice<'_>| reporter.tell(notice);
    let build = env_text("TMP_BUILD_DIR").map(PathBuf::from);
    let aside = build.as_ref().map(|build| build.join("root"));
    let (target, aside) = (&arguments.target, aside.as_deref());
    let root = apt::bootstrap(&request, &client, &cache, target, aside, &report)?;
    let delivery = Delivery {
        target: arguments.target.clone(),
        layers: build.map(|build| build.join("layers")),
        packages: Some(image_cache.join("apt/debian")),
    };
    apt::deliver(&root, &delivery, &report)?;
    let mut out = format!(
        "SUITE={}\nMIRROR={}\n",
        quote(&root.suite),
        quote(&request.mirrors.main)
    );
    if security {
        out.push_str(&format!(
            "SECURITY_MIRROR={}\n",
            quote(&request.mirrors.security)
        ));
    }
    super::print(&out);
    Ok(ExitCode::SUCCESS)
}

/// Quotes a text for a POSIX shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Renders notices as lines and as events.
struct Reporter {
    events: Mutex<Option<File>>,
    last: Mutex<Option<Instant>>,
}

impl Reporter {
    fn new() -> Reporter {
        let events = env_text("KILN_EVENTS_FD")
            .filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|number| {
                // Opening it anew needs no trust in the number.
                File::options()
                    .append(true)
                    .open(format!("/proc/self/fd/{number}"))
                    .ok()
            });
        Reporter {
            events: Mutex::new(events),
            last: Mutex::new(None),
        }
    }

    fn send(&self, event: &Event) -> bool {
        let mut events = self
            .events
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        let Some(file) = events.as_mut() else {
            return false;
        };
        let Ok(mut line) = serde_json::to_vec(event) else {
            return false;
        };
        line.push(b'\n');
        // One write, so that lines of several processes do not mix.
        if file.write_all(&line).is_err() {
            *events = None;
            return false;
        }
        true
    }

    fn tell(&self, notice: Notice<'_>) {
        match notice {
            Notice::Info(text) => say(text),
            Notice::Output(line) => say(line),
            Notice::Started { step, total } => {
                let sent = self.send(&Event::StepStarted {
                    step: step.to_owned(),
                    total,
                });
                match total {
                    // Who gets events tells the user.
                    _ if sent => {}
                    Some(bytes) => say(&format!("{step} ({:.1} MB)", megabytes(bytes))),
                    None => say(step),
                }
            }
            Notice::Progress { step, done, total } => {
                let mut last = self
                    .last
                    .lock()
                    .unwrap_or_else(|poison| poison.into_inner());
                let due = last.is_none_or(|last| last.elapsed() >= PACE) || total == Some(done);
                if due {
                    *last = Some(Instant::now());
                    drop(last);
                    self.send(&Event::StepProgress {
                        step: step.to_owned(),
                        done,
                        total,
                    });
                }
            }
            Notice::Finished { step, milliseconds } => {
                let seconds = Duration::from_millis(milliseconds).as_secs_f64();
                let sent = self.send(&Event::StepFinished {
                    step: step.to_owned(),
                    seconds,
                });
                if !sent {
                    say(&format!("{step}: {seconds:.1} s"));
                }
            }
        }
    }
}

fn megabytes(bytes: u64) -> f64 {
    // Precise enough for a message: 52 bits of a double.
    let kilobytes = u32::try_from(bytes / 1000).unwrap_or(u32::MAX);
    f64::from(kilobytes) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_the_element_are_understood() {
        let args: Vec<OsString> = [
            "apt",
            "--suite",
            "bookworm",
            "--components",
            "main,contrib",
            "--arch",
            "amd64",
            "--extra-suite",
            "bookworm-updates",
            "--security-suite",
            "bookworm-security",
            "--include",
            "a,b",
            "--keyring",
            "/k",
            "/target",
        ]
        .map(OsString::from)
        .into();
        let Source::Apt(apt) = Arguments::try_parse_from(&args).expect("valid").source else {
            panic!("it is the source");
        };
        assert_eq!(apt.extra_suite, ["bookworm-updates"]);
        assert_eq!(apt.target, Path::new("/target"));
        assert_eq!(apt.mirror, None);
        assert_eq!(apt.distribution, Distribution::Debian);
    }

    #[test]
    fn hosts_that_need_no_proxy_are_told() {
        let urls = [
            "http://10.1.2.3:3142/debian",
            "http://deb.example/x",
            "https://b.example/",
            "http://10.1.2.3/y",
            "file:///10.1.2.3/",
            "deb",
        ]
        .map(str::to_owned);
        let hosts = hosts_without_proxy("10.0.0.0/8,b.example:443", &urls);
        assert_eq!(hosts, "10.1.2.3\nb.example\n");
        assert_eq!(hosts_without_proxy("", &urls), "");
    }

    #[test]
    fn wrong_arguments_are_a_usage_error() {
        let error = main(OsStr::new("kiln-bootstrap"), &["apt".into()]).expect_err("refused");
        assert_eq!(error.code(), 2);
        assert!(error.to_string().contains("--suite"), "{error}");
    }

    #[test]
    fn what_is_printed_is_safe_for_a_shell() {
        assert_eq!(quote("http://a/$(b)'c"), r"'http://a/$(b)'\''c'");
    }
}
