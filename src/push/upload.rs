//! The whole job: a record, its bytes, the proof that they arrived, and nothing
//! left behind if anything fails.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use md5::{Digest as _, Md5};
use serde_json::{Map, Value, json};
use sha2::{Sha256, Sha512};

use super::cloud::Cloud;
use super::describe::Described;
use super::glance::{Glance, Image, Method, Visibility};
use super::http::Http;
use super::{Auth, Error};
use crate::fetch::Trust;

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// What happens to own images of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It is an error if there are any.
    Fail,
    /// If one has the same content, nothing is sent.
    Keep,
    /// They are removed when the new one is active; one with the same content stays.
    Replace,
    /// They do not matter.
    Add,
}

/// What is sent.
#[derive(Debug, Clone)]
pub struct Item {
    /// The file.
    pub path: PathBuf,
    /// The image's name.
    pub name: String,
    /// What it is.
    pub described: Described,
}

/// Kernel and initial RAM disk of an image that has none to boot (a partition image).
#[derive(Debug, Clone, Default)]
pub struct Parts {
    /// The kernel.
    pub kernel: Option<Item>,
    /// The initial RAM disk.
    pub ramdisk: Option<Item>,
}

/// How images are sent.
#[derive(Debug, Clone)]
pub struct Job {
    /// Who may see them; `None` leaves it to the service.
    pub visibility: Option<Visibility>,
    /// `container_format`.
    pub container_format: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Properties that replace or add to what the image says; empty ones remove it.
    pub properties: BTreeMap<String, String>,
    /// Cannot be deleted.
    pub protected: bool,
    /// Not shown in listings.
    pub hidden: bool,
    /// `min_disk` in GiB; `None` takes the disk's size.
    pub min_disk: Option<u64>,
    /// `min_ram` in MiB.
    pub min_ram: u64,
    /// The id of the (single) image.
    pub id: Option<String>,
    /// What happens to own images of the same name.
    pub existing: Existing,
    /// How many own images of the name are left, the new one included.
    pub keep: Option<usize>,
    /// How the bytes get there.
    pub method: Method,
    /// Kernel and initial RAM disk.
    pub parts: Parts,
    /// Pause between two looks at an image, and before the first new attempt.
    pub pause: Duration,
    /// How long an image may take to become active after its last byte.
    pub patience: Duration,
}

/// An image that is active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Its format.
    pub disk_format: String,
    /// Bytes of the file.
    pub size: u64,
    /// MD5 of the file, in hexadecimal.
    pub md5: String,
    /// SHA-512 of the file, in hexadecimal.
    pub sha512: String,
    /// It was there already.
    pub unchanged: bool,
    /// Older images that were removed.
    pub removed: Vec<String>,
}

/// What happens, for whoever shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// Bytes of a file were read: what is done with them, bytes so far, bytes in all.
    Progress(String, u64, u64),
    /// Something worth a line.
    Note(String),
}

impl Job {
    /// The record of an image.
    pub fn record(&self, item: &Item) -> Value {
        let mut record = Map::new();
        let properties = item.described.properties.iter().chain(&self.properties);
        for (key, value) in properties {
            record.insert(key.clone(), json!(value));
        }
        record.retain(|_, value| value != "");
        self.fields(&mut record, item, &self.container_format);
        if let Some(visibility) = self.visibility {
            record.insert("visibility".to_owned(), json!(visibility.name()));
        }
        let min_disk = self.min_disk.unwrap_or(item.described.min_disk);
        record.insert("min_disk".to_owned(), json!(min_disk));
        record.insert("min_ram".to_owned(), json!(self.min_ram));
        if self.protected {
            record.insert("protected".to_owned(), json!(true));
        }
        if let Some(id) = &self.id {
            record.insert("id".to_owned(), json!(id));
        }
        Value::Object(record)
    }

    /// The record of a kernel or RAM disk, whose container is what it is.
    fn part_record(&self, item: &Item) -> Value {
        let mut record = Map::new();
        self.fields(&mut record, item, &item.described.disk_format);
        if let Some(visibility) = self.visibility {
            record.insert("visibility".to_owned(), json!(visibility.name()));
        }
        Value::Object(record)
    }

    fn fields(&self, record: &mut Map<String, Value>, item: &Item, container: &str) {
        record.insert("name".to_owned(), json!(item.name));
        let format = &item.described.disk_format;
        record.insert("disk_format".to_owned(), json!(format));
        record.insert("container_format".to_owned(), json!(container));
        if !self.tags.is_empty() {
            record.insert("tags".to_owned(), json!(self.tags));
        }
        if self.hidden {
            record.insert("os_hidden".to_owned(), json!(true));
        }
    }
}

