//! `cache-url [-f] URL DEST`: fetches a file unless the copy at hand is current.
//!
//! Exit status 44 means that there is no such file (404), 1 any other failure.

use std::ffi::{OsStr, OsString};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{Explain, env_text};
use crate::fetch::{
    Answer, Body, Client, Condition, Error, Location, Options, without_credentials,
};
use crate::sink::{self, Existing, Output};

const USAGE: &str = "usage: cache-url [-f] URL DEST\n\n\
    Fetches URL to DEST unless DEST is current.\n\n\
    \x20 -f  fetch in any case, past caches on the way\n\
    \x20 -h  show this help\n";

/// Exit status if the server has no such file.
pub(super) const NOT_FOUND: u8 = 44;

/// Why the file is not there.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The arguments are wrong.
    #[error("{reason}")]
    Usage {
        /// What is wrong with them.
        reason: String,
    },
    /// It cannot be fetched.
    #[error(transparent)]
    Fetch(#[from] Error),
    /// It cannot get its place.
    #[error(transparent)]
    Place(#[from] sink::Error),
    /// It cannot be stored.
    #[error("cannot write `{path}`")]
    Write {
        /// The destination.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl Explain for Failure {
    fn hint(&self) -> Option<String> {
        match self {
            Failure::Usage { .. } => Some("`cache-url -h` shows how it is used".to_owned()),
            Failure::Fetch(error) => error.hint().map(str::to_owned),
            Failure::Place(error) => error.hint(),
            Failure::Write { .. } => Some("check that its directory may be written".to_owned()),
        }
    }

    fn is_outside(&self) -> bool {
        matches!(self, Failure::Fetch(_))
    }

    fn code(&self) -> u8 {
        match self {
            Failure::Fetch(Error::Status { status: 404, .. }) => NOT_FOUND,
            _ => 1,
        }
    }
}

/// Runs the helper.
pub fn main(_called: &OsStr, args: &[OsString]) -> Result<ExitCode, Failure> {
    let usage = |reason: &str| Failure::Usage {
        reason: reason.to_owned(),
    };
    let mut force = false;
    let mut rest = args.iter();
    let mut operands = Vec::new();
    for argument in rest.by_ref() {
        match argument.to_str() {
            Some("-h" | "--help") => {
                super::print(USAGE);
                return Ok(ExitCode::SUCCESS);
            }
            Some("-f") => force = true,
            Some("--") => break,
            Some(option) if option.starts_with('-') && option.len() > 1 => {
                return Err(usage(&format!("the option `{option}` is not known")));
            }
            _ => operands.push(argument),
        }
    }
    operands.extend(rest);
    let [url, destination] = operands.as_slice() else {
        return Err(usage("a URL and a destination are needed"));
    };
    let url = url.to_str().ok_or_else(|| usage("the URL is not text"))?;
    let fetched = get(url, Path::new(destination), force)?;
    super::print(&format!("{}\n", told(fetched, url, force)));
    Ok(ExitCode::SUCCESS)
}

/// What was done, for people and logs.
fn told(fetched: Fetched, url: &str, force: bool) -> String {
    let url = without_credentials(url);
    match fetched {
        Fetched::New if force => format!("Downloaded and cached {url}, past all caches on the way"),
        Fetched::New => format!("Downloaded and cached {url} for the first time"),
        Fetched::Changed => format!("Server copy has changed: downloaded and cached {url}"),
        Fetched::Unchanged => format!("Server copy has not changed: using the cached {url}"),
        Fetched::Offline => format!("Offline: using the cached {url}"),
    }
}

/// What was found to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fetched {
    /// There was no copy, or none that counted.
    New,
    /// The server's is another than the copy.
    Changed,
    /// The copy is current.
    Unchanged,
    /// The copy stays without a look at the server.
    Offline,
}

/// Fetches a URL to a destination, if that is not current or `force` is set.
pub(super) fn get(url: &str, destination: &Path, force: bool) -> Result<Fetched, Failure> {
    let client = Client::new(Options {
        offline: env_text("DIB_OFFLINE").is_some_and(|value| value != "0"),
        backoff: Duration::from_secs(2),
        ..Options::default()
    })?;
    fetch(&client, &Location::parse(url)?, destination, force)
}

/// Fetches to a destination; a FIFO gets the content, a file is replaced when it is complete.
fn fetch(
    client: &Client,
    location: &Location,
    destination: &Path,
    force: bool,
) -> Result<Fetched, Failure> {
    let write = |source| Failure::Write {
        path: destination.to_owned(),
        source,
    };
    let present = fs_err::metadata(destination).ok();
    let is_fifo = present.as_ref().is_some_and(|m| m.file_type().is_fifo());
    let current = present.filter(|metadata| metadata.is_file() && metadata.len() > 0);
    if client.options().offline && location.as_file().is_none() && current.is_some() {
        return Ok(Fetched::Offline);
    }
    let condition = Condition {
        modified_since: current
            .as_ref()
            .filter(|_| !force && location.as_file().is_none())
            .and_then(|metadata| metadata.modified().ok()),
        etag: None,
        no_cache: force,
    };
    // A build that is stopped is killed, so that nobody would remove a file with a name.
    let mut received;
    if is_fifo {
        let mut spool = tempfile::tempfile().map_err(write)?;
        received = receive(client, location, &condition, &spool, destination)?;
        received.changed &= !is_empty_answer(&received, &condition);
        if received.changed {
            let mut to = fs_err::OpenOptions::new()
                .write(true)
                .open(destination)
                .map_err(write)?;
            spool.rewind().map_err(write)?;
            io::copy(&mut spool, &mut to).map_err(write)?;
        }
    } else {
        match destination.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                fs_err::create_dir_all(parent).map_err(write)?;
            }
            _ => {}
        }
        let new = Output::create(destination, 0)?;
        let mode = std::fs::Permissions::from_mode(0o644);
        new.file().set_permissions(mode).map_err(write)?;
        received = receive(client, location, &condition, new.file(), destination)?;
        received.changed &= !is_empty_answer(&received, &condition);
        if received.changed {
            new.commit(&Existing::Replace, false)?;
        }
    }
    if !received.changed {
        return Ok(Fetched::Unchanged);
    }
    Ok(if force || current.is_none() {
        Fetched::New
    } else {
        Fetched::Changed
    })
}

