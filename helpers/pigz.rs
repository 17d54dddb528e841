//! `pigz`: gzip on all processors, for programs that make an initramfs.
//!
//! initramfs-tools compresses by `gzip` on one, unless there is a `pigz` in its own
//! `PATH`, and that is a quarter of the time that an initramfs takes. So one is there
//! for as long as `update-initramfs` runs. It only compresses to its output, which is
//! all that it is called for.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::Explain;
use crate::sink::gzip::GzipWriter;

/// Why nothing is compressed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something that this program does not do.
    #[error("kiln's `pigz` does not know `{argument}`")]
    Usage {
        /// The argument.
        argument: String,
    },
    /// A file is to be replaced.
    #[error("kiln's `pigz` only writes to its output, not to `{}.gz`", path.display())]
    Replace {
        /// The file.
        path: PathBuf,
    },
    /// The input cannot be read.
    #[error("cannot open `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The data cannot be copied.
    #[error("cannot compress")]
    Copy(#[source] io::Error),
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Usage { .. } | Self::Replace { .. } => Some(
                "it is there for programs that make an initramfs and is called `pigz -c FILE`; \
                 the target's package `pigz` has all of it"
                    .to_owned(),
            ),
            Self::Open { .. } | Self::Copy(_) => None,
        }
    }
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    level: u32,
    threads: Option<usize>,
    to_output: bool,
    files: Vec<PathBuf>,
}

fn parse(args: &[OsString]) -> Result<Call, Error> {
    let mut call = Call {
        level: 6,
        threads: None,
        to_output: false,
        files: Vec::new(),
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        let usage = || Error::Usage {
            argument: text.to_string(),
        };
        let mut number = |rest: &str| {
            let value = match rest {
                "" => args.next().map(|next| next.to_string_lossy().into_owned()),
                rest => Some(rest.to_owned()),
            };
            let value = value.and_then(|value| value.parse::<usize>().ok());
            value.ok_or_else(usage)
        };
        match text.as_ref() {
            "--stdout" | "--to-stdout" => call.to_output = true,
            "--fast" => call.level = 1,
            "--best" => call.level = 9,
            "--processes" => call.threads = Some(number("")?),
            "--blocksize" => _ = number("")?,
            "--no-name" | "--no-time" | "--rsyncable" | "--quiet" | "--silent" | "--keep" => {}
            "-" => {}
            long if long.starts_with("--") => return Err(usage()),
            short if short.starts_with('-') => {
                for (at, letter) in short.char_indices().skip(1) {
                    match letter {
                        '0'..='9' => call.level = letter.to_digit(10).unwrap_or(6),
                        'c' => call.to_output = true,
                        // Neither name nor time is written anyway.
                        'n' | 'm' | 'M' | 'T' | 'R' | 'q' | 'k' => {}
                        'p' => {
                            call.threads = Some(number(&short[at + 1..])?);
                            break;
                        }
                        'b' => {
                            number(&short[at + 1..])?;
                            break;
                        }
                        _ => return Err(usage()),
                    }
                }
            }
            _ => call.files.push(arg.into()),
        }
    }
    match call.files.first() {
        Some(path) if !call.to_output => Err(Error::Replace { path: path.clone() }),
        _ => Ok(call),
    }
}

/// Where mkinitramfs looks: it sets `PATH` itself.
const PLACE: &str = "/usr/bin/pigz";

/// A `pigz` that is there as long as this lives.
pub(super) struct Lent {
    link: PathBuf,
    program: PathBuf,
}

impl Lent {
    /// Puts this program into the target's `/usr/bin`; `None` where there is one, or
    /// where that is not possible, as then it only takes longer.
    pub(super) fn new() -> Option<Lent> {
        Lent::at(Path::new(PLACE))
    }

    fn at(link: &Path) -> Option<Lent> {
        let program = std::env::current_exe().ok()?;
        // Refuses a link too that leads nowhere.
        symlink(&program, link).ok()?;
        Some(Lent {
            link: link.to_owned(),
            program,
        })
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Something else by now is not ours to remove.
        if std::fs::read_link(&self.link).is_ok_and(|target| target == self.program)
            && let Err(error) = std::fs::remove_file(&self.link)
        {
            super::say(&format!("cannot remove `{}`: {error}", self.link.display()));
        }
    }
}

/// `pigz [-0..-9] [-c] [-n] [-p THREADS] [FILE…]`
pub(super) fn main(_: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let call = parse(args)?;
    if call.files.is_empty() {
        compress(&call, &mut io::stdin().lock())?;
    }
    for path in &call.files {
        let open = File::open(path).map_err(|source| Error::Open {
            path: path.clone(),
            source,
        });
        compress(&call, &mut open?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn compress(call: &Call, from: &mut dyn io::Read) -> Result<(), Error> {
    let out = io::stdout().lock();
    let mut out = match call.threads {
        Some(threads) => GzipWriter::with_threads(out, call.level, threads),
        None => GzipWriter::new(out, call.level),
    };
    io::copy(from, &mut out).map_err(Error::Copy)?;
    out.finish().map_err(Error::Copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn call(level: u32, threads: Option<usize>, to_output: bool, files: &[&str]) -> Call {
        Call {
            level,
            threads,
            to_output,
            files: files.iter().map(PathBuf::from).collect(),
        }
    }

    #[test]
    fn calls_of_initramfs_tools_and_dracut_are_understood() {
        for (line, expected) in [
            ("-c /var/tmp/main", call(6, None, true, &["/var/tmp/main"])),
            ("-9 -c /a /b", call(9, None, true, &["/a", "/b"])),
            ("-9 -n -T -R", call(9, None, false, &[])),
            ("-1ncp3 /a", call(1, Some(3), true, &["/a"])),
            ("--stdout -p 2 -b 512 -", call(6, Some(2), true, &[])),
        ] {
            assert_eq!(parse(&words(line)).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn it_is_lent_only_where_there_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("pigz");
        let lent = Lent::at(&place).unwrap();
        assert!(Lent::at(&place).is_none());
        let target = std::fs::read_link(&place).unwrap();
        assert_eq!(target, std::env::current_exe().unwrap());
        drop(lent);
        assert!(!place.is_symlink());

        let replaced = Lent::at(&place).unwrap();
        std::fs::remove_file(&place).unwrap();
        std::fs::write(&place, "the package's").unwrap();
        drop(replaced);
        assert!(place.exists());
    }

    #[test]
    fn what_it_does_not_do_is_refused() {
        for line in ["-d", "--decompress", "-c -t /a", "-p", "-p x", "-l /a"] {
            let error = parse(&words(line)).unwrap_err();
            assert!(matches!(error, Error::Usage { .. }), "{line}: {error:?}");
        }
        let error = parse(&words("-9 /a")).unwrap_err();
        assert!(error.to_string().contains("`/a.gz`"), "{error}");
    }
}