/// Sends images. `stop` is looked at between reads.
///
/// # Errors
/// See [`Error`]; images that were complete before the failure stay.
pub fn push(
    cloud: &Cloud,
    job: &Job,
    items: &[Item],
    stop: &AtomicBool,
    report: &dyn Fn(Report),
) -> Result<Vec<Pushed>, Error> {
    let trust = match (&cloud.cacert, cloud.insecure) {
        (_, true) => Trust::Unverified,
        (Some(path), false) => {
            let pem = crate::small::read(path).map_err(|source| Error::Read {
                path: path.clone(),
                source,
            })?;
            Trust::Authorities(pem)
        }
        (None, false) => Trust::Host,
    };
    let http = Http::new(trust, job.pause)?;
    if cloud.auth != Auth::None && cloud.insecure {
        report(Report::Note(
            "warning: certificates are not checked; whoever is on the way can read the password"
                .to_owned(),
        ));
    }
    let mut session = Session {
        glance: Glance::open(&http, cloud)?,
        http: &http,
        job,
        stop,
        report,
        incomplete: Vec::new(),
    };
    let mut pushed = Vec::new();
    for item in items {
        match session.item(item) {
            Ok(done) => pushed.push(done),
            Err(error) => return Err(session.clean_up(error)),
        }
    }
    Ok(pushed)
}

struct Session<'a> {
    glance: Glance<'a>,
    http: &'a Http,
    job: &'a Job,
    stop: &'a AtomicBool,
    report: &'a dyn Fn(Report),
    /// Records that are to go if something fails.
    incomplete: Vec<String>,
}

/// Digests of a file's bytes, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Digests {
    md5: String,
    sha256: String,
    sha512: String,
}

impl<'a> Session<'a> {
    /// Removes what is incomplete.
    fn clean_up(&mut self, error: Error) -> Error {
        let mut ids = Vec::new();
        for id in std::mem::take(&mut self.incomplete) {
            if self.glance.delete(&id).is_err() {
                ids.push(id);
            }
        }
        if ids.is_empty() {
            error
        } else {
            Error::Leftover {
                error: Box::new(error),
                ids,
            }
        }
    }

    /// Sends an image with its kernel and RAM disk, and deals with older ones.
    fn item(&mut self, item: &Item) -> Result<Pushed, Error> {
        let existing = self.job.existing;
        let older = match (existing, self.job.keep) {
            (Existing::Add, None) => Vec::new(),
            _ => self.glance.named(&item.name)?,
        };
        if existing == Existing::Fail && !older.is_empty() {
            return Err(Error::Exists {
                name: item.name.clone(),
                ids: older.into_iter().map(|image| image.id).collect(),
            });
        }
        let compared = matches!(existing, Existing::Keep | Existing::Replace);
        if compared && let Some((same, digests)) = self.same(item, &older)? {
            let removed = self.remove(&older, Some(&same))?;
            return Ok(pushed(item, same, digests, true, removed));
        }
        let mut record = self.job.record(item);
        for (part, key) in [
            (&self.job.parts.kernel, "kernel_id"),
            (&self.job.parts.ramdisk, "ramdisk_id"),
        ] {
            if let Some(part) = part {
                let (id, _) = self.send(part, &self.job.part_record(part), &Method::Upload)?;
                record[key] = json!(id);
            }
        }
        let method = self.job.method.clone();
        let (id, digests) = self.send(item, &record, &method)?;
        // From here on it is complete, whatever happens to the older ones.
        self.incomplete.clear();
        let removed = self.remove(&older, None)?;
        Ok(pushed(item, id, digests, false, removed))
    }

