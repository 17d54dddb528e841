//! What hooks may use and see, as options and variables.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};

use super::caller::Caller;
use super::failure::Failure;
use super::nearest::nearest;
use crate::build::confinement::Confinement;
use crate::sandbox::limits::{DEFAULT_PROCESSES, Limits};
use crate::sandbox::network::Network;

/// The options; a variable speaks where one is not given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Confine {
    /// Network of hooks: `host`, or `none` for a loopback device and nothing else
    ///
    /// `none` implies `--offline`. Default: `host`, or KILN_NETWORK.
    #[arg(long, value_name = "NETWORK", help_heading = "Sandbox")]
    pub network: Option<String>,

    /// Memory that hooks may use together, such as 512M or 4G
    ///
    /// A build in memory counts. Default: no limit, or KILN_MEMORY.
    #[arg(long, value_name = "SIZE", help_heading = "Sandbox")]
    pub memory: Option<String>,

    /// Size that the build's directory may have, such as 20G
    ///
    /// Default: half of the memory for a build in memory, else no limit, or KILN_DISK.
    #[arg(long, value_name = "SIZE", help_heading = "Sandbox")]
    pub disk: Option<String>,

    /// Processes and threads that hooks may have at a time
    ///
    /// Default: 4096, or KILN_PROCESSES.
    #[arg(long, value_name = "N", help_heading = "Sandbox")]
    pub processes: Option<String>,

    /// Time that one hook may take, such as 90s, 30m or 2h
    ///
    /// Default: no limit, or KILN_TIMEOUT.
    #[arg(long, value_name = "TIME", help_heading = "Sandbox")]
    pub timeout: Option<String>,

    /// Time that the whole build may take
    ///
    /// Default: no limit, or KILN_BUILD_TIMEOUT.
    #[arg(long, value_name = "TIME", help_heading = "Sandbox")]
    pub build_timeout: Option<String>,

    /// Show hooks of the host a path that they would not see; may be repeated
    ///
    /// Hidden are secrets of the home directory and of sessions: docs/isolation.md. KILN_SHOW
    /// adds paths, separated by `:`.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath, help_heading = "Sandbox")]
    pub show: Vec<PathBuf>,

    /// Hand hooks a variable that looks like a secret, or `*` for all; may be repeated
    ///
    /// KILN_PASS_ENV adds names, separated by commas.
    #[arg(long, value_name = "NAME", help_heading = "Sandbox")]
    pub pass_env: Vec<String>,
}

impl Confine {
    /// Fills what was not said from the environment and checks every value.
    pub fn resolve(self, caller: &Caller) -> Result<Confinement, Failure> {
        let setting = |given: Option<String>, option: &'static str, name: &'static str| {
            Ok::<_, Failure>(match given {
                Some(text) => Some((text, option)),
                None => caller.text(name)?.map(|text| (text, name)),
            })
        };
        let network = match setting(self.network, "--network", "KILN_NETWORK")? {
            Some((text, from)) => network(&text, from)?,
            None => Network::default(),
        };
        let size = |setting: Option<(String, &str)>| {
            setting.map(|(text, from)| bytes(&text, from)).transpose()
        };
        let time = |setting: Option<(String, &str)>| {
            setting
                .map(|(text, from)| duration(&text, from))
                .transpose()
        };
        let memory = size(setting(self.memory, "--memory", "KILN_MEMORY")?)?;
        let disk = size(setting(self.disk, "--disk", "KILN_DISK")?)?;
        let processes = match setting(self.processes, "--processes", "KILN_PROCESSES")? {
            Some((text, from)) => count(&text, from)?,
            None => DEFAULT_PROCESSES,
        };
        let hook = time(setting(self.timeout, "--timeout", "KILN_TIMEOUT")?)?;
        let build = time(setting(
            self.build_timeout,
            "--build-timeout",
            "KILN_BUILD_TIMEOUT",
        )?)?;
        let mut show = self.show;
        if let Some(list) = caller.var("KILN_SHOW") {
            show.extend(std::env::split_paths(list));
        }
        let mut pass = self.pass_env;
        if let Some(list) = caller.text("KILN_PASS_ENV")? {
            pass.extend(list.split(',').map(|name| name.trim().to_owned()));
        }
        pass.retain(|name| !name.is_empty());
        Ok(Confinement {
            network,
            limits: Limits {
                memory,
                disk,
                processes,
                hook,
            },
            build,
            show: show
                .into_iter()
                .map(|path| caller.current_dir.join(path))
                .collect(),
            pass,
        })
    }
}

fn network(text: &str, from: &str) -> Result<Network, Failure> {
    Network::by_name(text).ok_or_else(|| {
        let failure = Failure::new(format!("`{from}` is `{text}`, which is not a network"));
        match nearest(text, Network::NAMES) {
            Some(meant) => failure.hint(format!("did you mean `{meant}`?")),
            None => failure.hint("known are `host` and `none`"),
        }
    })
}

