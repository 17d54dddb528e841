//! `install-packages` for every package manager, and `map-packages`.
//!
//! The family is told by the package manager that the root has. Apt's part is in
//! [`super::apt`]; the others are told what to do in a few commands each.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use thiserror::Error;

use super::{Explain, apt, pkg_map};

/// Where the elements of other package managers put their own implementation.
const ELEMENTS_OWN: &str = "/usr/local/bin/install-packages";
/// Names that an RPM build is not to install, one or more a line.
const BLACKLIST: &str = "/tmp/yum-blacklist";
/// Red Hat's key, which comes with its release package.
const REDHAT_KEY: &str = "/etc/pki/rpm-gpg/RPM-GPG-KEY-redhat-release";

/// Where portage keeps its tree of packages in a build.
const PORTAGE_TREE: &str = "/tmp/portage-portdir";
/// Options of emerge, where `GENTOO_EMERGE_DEFAULT_OPTS` does not say.
const EMERGE_OPTIONS: &str = "--binpkg-respect-use --rebuilt-binaries=y --usepkg=y \
     --with-bdeps=y --binpkg-changed-deps=y --jobs=2 --verbose --autounmask=n";
/// What emerge gets besides the caller's environment. Gentoo's alternatives export a
/// lexer and a parser generator that the image need not have.
const EMERGE_ENVIRONMENT: &[(&str, Option<&str>)] = &[
    ("USE", Some("-build")),
    (
        "FEATURES",
        Some("binpkg-multi-instance buildpkg parallel-fetch parallel-install"),
    ),
    ("PKGDIR", Some("/tmp/portage-pkgdir")),
    ("DISTDIR", Some("/tmp/portage-distdir")),
    ("PORTDIR", Some(PORTAGE_TREE)),
    ("YACC", None),
    ("LEX", None),
];

/// Why packages cannot be installed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// An option that means nothing here.
    #[error("unsupported option `{option}`")]
    Option {
        /// The option.
        option: String,
    },
    /// An option without its argument.
    #[error("option `{option}` needs an argument")]
    Argument {
        /// The option.
        option: String,
    },
    /// The root has no package manager that is known.
    #[error("this root has no package manager that is known")]
    NoManager,
    /// Names cannot be mapped.
    #[error("bin/pkg-map error.")]
    PkgMap(#[source] pkg_map::Error),
    /// A program cannot be started.
    #[error("cannot run `{program}`")]
    Start {
        /// The program.
        program: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The directory for downloads cannot be made.
    #[error("cannot make the directory `{path}`")]
    Directory {
        /// The directory.
        path: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Apt's own.
    #[error(transparent)]
    Apt(#[from] apt::Error),
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Option { .. } | Self::Argument { .. } => USAGE.into(),
            Self::NoManager => "apt-get, dnf, yum, zypper, emerge and apk are known; an element can bring its own `install-packages` in bin/".into(),
            Self::PkgMap(error) => return error.hint(),
            Self::Apt(error) => return error.hint(),
            Self::Start { .. } | Self::Directory { .. } => return None,
        })
    }
}

const USAGE: &str = "install-packages [-u] [-e] [-d [DIRECTORY]] [-m ELEMENT] [-h] [PACKAGE…]";

/// A package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    Apt,
    Dnf,
    Yum,
    Zypper,
    Emerge,
    Apk,
}

impl Manager {
    /// The one that the root has. RPM elements say in `YUM` which of two they mean.
    fn find(yum: Option<&str>, exists: &dyn Fn(&str) -> bool) -> Option<Manager> {
        let rpm = |name: &str| match name {
            "dnf" if exists("dnf") => Some(Manager::Dnf),
            "yum" if exists("yum") => Some(Manager::Yum),
            _ => None,
        };
        if exists("apt-get") {
            return Some(Manager::Apt);
        }
        yum.and_then(rpm)
            .or_else(|| rpm("dnf"))
            .or_else(|| rpm("yum"))
            .or_else(|| exists("zypper").then_some(Manager::Zypper))
            .or_else(|| exists("emerge").then_some(Manager::Emerge))
            .or_else(|| exists("apk").then_some(Manager::Apk))
    }
}

