//! The image cache: blobs by content, documents by URL.
//!
//! ```text
//! DIB_IMAGE_CACHE/kiln/
//!   blobs/ab/abcdef…      verified when written and again when used, read-only
//!   partial/abcdef…       being written; locked by its writer, kept for resuming
//!   documents/0123…       a line of JSON: its URL and digest; then the bytes
//! ```
//!
//! Every file appears under its final name by a rename when it is complete, so
//! that any number of builds can share the cache.

use std::fs::{File, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_err::OpenOptions;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Answer, Client, Condition, Digest, Error, Location, Progress};

/// Bytes moved at a time.
const CHUNK: usize = 128 * 1024;

/// A directory that keeps what was downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

/// A file whose content is known beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Where it may be, in order of preference; the next is tried after a 404.
    pub locations: Vec<Location>,
    /// Size in bytes.
    pub size: u64,
    /// Digest of the content.
    pub sha256: Digest,
}

/// A file of the cache that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Where it is; not to be modified.
    pub path: PathBuf,
    /// Size in bytes.
    pub size: u64,
}

/// A file whose content is known by nothing but its URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The content.
    pub bytes: Vec<u8>,
    /// When the server says that it was modified.
    pub modified: Option<SystemTime>,
    store: PathBuf,
    header: DocumentHeader,
    fresh: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct DocumentHeader {
    url: String,
    /// Of the bytes: what a power cut left of them must not count as cached.
    sha256: String,
    etag: Option<String>,
    /// Seconds since 1970.
    modified: Option<u64>,
}

impl Cache {
    /// Uses the directory `kiln` below an image cache (`DIB_IMAGE_CACHE`).
    pub fn new(image_cache: &Path) -> Cache {
        Cache {
            root: image_cache.join("kiln"),
        }
    }

    /// Returns the directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns where a blob is or would be.
    pub fn blob_path(&self, sha256: Digest) -> PathBuf {
        let name = sha256.to_string();
        self.root.join("blobs").join(&name[..2]).join(&name)
    }