    /// The older image that has the content of a file, if any.
    fn same(&self, item: &Item, older: &[Image]) -> Result<Option<(String, Digests)>, Error> {
        let alike: Vec<&Image> = older
            .iter()
            .filter(|image| {
                image.status == "active"
                    && image.size == Some(item.described.size)
                    && image.disk_format.as_deref() == Some(&item.described.disk_format)
            })
            .collect();
        if alike.is_empty() {
            return Ok(None);
        }
        let mut reader = self.reader(item, "compare")?;
        let mut buffer = vec![0; CHUNK];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(source) => return Err(self.read_error(&item.path, source)),
            }
        }
        let digests = reader.digests();
        let found = alike.into_iter().find(|image| {
            // Without a digest that both know, they are taken to differ.
            match (expected(&digests, image), &image.md5) {
                (Some(equal), _) => equal,
                (None, Some(md5)) => *md5 == digests.md5,
                (None, None) => false,
            }
        });
        Ok(found.map(|image| (image.id.clone(), digests)))
    }

    /// Removes older images as far as that was asked for.
    fn remove(&mut self, older: &[Image], kept: Option<&str>) -> Result<Vec<String>, Error> {
        let mut others = older.iter().filter(|image| kept != Some(image.id.as_str()));
        let stay = match (self.job.keep, self.job.existing) {
            (Some(keep), _) => keep.saturating_sub(1),
            (None, Existing::Replace) => 0,
            _ => return Ok(Vec::new()),
        };
        let mut removed = Vec::new();
        for image in others.by_ref().skip(stay) {
            if image.protected {
                (self.report)(Report::Note(format!(
                    "warning: image {} stays: it is protected",
                    image.id
                )));
                continue;
            }
            match self.glance.delete(&image.id) {
                Ok(()) => removed.push(image.id.clone()),
                // An image in use stays; the new one is there all the same.
                Err(error) => (self.report)(Report::Note(format!(
                    "warning: image {} stays: {error}",
                    image.id
                ))),
            }
        }
        Ok(removed)
    }

    /// Makes a record, sends the bytes and waits until it is active.
    fn send(
        &mut self,
        item: &Item,
        record: &Value,
        method: &Method,
    ) -> Result<(String, Digests), Error> {
        self.check_stop()?;
        let (image, methods) = self.glance.create(record)?;
        let id = image.id;
        self.incomplete.push(id.clone());
        if *method != Method::Upload && !methods.iter().any(|have| have == method.name()) {
            return Err(Error::NoMethod {
                method: method.name(),
                have: methods,
            });
        }
        let digests = match method {
            Method::WebDownload(_) => {
                let digests = self.digests(item)?;
                self.glance.import(&id, method)?;
                digests
            }
            Method::GlanceDirect => {
                let digests = self.bytes(item, &id, true)?;
                self.glance.import(&id, method)?;
                digests
            }
            Method::Upload => self.bytes(item, &id, false)?,
        };
        let image = self.wait(&id)?;
        verify(item, &digests, &image)?;
        Ok((id, digests))
    }

    /// Digests of a file that is not sent.
    fn digests(&self, item: &Item) -> Result<Digests, Error> {
        let mut reader = self.reader(item, "read")?;
        let copied = io::copy(&mut reader, &mut io::sink());
        copied.map_err(|source| self.read_error(&item.path, source))?;
        Ok(reader.digests())
    }

    /// Sends the bytes. The service cannot go on where a connection broke, but it
    /// takes all of them anew as long as the record waits for them.
    fn bytes(&mut self, item: &Item, id: &str, staged: bool) -> Result<Digests, Error> {
        let mut pause = self.http.pause();
        let mut left = self.http.retries();
        loop {
            let mut reader = self.reader(item, "upload")?;
            let sent = self
                .glance
                .send(id, staged, item.described.size, &mut reader, self.stop);
            self.check_stop()?;
            if let Some(source) = reader.failed.take() {
                return Err(self.read_error(&item.path, source));
            }
            let complete = reader.done == item.described.size;
            let error = match sent {
                Ok(()) => return Ok(reader.digests()),
                Err(error) => error,
            };
            let expired = matches!(error, Error::Refused { status: 401, .. });
            if !error.is_transient() && !expired {
                return Err(error);
            }
            if expired {
                self.glance.refresh()?;
            }
            // What came of it? An early refusal shows as a broken connection too.
            let image = match self.settled(id, complete) {
                Ok(image) => image,
                Err(Error::Refused { status: 404, .. }) => return Err(error),
                Err(other) => return Err(other),
            };
            match image.status.as_str() {
                "active" if complete && !staged => return Ok(reader.digests()),
                "queued" | "uploading" if left > 0 => {
                    (self.report)(Report::Note(format!(
                        "the upload broke off ({error}); trying again from the start"
                    )));
                }
                _ => return Err(error),
            }
            std::thread::sleep(pause);
            pause = pause.saturating_mul(2);
            left -= 1;
        }
    }

    /// The image when the service has seen that a connection is gone.
    fn settled(&mut self, id: &str, complete: bool) -> Result<Image, Error> {
        let patience = if complete {
            self.job.patience
        } else {
            self.job.patience.min(Duration::from_secs(60))
        };
        let start = Instant::now();
        loop {
            let image = self.glance.get(id)?;
            if image.status != "saving" || start.elapsed() >= patience {
                return Ok(image);
            }
            self.check_stop()?;
            std::thread::sleep(self.job.pause);
        }
    }

    /// Waits until an image is active.
    fn wait(&mut self, id: &str) -> Result<Image, Error> {
        let start = Instant::now();
        loop {
            let image = self.glance.get(id)?;
            let working = matches!(
                image.status.as_str(),
                "queued" | "saving" | "uploading" | "importing"
            );
            if image.status == "active" {
                return Ok(image);
            }
            if !working || !image.message.is_empty() || start.elapsed() >= self.job.patience {
                let message = if image.message.is_empty() {
                    String::new()
                } else {
                    format!("the import failed in {}", image.message)
                };
                return Err(Error::NotActive {
                    id: image.id,
                    status: image.status,
                    message,
                });
            }
            self.check_stop()?;
            std::thread::sleep(self.job.pause);
        }
    }

    fn reader(&self, item: &Item, verb: &str) -> Result<HashingReader<'a>, Error> {
        let file = File::open(&item.path).map_err(|source| Error::Read {
            path: item.path.clone(),
            source,
        })?;
        let file_name = item.path.file_name().unwrap_or_default();
        Ok(HashingReader {
            file,
            length: item.described.size,
            done: 0,
            md5: Md5::new(),
            sha256: Sha256::new(),
            sha512: Sha512::new(),
            stop: self.stop,
            report: self.report,
            what: format!("{verb} {}", file_name.to_string_lossy()),
            failed: None,
        })
    }

    fn check_stop(&self) -> Result<(), Error> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        Ok(())
    }

    fn read_error(&self, path: &Path, source: io::Error) -> Error {
        match self.check_stop() {
            Err(interrupted) => interrupted,
            Ok(()) => Error::Read {
                path: path.to_owned(),
                source,
            },
        }
    }
}