/// A size in bytes: a number with K, M, G or T, of which each is 1024 of the last.
fn bytes(text: &str, from: &str) -> Result<u64, Failure> {
    let trimmed = text.trim();
    let split = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let shift = match unit.trim().to_ascii_uppercase().as_str() {
        "K" | "KIB" => Some(10),
        "M" | "MIB" => Some(20),
        "G" | "GIB" => Some(30),
        "T" | "TIB" => Some(40),
        "" | "B" => Some(0),
        _ => None,
    };
    let number = number.parse::<f64>().ok().filter(|size| *size > 0.0);
    shift
        .zip(number)
        .map(|(shift, number)| number * (1u64 << shift) as f64)
        // Less than a page for each of the few processes of a hook helps nobody.
        .filter(|bytes| (1_048_576.0..9e18).contains(bytes))
        .map(|bytes| bytes as u64)
        .ok_or_else(|| {
            Failure::new(format!(
                "`{from}` is `{text}`, which is not a size of 1 MiB or more"
            ))
            .hint("give a number with a unit, such as `512M` or `4G`")
        })
}

/// A time: a number of seconds, or one with s, m or h.
fn duration(text: &str, from: &str) -> Result<Duration, Failure> {
    let trimmed = text.trim();
    let split = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let seconds = match unit.trim() {
        "" | "s" => Some(1.0),
        "m" | "min" => Some(60.0),
        "h" => Some(3600.0),
        _ => None,
    };
    let number = number.parse::<f64>().ok().filter(|time| *time > 0.0);
    seconds
        .zip(number)
        .map(|(seconds, number)| seconds * number)
        .filter(|seconds| *seconds < 1e9)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|time| !time.is_zero())
        .ok_or_else(|| {
            Failure::new(format!("`{from}` is `{text}`, which is not a time"))
                .hint("give a number with a unit, such as `90s`, `30m` or `2h`")
        })
}

fn count(text: &str, from: &str) -> Result<u64, Failure> {
    text.trim()
        .parse()
        .ok()
        // The kernel keeps it in a signed long; below this not even a shell runs.
        .filter(|count| (16..1 << 31).contains(count))
        .ok_or_else(|| {
            Failure::new(format!(
                "`{from}` is `{text}`, which is not a number of processes from 16 on"
            ))
            .hint(format!("leave it out for {DEFAULT_PROCESSES}"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_have_units() {
        for (text, expected) in [
            ("512M", Some(512 << 20)),
            ("1.5 GiB", Some(3 << 29)),
            ("2g", Some(2 << 30)),
            ("1048576", Some(1 << 20)),
            ("12", None),
            ("4X", None),
            ("-1G", None),
            ("G", None),
            ("1e9T", None),
        ] {
            assert_eq!(bytes(text, "--memory").ok(), expected, "{text}");
        }
        for (text, expected) in [
            ("90", Some(90.0)),
            ("0.5s", Some(0.5)),
            ("30m", Some(1800.0)),
            ("2h", Some(7200.0)),
            ("0", None),
            ("2d", None),
            ("", None),
        ] {
            let found = duration(text, "--timeout").ok();
            assert_eq!(found.map(|time| time.as_secs_f64()), expected, "{text}");
        }
    }

    #[test]
    fn variables_fill_what_was_not_said() {
        let caller = Caller {
            environment: [
                ("KILN_NETWORK", "none"),
                ("KILN_MEMORY", "1G"),
                ("KILN_PASS_ENV", "A_TOKEN, B_TOKEN"),
                ("KILN_SHOW", "/a:b"),
            ]
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
            current_dir: "/here".into(),
        };
        let confine = Confine {
            memory: Some("2G".to_owned()),
            ..Confine::default()
        };
        let found = confine.resolve(&caller).expect("valid");
        assert_eq!(found.network, Network::None);
        assert_eq!(found.limits.memory, Some(2 << 30));
        assert_eq!(found.pass, ["A_TOKEN", "B_TOKEN"]);
        assert_eq!(found.show, ["/a", "/here/b"].map(PathBuf::from));
    }

    #[test]
    fn wrong_values_are_refused_with_advice() {
        let cases = [
            Confine {
                network: Some("non".to_owned()),
                ..Confine::default()
            },
            Confine {
                timeout: Some("soon".to_owned()),
                ..Confine::default()
            },
            Confine {
                processes: Some("1".to_owned()),
                ..Confine::default()
            },
        ];
        for (case, message) in cases.into_iter().zip([
            "`--network` is `non`, which is not a network",
            "`--timeout` is `soon`, which is not a time",
            "`--processes` is `1`, which is not a number of processes from 16 on",
        ]) {
            let failure = case.resolve(&Caller::default()).expect_err(message);
            assert_eq!(failure.message, message);
            assert!(!failure.hints.is_empty(), "{message}");
        }
    }
}