    /// Returns a blob if it is here and intact; a damaged one is removed.
    pub fn find(&self, sha256: Digest, size: u64) -> Result<Option<Blob>, Error> {
        let path = self.blob_path(sha256);
        let mut file = match open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(store("open", &path, source)),
        };
        let actual = file.metadata().map_err(|e| store("read", &path, e))?.len();
        if actual == size {
            let mut hasher = Sha256::new();
            let mut buffer = vec![0; CHUNK];
            loop {
                match file.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => hasher.update(&buffer[..count]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(source) => return Err(store("read", &path, source)),
                }
            }
            if Digest::from_hasher(hasher) == sha256 {
                return Ok(Some(Blob { path, size }));
            }
        }
        tracing::warn!(path = %path.display(), "removing a damaged file from the cache");
        match fs_err::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(store("remove", &path, error))
            }
            _ => Ok(None),
        }
    }

    /// Puts bytes that are known to be good into the cache.
    pub fn insert(&self, bytes: &[u8]) -> Result<Blob, Error> {
        let path = self.blob_path(Digest::of(bytes));
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        // Verified when it is used: what a power cut leaves of it does not count.
        write_atomically(&path, &[bytes], false)?;
        Ok(Blob { path, size })
    }

    /// Gives a file, from the cache or from its location.
    pub fn fetch(
        &self,
        client: &Client,
        item: &Item,
        progress: Progress<'_>,
    ) -> Result<Blob, Error> {
        if let Some(blob) = self.find(item.sha256, item.size)? {
            progress(item.size);
            return Ok(blob);
        }
        let mut result = Err(Error::BadLocation {
            text: item.sha256.to_string(),
            reason: "it has no location",
        });
        for location in &item.locations {
            if client.options().offline && location.as_file().is_none() {
                result = Err(Error::Offline {
                    cache: self.root.clone(),
                    missing: vec![location.to_string()],
                });
                continue;
            }
            result = self.download(client, item, location, progress);
            match &result {
                Err(Error::Status {
                    status: 403 | 404 | 410,
                    ..
                }) => {}
                Err(Error::ReadSource { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                _ => break,
            }
        }
        result
    }

    /// Gives many files, several at a time; `ready` hears of each as it is complete.
    ///
    /// The first error stops everything, except offline, where the error
    /// lists all that is missing.
    pub fn fetch_all(
        &self,
        client: &Client,
        items: &[Item],
        progress: Progress<'_>,
        ready: &(dyn Fn(usize, &Blob) + Sync),
    ) -> Result<Vec<Blob>, Error> {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let results: Vec<Mutex<Option<Result<Blob, Error>>>> =
            items.iter().map(|_| Mutex::new(None)).collect();
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let (Some(item), false) = (items.get(index), stop.load(Ordering::Relaxed)) else {
                    return;
                };
                let result = self.fetch(client, item, progress);
                match &result {
                    Ok(blob) => ready(index, blob),
                    Err(Error::Offline { .. }) => {}
                    Err(_) => stop.store(true, Ordering::Relaxed),
                }
                if let Some(slot) = results.get(index) {
                    *slot.lock().unwrap_or_else(|poison| poison.into_inner()) = Some(result);
                }
            }
        };
        let threads = client.options().connections.clamp(1, items.len().max(1));
        std::thread::scope(|scope| {
            for _ in 1..threads {
                // Without it others do what there is.
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        let mut blobs = Vec::with_capacity(items.len());
        let mut lacking = Vec::new();
        let mut failure = None;
        for slot in results {
            match slot
                .into_inner()
                .unwrap_or_else(|poison| poison.into_inner())
            {
                Some(Ok(blob)) => blobs.push(blob),
                Some(Err(Error::Offline { missing, .. })) => lacking.extend(missing),
                Some(Err(error)) => failure = failure.or(Some(error)),
                None => {}
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        if !lacking.is_empty() {
            return Err(Error::Offline {
                cache: self.root.clone(),
                missing: lacking,
            });
        }
        Ok(blobs)
    }

    /// Downloads into `partial` under a lock, verifies and renames.
    fn download(
        &self,
        client: &Client,
        item: &Item,
        location: &Location,
        progress: Progress<'_>,
    ) -> Result<Blob, Error> {
        let partial = self.root.join("partial").join(item.sha256.to_string());
        let path = self.blob_path(item.sha256);
        let mut file = lock_partial(&partial)?;
        // Another build may have finished while we waited.
        if let Some(blob) = self.find(item.sha256, item.size)? {
            let _ = fs_err::remove_file(&partial);
            progress(item.size);
            return Ok(blob);
        }
        let mut transfer = Transfer::resume(&mut file, &partial, item, progress)?;
        let resumed = transfer.done > 0;
        let mut outcome = transfer.run(client, location);
        if resumed && matches!(outcome, Err(Error::Hash { .. })) {
            // What an earlier run left may be of another version: once more from the start.
            transfer.restart()?;
            outcome = transfer.run(client, location);
        }
        if let Err(error) = outcome {
            if matches!(error, Error::Hash { .. } | Error::Size { .. }) {
                let _ = fs_err::remove_file(&partial);
            }
            return Err(error);
        }
        if let Some(parent) = path.parent() {
            fs_err::create_dir_all(parent).map_err(|source| store("create", parent, source))?;
        }
        fs_err::rename(&partial, &path).map_err(|source| store("write", &path, source))?;
        // Not before: whoever waits for the partial file has to open it.
        file.set_permissions(Permissions::from_mode(0o444))
            .map_err(|source| store("write", &path, source))?;
        Ok(Blob {
            path,
            size: item.size,
        })
    }

    /// Gives a document in its newest version, asking the server whether ours still is that.
    ///
    /// Nothing is stored before [`Document::keep`], so that what fails its
    /// verification does not replace what passed it.
    pub fn document(
        &self,
        client: &Client,
        location: &Location,
        limit: u64,
    ) -> Result<Document, Error> {
        let cached = read_document(&self.document_path(location), location);
        if client.options().offline && location.as_file().is_none() {
            return cached.ok_or_else(|| Error::Offline {
                cache: self.root.clone(),
                missing: vec![location.to_string()],
            });
        }
        let condition = match &cached {
            Some(document) => Condition {
                modified_since: document.modified,
                etag: document.header.etag.clone(),
                no_cache: false,
            },
            None => Condition::default(),
        };
        // A copy of a local file costs as much as asking whether it changed.
        let condition = match location {
            Location::File(_) => Condition::default(),
            Location::Web(_) => condition,
        };
        self.ask(client, location, limit, &condition, cached)
    }

    /// Gives a document as its server has it now, whatever the cache has, past the
    /// caches of proxies: for when the one from the cache fails its verification.
    pub fn document_anew(
        &self,
        client: &Client,
        location: &Location,
        limit: u64,
    ) -> Result<Document, Error> {
        let condition = Condition {
            no_cache: true,
            ..Condition::default()
        };
        self.ask(client, location, limit, &condition, None)
    }

    fn document_path(&self, location: &Location) -> PathBuf {
        let name = Digest::of(location.to_string().as_bytes()).to_string();
        self.root.join("documents").join(name)
    }

    fn ask(
        &self,
        client: &Client,
        location: &Location,
        limit: u64,
        condition: &Condition,
        cached: Option<Document>,
    ) -> Result<Document, Error> {
        match (client.read(location, condition, limit)?, cached) {
            (None, Some(document)) => Ok(document),
            (None, None) => Err(Error::Transfer {
                url: location.to_string(),
                reason: "the server answered 304 although nothing was cached".to_owned(),
                hint: "a proxy on the way may be broken; use another mirror",
            }),
            (Some((bytes, body)), _) => Ok(Document {
                modified: body.modified,
                store: self.document_path(location),
                header: DocumentHeader {
                    url: location.to_string(),
                    sha256: Digest::of(&bytes).to_string(),
                    etag: body.etag,
                    modified: body
                        .modified
                        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
                        .map(|since| since.as_secs()),
                },
                bytes,
                fresh: true,
            }),
        }
    }
}

impl Document {
    /// Whether it came from its server just now, not from the cache.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Stores the document if it is new; call it once the content is known to be good.
    pub fn keep(&self) -> Result<(), Error> {
        if !self.fresh {
            return Ok(());
        }
        let mut header = serde_json::to_vec(&self.header).unwrap_or_default();
        header.push(b'\n');
        // The older version that this replaces may be all that is there offline.
        write_atomically(&self.store, &[&header, &self.bytes], true)
    }
}

/// Opens a file of the cache. Hooks outside may write there: a named pipe, for which somebody
/// would have to come, is an empty file.
fn open(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
}

fn read_document(path: &Path, location: &Location) -> Option<Document> {
    let mut all = Vec::new();
    open(path).ok()?.read_to_end(&mut all).ok()?;
    let end = all.iter().position(|byte| *byte == b'\n')?;
    let header: DocumentHeader = serde_json::from_slice(&all[..end]).ok()?;
    if header.url != location.to_string() {
        return None;
    }
    let bytes = all.split_off(end + 1);
    if Digest::of(&bytes).to_string() != header.sha256 {
        tracing::warn!(path = %path.display(), "a damaged document of the cache does not count");
        return None;
    }
    Some(Document {
        bytes,
        modified: header
            .modified
            .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds))),
        store: path.to_owned(),
        header,
        fresh: false,
    })
}

/// A download in progress: the file, and the digest of what it has so far.
struct Transfer<'a> {
    file: &'a mut File,
    path: &'a Path,
    item: &'a Item,
    progress: Progress<'a>,
    hasher: Sha256,
    done: u64,
    /// Bytes already told to `progress`, which can only add.
    told: u64,
}

