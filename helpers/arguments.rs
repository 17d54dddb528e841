//! Options of the programs that upstream has in Python, by the rules of its parser.
//!
//! A long option may be cut short as long as it stays unique, its value follows or
//! stands behind an equals sign, options and names may be mixed, and after `--` come
//! names alone. Misuse ends a program with the status 2.

use std::ffi::{OsStr, OsString};

use thiserror::Error;

/// Why arguments make no sense.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// An option without its value.
    #[error("option `{option}` needs a value")]
    NoValue {
        /// The option.
        option: String,
    },
    /// A value where none belongs.
    #[error("option `{option}` takes no value")]
    Value {
        /// The option.
        option: String,
    },
    /// Too short.
    #[error("option `{option}` may mean {}", .names.join(" or "))]
    Ambiguous {
        /// The option as it is written.
        option: String,
        /// What it may mean.
        names: Vec<String>,
    },
    /// Not an option of the program.
    #[error("unknown option `{option}`")]
    Unknown {
        /// The option.
        option: String,
    },
}

impl super::Explain for Error {
    fn hint(&self) -> Option<String> {
        Some("`--help` lists the options".into())
    }

    fn code(&self) -> u8 {
        2
    }
}

/// An option that a program has.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Its name, with the dashes.
    pub long: &'static str,
    /// Its letter, with the dash.
    pub short: Option<&'static str>,
    /// Whether it has a value.
    pub value: bool,
    /// Whether upstream's program does not have it: no abbreviation that upstream
    /// takes becomes ambiguous by it.
    pub added: bool,
}

/// An option with a value.
pub const fn value(long: &'static str) -> Known {
    Known {
        long,
        short: None,
        value: true,
        added: false,
    }
}

/// An option without one.
pub const fn flag(long: &'static str, short: Option<&'static str>) -> Known {
    Known {
        long,
        short,
        value: false,
        added: false,
    }
}

/// An option that only kiln's program has.
pub const fn added(known: Known) -> Known {
    Known {
        added: true,
        ..known
    }
}

const HELP: Known = flag("--help", Some("-h"));

/// What the arguments say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments {
    options: Vec<(&'static str, OsString)>,
    /// What is no option, in order.
    pub rest: Vec<OsString>,
}

impl Arguments {
    /// The last value of an option.
    pub fn get(&self, long: &str) -> Option<&OsStr> {
        let mut found = self.options.iter().rev();
        found
            .find(|(name, _)| *name == long)
            .map(|(_, value)| value.as_os_str())
    }

    /// The last value of an option, as text.
    pub fn text(&self, long: &str) -> Option<String> {
        self.get(long)
            .map(|value| value.to_string_lossy().into_owned())
    }

    /// Whether an option is there.
    pub fn has(&self, long: &str) -> bool {
        self.get(long).is_some()
    }

    /// Whether help is asked for.
    pub fn asks_for_help(&self) -> bool {
        self.has(HELP.long)
    }
}

/// Reads arguments. Options that are not known are names if `lenient`.
pub fn parse(args: &[OsString], known: &[Known], lenient: bool) -> Result<Arguments, Error> {
    let mut found = Arguments::default();
    let mut args = args.iter().peekable();
    while let Some(arg) = args.next() {
        let text = arg.to_str().unwrap_or_default();
        if text == "--" {
            found.rest.extend(args.cloned());
            break;
        }
        let (name, inline) = match text.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value)),
            _ => (text, None),
        };
        let Some(option) = find(name, known)? else {
            if !lenient && text.len() > 1 && text.starts_with('-') {
                return Err(Error::Unknown {
                    option: name.to_owned(),
                });
            }
            found.rest.push(arg.clone());
            continue;
        };
        let value = match (option.value, inline) {
            (false, None) => OsString::new(),
            (false, Some(_)) => {
                return Err(Error::Value {
                    option: option.long.to_owned(),
                });
            }
            (true, Some(value)) => value.into(),
            // A dash alone is a value, what only begins with one is the next option.
            (true, None) => args
                .next_if(|next| {
                    let bytes = next.as_encoded_bytes();
                    bytes == b"-" || !bytes.starts_with(b"-")
                })
                .cloned()
                .ok_or_else(|| Error::NoValue {
                    option: option.long.to_owned(),
                })?,
        };
        found.options.push((option.long, value));
        if option.long == HELP.long {
            break;
        }
    }
    Ok(found)
}

/// The option that a word means, if it is one.
fn find(name: &str, known: &[Known]) -> Result<Option<Known>, Error> {
    let mut all = known.iter().copied().chain([HELP]);
    if let Some(exact) = all
        .clone()
        .find(|option| option.long == name || option.short == Some(name))
    {
        return Ok(Some(exact));
    }
    if name.len() <= 2 || !name.starts_with("--") {
        return Ok(None);
    }
    let mut meant: Vec<Known> = all
        .by_ref()
        .filter(|option| option.long.starts_with(name))
        .collect();
    if meant.iter().any(|option| !option.added) {
        meant.retain(|option| !option.added);
    }
    match meant[..] {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => Err(Error::Ambiguous {
            option: name.to_owned(),
            names: meant.iter().map(|option| option.long.to_owned()).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [Known; 4] = [
        value("--phase"),
        value("--prefix"),
        flag("--noop", Some("-n")),
        added(flag("--no-more", None)),
    ];

    fn read(line: &str, lenient: bool) -> Result<Arguments, Error> {
        let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        parse(&args, &KNOWN, lenient)
    }

    #[test]
    fn options_are_read_by_the_rules_of_argparse() {
        for (line, phase, prefix, noop, rest) in [
            ("a --phase x b", Some("x"), None, false, "a b"),
            ("--phase=x --phase=y=z", Some("y=z"), None, false, ""),
            ("--ph x -n", Some("x"), None, true, ""),
            ("--no", None, None, true, ""),
            ("--prefix - a -- --noop", None, Some("-"), false, "a --noop"),
            ("--unknown -x a=b", None, None, false, "--unknown -x a=b"),
        ] {
            let found = read(line, true).unwrap();
            assert_eq!(found.text("--phase").as_deref(), phase, "{line}");
            assert_eq!(found.text("--prefix").as_deref(), prefix, "{line}");
            assert_eq!(found.has("--noop"), noop, "{line}");
            assert_eq!(found.rest.join(OsStr::new(" ")), rest, "{line}");
        }
        for line in ["-h --phase", "--he", "x --help --unknown"] {
            assert!(read(line, false).unwrap().asks_for_help(), "{line}");
        }
    }

    #[test]
    fn misuse_is_named() {
        for (line, message) in [
            ("--phase", "option `--phase` needs a value"),
            ("--phase --noop", "option `--phase` needs a value"),
            ("--p x", "option `--p` may mean --phase or --prefix"),
            ("--noop=1", "option `--noop` takes no value"),
            ("-x", "unknown option `-x`"),
        ] {
            assert_eq!(read(line, false).unwrap_err().to_string(), message);
        }
    }
}