fn pushed(
    item: &Item,
    id: String,
    digests: Digests,
    unchanged: bool,
    removed: Vec<String>,
) -> Pushed {
    Pushed {
        name: item.name.clone(),
        id,
        disk_format: item.described.disk_format.clone(),
        size: item.described.size,
        md5: digests.md5,
        sha512: digests.sha512,
        unchanged,
        removed,
    }
}

/// Whether an image's own digest is that of a file; `None` if it has none of a
/// known algorithm.
fn expected(digests: &Digests, image: &Image) -> Option<bool> {
    let (algorithm, value) = image.hash.as_ref()?;
    match algorithm.as_str() {
        "sha512" => Some(*value == digests.sha512),
        "sha256" => Some(*value == digests.sha256),
        _ => None,
    }
}

/// The service has the file's bytes. An import may convert them to another format.
fn verify(item: &Item, digests: &Digests, image: &Image) -> Result<(), Error> {
    let differs = |what: String| Error::Differs {
        path: item.path.clone(),
        what,
    };
    if let Some(format) = &image.disk_format
        && *format != item.described.disk_format
    {
        return Ok(());
    }
    if let Some(size) = image.size
        && size != item.described.size
    {
        let sent = item.described.size;
        return Err(differs(format!("{size} bytes instead of {sent}")));
    }
    if expected(digests, image) == Some(false) {
        return Err(differs("its digest is another".to_owned()));
    }
    if let Some(md5) = &image.md5
        && *md5 != digests.md5
    {
        return Err(differs("its MD5 is another".to_owned()));
    }
    Ok(())
}

/// Reads exactly as many bytes as a file had when the record was made.
struct HashingReader<'a> {
    file: File,
    length: u64,
    done: u64,
    md5: Md5,
    sha256: Sha256,
    sha512: Sha512,
    stop: &'a AtomicBool,
    report: &'a dyn Fn(Report),
    what: String,
    /// Why reading failed; what the HTTP library says of it is not the cause.
    failed: Option<io::Error>,
}

impl HashingReader<'_> {
    fn digests(&self) -> Digests {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Digests {
            md5: hex(&self.md5.clone().finalize()),
            sha256: hex(&self.sha256.clone().finalize()),
            sha512: hex(&self.sha512.clone().finalize()),
        }
    }

    fn next(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("interrupted"));
        }
        let left = usize::try_from(self.length - self.done).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len()).min(CHUNK);
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.file.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it became shorter while it was sent",
            ));
        }
        Ok(read)
    }
}

impl Read for HashingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.next(buffer) {
            Ok(read) => {
                let bytes = &buffer[..read];
                self.md5.update(bytes);
                self.sha256.update(bytes);
                self.sha512.update(bytes);
                self.done += read as u64;
                if read > 0 {
                    let what = self.what.clone();
                    (self.report)(Report::Progress(what, self.done, self.length));
                }
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failed = Some(error);
                Err(kind.into())
            }
        }
    }
}