impl<'a> Transfer<'a> {
    fn resume(
        file: &'a mut File,
        path: &'a Path,
        item: &'a Item,
        progress: Progress<'a>,
    ) -> Result<Transfer<'a>, Error> {
        let mut transfer = Transfer {
            file,
            path,
            item,
            progress,
            hasher: Sha256::new(),
            done: 0,
            told: 0,
        };
        let length = transfer.length()?;
        if length > item.size {
            transfer.restart()?;
            return Ok(transfer);
        }
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = match transfer.file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(store("read", path, source)),
            };
            transfer.hasher.update(&buffer[..count]);
            transfer.advance(count);
        }
        Ok(transfer)
    }

    fn length(&self) -> Result<u64, Error> {
        self.file
            .metadata()
            .map(|metadata| metadata.len())
            .map_err(|source| store("read", self.path, source))
    }

    fn advance(&mut self, count: usize) {
        self.done += u64::try_from(count).unwrap_or(0);
        if self.done > self.told {
            (self.progress)(self.done - self.told);
            self.told = self.done;
        }
    }

    fn restart(&mut self) -> Result<(), Error> {
        let write = |source| store("write", self.path, source);
        self.file.set_len(0).map_err(write)?;
        self.file.seek(SeekFrom::Start(0)).map_err(write)?;
        self.hasher = Sha256::new();
        self.done = 0;
        Ok(())
    }

    /// Receives the rest, going on where a broken transfer ended, and verifies.
    fn run(&mut self, client: &Client, location: &Location) -> Result<(), Error> {
        let mut before = self.done;
        loop {
            match client.retry(|| {
                // Progress since the last failure earns new retries.
                let result = self.receive(client, location);
                match result {
                    Err(error) if error.is_transient() && self.done > before => Ok(Some(error)),
                    Err(error) => Err(error),
                    Ok(()) => Ok(None),
                }
            })? {
                None => break,
                Some(error) => {
                    tracing::debug!(%error, done = self.done, "resuming");
                    before = self.done;
                }
            }
        }
        let actual = Digest::from_hasher(self.hasher.clone());
        if actual != self.item.sha256 {
            return Err(Error::Hash {
                url: location.to_string(),
                expected: self.item.sha256,
                actual,
            });
        }
        Ok(())
    }

    fn receive(&mut self, client: &Client, location: &Location) -> Result<(), Error> {
        if self.done == self.item.size {
            return Ok(());
        }
        let answer = match client.open(location, &Condition::default(), self.done) {
            // The server has less than we have: what we have is of another version.
            Err(Error::Status { status: 416, .. }) if self.done > 0 => {
                self.restart()?;
                client.open(location, &Condition::default(), 0)?
            }
            answer => answer?,
        };
        let Answer::Body(mut body) = answer else {
            return Err(Error::Status {
                url: location.to_string(),
                status: 304,
            });
        };
        if body.offset != self.done {
            self.restart()?;
        }
        let whole = body
            .length
            .and_then(|length| length.checked_add(body.offset));
        if let Some(actual) = whole
            && actual != self.item.size
        {
            return Err(Error::Size {
                url: location.to_string(),
                expected: self.item.size,
                actual,
            });
        }
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = body.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            let length = u64::try_from(count).unwrap_or(u64::MAX);
            if length > self.item.size - self.done {
                return Err(Error::Size {
                    url: location.to_string(),
                    expected: self.item.size,
                    actual: self.done.saturating_add(length),
                });
            }
            self.file
                .write_all(&buffer[..count])
                .map_err(|source| store("write", self.path, source))?;
            self.hasher.update(&buffer[..count]);
            self.advance(count);
        }
        if self.done < self.item.size {
            return Err(Error::Transfer {
                url: location.to_string(),
                reason: format!("it ended after {} of {} bytes", self.done, self.item.size),
                hint: "check the network; what has arrived is kept and the next run goes on from there",
            });
        }
        Ok(())
    }
}