/// What to do with packages.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Install(Vec<String>),
    Remove(Vec<String>),
    /// Into a directory, or into the package manager's cache.
    Download(Option<String>, Vec<String>),
    Upgrade,
    Help,
}

/// Parses options in any place, as getopt does.
fn parse(manager: Manager, args: &[OsString]) -> Result<(Action, Option<String>), Error> {
    let (mut element, mut directory) = (None, None);
    let (mut remove, mut download, mut only_words) = (false, false, false);
    let mut packages = Vec::new();
    let mut args = args.iter().map(|arg| arg.to_string_lossy());
    while let Some(arg) = args.next() {
        if only_words || !arg.starts_with('-') || arg == "-" {
            packages.extend(arg.split_whitespace().map(str::to_owned));
            continue;
        }
        if arg == "--" {
            only_words = true;
            continue;
        }
        let mut letters = arg.chars().skip(1);
        while let Some(letter) = letters.next() {
            let mut value = || {
                let rest: String = letters.by_ref().collect();
                if rest.is_empty() {
                    args.next().map(|value| value.into_owned())
                } else {
                    Some(rest)
                }
                .ok_or_else(|| Error::Argument {
                    option: format!("-{letter}"),
                })
            };
            match letter {
                // An upgrade happens as soon as it is read, and ends the program.
                'u' => return Ok((Action::Upgrade, element)),
                'h' => return Ok((Action::Help, element)),
                'e' => remove = true,
                'm' => element = Some(value()?),
                'd' if matches!(manager, Manager::Dnf | Manager::Yum) => {
                    download = true;
                    directory = Some(value()?);
                }
                'd' if manager == Manager::Zypper => download = true,
                other => {
                    return Err(Error::Option {
                        option: format!("-{other}"),
                    });
                }
            }
        }
    }
    let action = if download {
        Action::Download(directory, packages)
    } else if remove {
        Action::Remove(packages)
    } else {
        Action::Install(packages)
    };
    Ok((action, element))
}