struct Received {
    changed: bool,
    length: u64,
}

/// Whether an answer to a conditional request is empty: a server's way to say "unchanged".
fn is_empty_answer(received: &Received, condition: &Condition) -> bool {
    received.length == 0 && condition.modified_since.is_some()
}

/// Receives a body, going on after a broken transfer as long as it is the same file.
fn receive(
    client: &Client,
    location: &Location,
    condition: &Condition,
    mut file: &std::fs::File,
    destination: &Path,
) -> Result<Received, Failure> {
    let write = |source| Failure::Write {
        path: destination.to_owned(),
        source,
    };
    let mut length = 0_u64;
    let mut version: Option<(Option<std::time::SystemTime>, Option<String>)> = None;
    let mut left = client.options().retries;
    let mut pause = client.options().backoff;
    loop {
        let attempt = (|| -> Result<bool, Failure> {
            let offset = if version.is_some() { length } else { 0 };
            let condition = if offset > 0 {
                &Condition::default()
            } else {
                condition
            };
            let mut body: Body = match client.open(location, condition, offset)? {
                Answer::NotModified if condition.modified_since.is_some() => return Ok(false),
                Answer::NotModified => return Err(unasked(location).into()),
                Answer::Body(body) => body,
            };
            // Some servers answer conditional requests in full.
            if let (Some(since), Some(modified)) = (condition.modified_since, body.modified)
                && modified <= since
            {
                return Ok(false);
            }
            let this = (body.modified, body.etag.clone());
            if body.offset != 0 && version.as_ref() != Some(&this) {
                // Another version meanwhile: from the start.
                body = match client.open(location, &Condition::default(), 0)? {
                    Answer::Body(body) => body,
                    Answer::NotModified => return Err(unasked(location).into()),
                };
            }
            if body.offset == 0 {
                file.set_len(0).map_err(write)?;
                file.rewind().map_err(write)?;
                length = 0;
            }
            version =
                Some((body.modified, body.etag.clone())).filter(|v| v.0.is_some() || v.1.is_some());
            let mut buffer = vec![0; 128 * 1024];
            loop {
                let count = body.read(&mut buffer)?;
                if count == 0 {
                    return Ok(true);
                }
                file.write_all(&buffer[..count]).map_err(write)?;
                length += u64::try_from(count).unwrap_or(0);
            }
        })();
        match attempt {
            Ok(changed) => return Ok(Received { changed, length }),
            Err(Failure::Fetch(error)) if error.is_transient() && left > 0 => {
                left -= 1;
                std::thread::sleep(pause);
                pause = pause.saturating_mul(2);
            }
            Err(error) => return Err(error),
        }
    }
}