/// Opens a partial file, locked.
///
/// Its last owner may have renamed it away while we waited; then we begin anew.
fn lock_partial(path: &Path) -> Result<Flock<File>, Error> {
    let lock = |source| store("lock", path, source);
    if let Some(parent) = path.parent() {
        fs_err::create_dir_all(parent).map_err(lock)?;
    }
    let mut removed = false;
    loop {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        let mut file = match opened {
            Ok(file) => file.into_parts().0,
            // Whole, but its build ended before it got its name.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !removed => {
                removed = true;
                fs_err::remove_file(path).map_err(lock)?;
                continue;
            }
            Err(error) => return Err(lock(error)),
        };
        let locked = loop {
            file = match Flock::lock(file, FlockArg::LockExclusive) {
                Ok(locked) => break locked,
                Err((file, Errno::EINTR)) => file,
                Err((_, errno)) => return Err(lock(errno.into())),
            };
        };
        let ours = locked.metadata().map_err(lock)?;
        match fs_err::metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
                return Ok(locked);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(lock(error)),
        }
    }
}

/// Writes a file under another name and renames it; if it is to be `durable`, when
/// it is on the disk.
fn write_atomically(path: &Path, parts: &[&[u8]], durable: bool) -> Result<(), Error> {
    let write = |source| store("write", path, source);
    let parent = path.parent().unwrap_or(Path::new("."));
    fs_err::create_dir_all(parent).map_err(write)?;
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(parent)
        .map_err(write)?;
    for part in parts {
        file.write_all(part).map_err(write)?;
    }
    if durable {
        file.as_file().sync_data().map_err(write)?;
    }
    file.persist(path).map_err(|error| write(error.error))?;
    Ok(())
}

fn store(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Store {
        action,
        path: path.to_owned(),
        source,
    }
}