/// `install-packages [-u] [-e] [-d [DIRECTORY]] [-m ELEMENT] [-h] [PACKAGE…]`
pub(super) fn main(name: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let yum = super::env_text("YUM");
    let exists = |name: &str| super::find_program(name).is_some();
    let Some(manager) = Manager::find(yum.as_deref(), &exists) else {
        // Roots of other families come with elements that know their package manager.
        let own = Path::new(ELEMENTS_OWN);
        if super::is_program(own) && !super::is_this_program(own) {
            let source = super::exec(Command::new(ELEMENTS_OWN).args(args));
            return Err(Error::Start {
                program: ELEMENTS_OWN.into(),
                source,
            });
        }
        return Err(Error::NoManager);
    };
    let (action, element) = parse(manager, args)?;
    let rpm = matches!(manager, Manager::Dnf | Manager::Yum);
    let by_element = |element: &str, packages: &[String]| {
        pkg_map::map_for_element(element, false, packages).map_err(Error::PkgMap)
    };
    let map = |mut packages: Vec<String>| -> Result<Vec<String>, Error> {
        if rpm {
            packages = allowed(packages, |package| match &element {
                Some(element) => by_element(element, &[package.to_owned()]),
                None => Ok(vec![package.to_owned()]),
            })?;
        }
        let mapped = match &element {
            Some(element) => by_element(element, &packages)?,
            None if rpm => map_all(&packages),
            None => packages,
        };
        Ok(mapped
            .iter()
            .flat_map(|value| value.split_whitespace())
            .map(str::to_owned)
            .collect())
    };
    let action = match action {
        Action::Help => {
            super::print(&format!(
                "{USAGE}\n  -u  upgrade everything, then end\n  -e  remove the packages\n  \
                 -d  download them only (dnf, yum: into DIRECTORY; zypper)\n  \
                 -m  map the names by the pkg-map of ELEMENT\n"
            ));
            return Ok(ExitCode::SUCCESS);
        }
        Action::Upgrade => Action::Upgrade,
        Action::Install(packages) => Action::Install(map(packages)?),
        Action::Remove(packages) => Action::Remove(map(packages)?),
        Action::Download(directory, packages) => Action::Download(directory, map(packages)?),
    };
    if let Action::Install(list) | Action::Remove(list) | Action::Download(_, list) = &action
        && list.is_empty()
    {
        super::say(&format!(
            "{}: no packages are left to act on",
            name.display()
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let offline = super::env_text("DIB_OFFLINE").is_some();
    match (manager, &action) {
        (Manager::Apt, Action::Install(list)) => Ok(apt::run("install", list, offline)?),
        (Manager::Apt, Action::Remove(list)) => Ok(apt::run("remove", list, offline)?),
        (Manager::Apt, _) => Ok(apt::run("dist-upgrade", &[], offline)?),
        _ => {
            if let Action::Download(Some(directory), _) = &action {
                std::fs::create_dir_all(directory).map_err(|source| Error::Directory {
                    path: directory.clone(),
                    source,
                })?;
            }
            let facts = Facts {
                dnf5: exists("dnf5"),
                yumdownloader: exists("yumdownloader"),
                redhat_key: Path::new(REDHAT_KEY).is_file(),
                portage: Path::new(PORTAGE_TREE).join("profiles").exists(),
                offline,
                flags: super::env_text(match manager {
                    Manager::Emerge => "GENTOO_EMERGE_DEFAULT_OPTS",
                    _ => "YUM_FLAGS",
                }),
            };
            let environment = match manager {
                Manager::Emerge => EMERGE_ENVIRONMENT,
                _ => &[],
            };
            run_all(&commands(manager, &action, &facts), environment)
        }
    }
}

/// What the commands depend on besides the request.
#[derive(Debug, Default)]
struct Facts {
    dnf5: bool,
    yumdownloader: bool,
    redhat_key: bool,
    /// Whether portage's tree of packages is there.
    portage: bool,
    offline: bool,
    /// `YUM_FLAGS` or `GENTOO_EMERGE_DEFAULT_OPTS`.
    flags: Option<String>,
}

/// The commands for a request, in order; the first that fails ends them.
fn commands(manager: Manager, action: &Action, facts: &Facts) -> Vec<Vec<String>> {
    let line = |parts: &[&str], packages: &[String]| -> Vec<String> {
        parts
            .iter()
            .flat_map(|part| part.split_whitespace())
            .map(str::to_owned)
            .chain(packages.iter().cloned())
            .collect()
    };
    match manager {
        Manager::Apt => Vec::new(),
        Manager::Dnf | Manager::Yum => {
            let dnf = manager == Manager::Dnf;
            let program = if dnf { "dnf" } else { "yum" };
            let mut flags = facts.flags.clone().unwrap_or_else(|| "-y -v".to_owned());
            if dnf && facts.dnf5 {
                // It has no such option.
                flags = flags
                    .split_whitespace()
                    .filter(|flag| *flag != "-v")
                    .collect::<Vec<_>>()
                    .join(" ");
            }
            let cached = if facts.offline { "-C" } else { "" };
            let mut lines = Vec::new();
            if facts.redhat_key && !matches!(action, Action::Upgrade) {
                lines.push(line(&["rpm --import", REDHAT_KEY], &[]));
            }
            match action {
                Action::Install(list) => {
                    lines.push(line(&[program, &flags, cached, "install"], list));
                    if dnf {
                        let mark = if facts.dnf5 { "user" } else { "install" };
                        lines.push(line(&["dnf -y mark", mark], list));
                    }
                }
                Action::Remove(list) => {
                    lines.push(line(&[program, &flags, cached, "remove"], list));
                }
                Action::Download(directory, list) => {
                    let directory = directory.clone().unwrap_or_else(|| ".".to_owned());
                    let program = if dnf { "dnf download" } else { "yumdownloader" };
                    if !dnf && !facts.yumdownloader {
                        lines.push(line(&["yum install -y", cached, "yum-utils"], &[]));
                    }
                    let mut words = line(&[program], &[]);
                    words.push(format!("--destdir={directory}"));
                    words.extend(list.iter().cloned());
                    lines.push(words);
                }
                Action::Upgrade | Action::Help => {
                    lines.push(line(&[program, "-y", cached, "update"], &[]));
                }
            }
            lines
        }
        Manager::Zypper => {
            let start = "zypper --non-interactive --gpg-auto-import-keys";
            let cached = if facts.offline { "--no-refresh" } else { "" };
            vec![match action {
                Action::Install(list) => line(&[start, cached, "install --no-recommends"], list),
                Action::Download(_, list) => line(
                    &[start, cached, "install --no-recommends --download-only"],
                    list,
                ),
                Action::Remove(list) => line(&[start, cached, "remove --clean-deps"], list),
                Action::Upgrade | Action::Help => {
                    line(&[start, cached, "dist-upgrade --no-recommends"], &[])
                }
            }]
        }
        Manager::Emerge => {
            let options = facts.flags.as_deref().unwrap_or(EMERGE_OPTIONS);
            let mut lines = Vec::new();
            if !facts.portage && !facts.offline {
                lines.push(line(&["emerge-webrsync -q"], &[]));
            }
            match action {
                Action::Install(list) | Action::Download(_, list) => {
                    let asked = "--noreplace --changed-use";
                    lines.push(line(&["emerge", options, asked], list));
                }
                // What is not in the world any more, and nothing of it needs, goes.
                Action::Remove(list) => {
                    for package in list {
                        lines.push(line(&["emerge", options, "--deselect", package], &[]));
                    }
                    lines.push(line(&["emerge", options, "--depclean"], &[]));
                }
                Action::Upgrade | Action::Help => {
                    for step in [
                        "--update --deep --changed-use @world",
                        "--verbose=n --depclean",
                        "--usepkg=n @preserved-rebuild",
                    ] {
                        lines.push(line(&["emerge", options, step], &[]));
                    }
                    lines.push(line(&["etc-update --automode -5"], &[]));
                    lines.push(line(&["eselect news read new"], &[]));
                }
            }
            lines
        }
        Manager::Apk => {
            let cached = if facts.offline { "--no-network" } else { "" };
            vec![match action {
                Action::Install(list) | Action::Download(_, list) => {
                    line(&["apk add --no-progress", cached], list)
                }
                Action::Remove(list) => line(&["apk del --no-progress", cached], list),
                Action::Upgrade | Action::Help => line(&["apk upgrade --no-progress", cached], &[]),
            }]
        }
    }
}

fn run_all(
    commands: &[Vec<String>],
    environment: &[(&str, Option<&str>)],
) -> Result<ExitCode, Error> {
    for words in commands {
        let Some((program, args)) = words.split_first() else {
            continue;
        };
        super::say(&format!("install-packages: {}", words.join(" ")));
        // Scripts of packages must not wait for input.
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null());
        for (name, value) in environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let status = command.status().map_err(|source| Error::Start {
            program: program.clone(),
            source,
        })?;
        if !status.success() {
            return Ok(super::exit_code(status));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Leaves out what an earlier hook found to be unavailable: the list has the
/// distribution's names.
fn allowed(
    packages: Vec<String>,
    names: impl Fn(&str) -> Result<Vec<String>, Error>,
) -> Result<Vec<String>, Error> {
    let list = std::fs::read_to_string(BLACKLIST).unwrap_or_default();
    let blacklist: Vec<&str> = list.split_whitespace().collect();
    if blacklist.is_empty() {
        return Ok(packages);
    }
    let mut left = Vec::new();
    for package in packages {
        let names = names(&package)?;
        let refused = !names.is_empty()
            && names
                .iter()
                .flat_map(|name| name.split_whitespace())
                .all(|name| blacklist.contains(&name));
        if refused {
            super::say(&format!(
                "install-packages: `{package}` is in {BLACKLIST} and left out"
            ));
        } else {
            left.push(package);
        }
    }
    Ok(left)
}

/// What RPM distributions call packages that elements know by Debian's name.
/// Sorted.
const RPM_NAMES: &[(&str, &str)] = &[
    ("apache2", "httpd"),
    ("arping", "iputils"),
    ("augeas-tools", "augeas"),
    ("build-essential", "make automake gcc gcc-c++ kernel-devel"),
    ("default-jre", "java"),
    ("extlinux", "syslinux-extlinux"),
    ("gearman-job-server", "gearmand"),
    ("grub-pc", "grub2-tools grub2"),
    ("libaio1", "libaio"),
    ("libapache2-mod-wsgi", "mod_wsgi"),
    ("libc6-dev", "glibc-devel"),
    ("libffi-dev", "libffi-devel"),
    ("libldap2-dev", "python-ldap"),
    ("libmariadb-dev", "mariadb-devel"),
    ("libmysql-dev", "mysql++-devel"),
    ("libmysql-java", "mysql-connector-java"),
    ("libmysqlclient-dev", "mysql-devel"),
    ("libpq-dev", "libpqxx-devel"),
    ("libsasl2-dev", "cyrus-sasl-devel"),
    ("libsqlite3-dev", "libsqlite3x-devel"),
    ("libssl-dev", "openssl-devel"),
    ("libvirt-bin", "libvirt"),
    ("libxml2-dev", "libxml2-devel"),
    ("libxslt-dev", "libxslt-devel"),
    ("libz-dev", "zlib-devel"),
    ("linux-headers-generic", "kernel-headers"),
    ("linux-image-generic", "kernel"),
    ("lm-sensors", "lm_sensors"),
    ("mysql-client-5.5", "mariadb"),
    ("mysql-server-5.5", "mariadb-server"),
    ("nagios-plugins-basic", "nagios-plugins-all"),
    ("netcat-openbsd", "nmap-ncat"),
    ("nfs-common", "nfs-utils"),
    ("nfs-kernel-server", "nfs-utils"),
    ("open-iscsi", "iscsi-initiator-utils"),
    ("openjdk-7-jre-headless", "java-1.7.0-openjdk-headless"),
    ("openssh-client", "openssh-clients"),
    ("openstack-neutron-dhcp-agent", "openstack-neutron"),
    ("openvswitch-common", "openvswitch"),
    ("openvswitch-switch", "openvswitch"),
    ("python-libvirt", "libvirt-python"),
    ("python-memcache", "python-memcached"),
    ("python-mysqldb", "MySQL-python"),
    ("python-numpy", "numpy"),
    ("python-pyopenssl", "pyOpenSSL"),
    ("python-xattr", "pyxattr"),
    ("qemu-utils", "qemu-img"),
    ("qpid-client", "qpid-cpp-client"),
    ("qpidd", "qpid-cpp-server"),
    ("snmp-mibs-downloader", ""),
    ("snmpd", "net-snmp"),
    ("stunnel4", "stunnel"),
    ("tftpd-hpa", "tftp-server"),
    ("tgt", "scsi-target-utils"),
    ("vlan", "vconfig"),
];

/// A package's name on RPM distributions.
fn rpm_name(package: &str) -> String {
    if let Ok(at) = RPM_NAMES.binary_search_by_key(&package, |(debian, _)| debian)
        && let Some((_, name)) = RPM_NAMES.get(at)
    {
        return (*name).to_owned();
    }
    if package.ends_with("-dev") {
        return format!("{package}el");
    }
    package.to_owned()
}

/// Maps names, and says which changed.
fn map_all(packages: &[String]) -> Vec<String> {
    packages
        .iter()
        .map(|package| {
            let name = rpm_name(package);
            if name != *package {
                super::say(&format!(
                    "map-packages: warning: `{package}` is a name of Debian's, using `{name}`; a pkg-map file should say so"
                ));
            }
            name
        })
        .collect()
}

/// `map-packages NAME…`
pub(super) fn map_main(_: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let names: Vec<String> = args
        .iter()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let lines: String = map_all(&names)
        .iter()
        .map(|name| format!("{name}\n"))
        .collect();
    super::print(&lines);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ')
            .filter(|word| !word.is_empty())
            .map(OsString::from)
            .collect()
    }

    fn list(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn options_are_read_as_getopt_reads_them() {
        use Manager::{Apt, Dnf, Zypper};
        for (manager, line, action, element) in [
            (Apt, "a b", Action::Install(list("a b")), None),
            (Apt, "-e a", Action::Remove(list("a")), None),
            (Apt, "a -e", Action::Remove(list("a")), None),
            (Apt, "-m base a", Action::Install(list("a")), Some("base")),
            (Apt, "-embase a", Action::Remove(list("a")), Some("base")),
            (Apt, "-u a", Action::Upgrade, None),
            (Apt, "-h", Action::Help, None),
            (Apt, "-- -a", Action::Install(list("-a")), None),
            (Apt, "", Action::Install(vec![]), None),
            (
                Dnf,
                "-d /x a",
                Action::Download(Some("/x".into()), list("a")),
                None,
            ),
            (Zypper, "-d a", Action::Download(None, list("a")), None),
        ] {
            assert_eq!(
                parse(manager, &words(line)).unwrap(),
                (action, element.map(str::to_owned)),
                "{line}"
            );
        }
        assert_eq!(
            parse(Apt, &[OsString::from("a  b")]).unwrap().0,
            Action::Install(list("a b"))
        );
    }

    #[test]
    fn bad_options_are_named() {
        for (manager, line, message) in [
            (Manager::Apt, "-d a", "unsupported option `-d`"),
            (Manager::Apk, "-x a", "unsupported option `-x`"),
            (Manager::Apt, "-m", "option `-m` needs an argument"),
            (Manager::Yum, "-d", "option `-d` needs an argument"),
        ] {
            let error = parse(manager, &words(line)).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert!(error.hint().unwrap().starts_with("install-packages "));
        }
        assert!(Error::NoManager.hint().unwrap().contains("zypper"));
    }

    #[test]
    fn the_manager_is_the_one_that_the_root_has() {
        for (programs, yum, expected) in [
            ("apt-get dnf", Some("dnf"), Some(Manager::Apt)),
            ("dnf yum", None, Some(Manager::Dnf)),
            ("dnf yum", Some("yum"), Some(Manager::Yum)),
            ("dnf", Some("yum"), Some(Manager::Dnf)),
            ("zypper", None, Some(Manager::Zypper)),
            ("emerge", None, Some(Manager::Emerge)),
            ("apk", None, Some(Manager::Apk)),
            ("pacman", None, None),
        ] {
            let exists = |name: &str| programs.split(' ').any(|program| program == name);
            assert_eq!(Manager::find(yum, &exists), expected, "{programs} {yum:?}");
        }
    }

    #[test]
    fn the_old_downloader_is_installed_where_it_is_missing() {
        let action = Action::Download(Some("/x".into()), list("a"));
        let lines = |facts: &Facts| -> Vec<String> {
            let lines = commands(Manager::Yum, &action, facts);
            lines.iter().map(|words| words.join(" ")).collect()
        };
        let download = "yumdownloader --destdir=/x a";
        assert_eq!(
            lines(&Facts::default()),
            ["yum install -y yum-utils", download]
        );
        let facts = Facts {
            yumdownloader: true,
            ..Facts::default()
        };
        assert_eq!(lines(&facts), [download]);
    }

    #[test]
    fn names_are_sorted_and_translated() {
        assert!(RPM_NAMES.is_sorted_by(|a, b| a.0 < b.0));
        for (debian, rpm) in [
            ("apache2", "httpd"),
            ("libssl-dev", "openssl-devel"),
            ("libfoo-dev", "libfoo-devel"),
            ("snmp-mibs-downloader", ""),
            ("vim", "vim"),
        ] {
            assert_eq!(rpm_name(debian), rpm);
        }
    }
}