/// There is no copy that could have stayed as it is.
fn unasked(location: &Location) -> Error {
    Error::Transfer {
        url: location.to_string(),
        reason: "the server answered 304 although it was asked for the file".to_owned(),
        hint: "a proxy on the way may be broken; use another mirror",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> Result<ExitCode, Failure> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        main(OsStr::new("cache-url"), &args)
    }

    #[test]
    fn files_are_always_copied() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs_err::write(&from, "new").expect("written");
        fs_err::write(&to, "old").expect("written");
        let url = format!("file://{}", from.display());
        run(&[&url, &to.display().to_string()]).expect("fetched");
        assert_eq!(fs_err::read(&to).expect("there"), b"new");
        let left = fs_err::read_dir(dir.path()).expect("there").count();
        assert_eq!(left, 2, "no temporary file stays");
    }

    #[test]
    fn a_server_that_says_unchanged_without_being_asked_is_not_believed() {
        use crate::fetch::testing::{Page, Server, client};
        let server = Server::start();
        let page = Page {
            status: Some((304, String::new())),
            ..Default::default()
        };
        server.put_page("/file", page);
        let dir = tempfile::tempdir().expect("a directory");
        let to = dir.path().join("to");
        let location = Location::parse(&format!("{}/file", server.url)).expect("a URL");
        let get = |force| fetch(&client(false), &location, &to, force);
        for force in [false, true] {
            let error = get(force).expect_err("there is no copy");
            assert!(error.to_string().contains("answered 304"), "{error}");
            assert_eq!(fs_err::read_dir(dir.path()).expect("there").count(), 0);
        }
        fs_err::write(&to, "old").expect("written");
        assert_eq!(get(false).expect("asked for"), Fetched::Unchanged);
        assert!(get(true).is_err());
        assert_eq!(fs_err::read(&to).expect("there"), b"old");
    }

    #[test]
    fn credentials_are_not_told() {
        for fetched in [Fetched::New, Fetched::Changed, Fetched::Offline] {
            let line = told(fetched, "http://me:secret@a.example/x", false);
            assert!(line.contains("http://a.example/x"), "{line}");
            assert!(!line.contains("secret"), "{line}");
        }
    }

    #[test]
    fn missing_arguments_are_explained() {
        for args in [&[][..], &["http://a/"], &["-x", "a", "b"], &["a", "b", "c"]] {
            let error = run(args).expect_err("refused");
            assert!(matches!(error, Failure::Usage { .. }), "{error}");
            assert_eq!(error.code(), 1);
        }
    }

    #[test]
    fn not_found_has_its_own_status() {
        let error = Failure::Fetch(Error::Status {
            url: "http://a/".into(),
            status: 404,
        });
        assert_eq!(error.code(), 44);
    }
}
