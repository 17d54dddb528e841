//! A Debian root from a signed archive, without debootstrap.
//!
//! ```text
//!  sources      which archives and suites
//!  repository   InRelease ── openpgp, release ──► Packages ── index ──► Universe
//!  resolve      the packages, in order
//!  cached       is there such a root already?
//!  install      fetch, deb, unpack, dpkg's database     } only if not
//!  configure    the target's own dpkg finishes          }
//!  deliver      overlay or copy, apt's lists, apt's packages
//! ```

mod ar;
mod cached;
mod configure;
pub mod control;
mod deb;
mod deliver;
mod dpkg;
mod error;
pub mod index;
mod install;
mod members;
mod openpgp;
mod relation;
mod release;
mod repository;
mod resolve;
pub mod sources;
mod unpack;
mod version;

pub use control::{Paragraph, ParseControlError, paragraphs};
pub use deb::{Deb, DebError};
pub use deliver::{Delivery, deliver};
pub use error::Error;
pub use index::{IndexError, Package, Priority, Universe};
pub use openpgp::{Keyring, Verified, VerifyError};
pub use relation::{Operator, ParseRelationError, Relation, parse_clauses};
pub use release::{Release, ReleaseError};
pub use repository::{ListContent, ListFile, apt_list_name};
pub use resolve::ResolveError;
pub use unpack::UnpackError;
pub use version::{ParseVersionError, Version};

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use crate::fetch::{Cache, Client, Item};
use crate::rootfs::beneath::Root;
use repository::{Access, OpenSuite};
use sources::{Mirrors, Suite, companion_suites};

/// The root that is wanted.
#[derive(Debug, Clone)]
pub struct Request {
    /// Suite or code name, such as `stable` or `bookworm`.
    pub suite: String,
    /// The archives.
    pub mirrors: Mirrors,
    /// Further suites whose newer versions count.
    pub extra_suites: Vec<Suite>,
    /// Also take the suite's updates and security suites, if it has such.
    pub companions: bool,
    /// Components, such as `main`.
    pub components: Vec<String>,
    /// Debian architecture, such as `amd64`.
    pub arch: String,
    /// Packages beyond the minimal system, as `NAME` or `NAME=VERSION`; apt is always
    /// included.
    pub include: Vec<String>,
    /// Who may sign.
    pub keyring: Keyring,
    /// `SOURCE_DATE_EPOCH`.
    pub epoch: Option<String>,
    /// The time as of which signatures must be valid.
    pub now: SystemTime,
    /// Whether suites count after their end (`Valid-Until`), as those of snapshots do.
    pub may_expire: bool,
}

/// Something worth telling while a root is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice<'a> {
    /// A fact.
    Info(&'a str),
    /// A line that dpkg or a package's script printed.
    Output(&'a str),
    /// A step begins; `total` in bytes where it is known.
    Started {
        /// Its name.
        step: &'a str,
        /// Bytes.
        total: Option<u64>,
    },
    /// A step goes on.
    Progress {
        /// Its name.
        step: &'a str,
        /// Bytes.
        done: u64,
        /// Bytes.
        total: Option<u64>,
    },
    /// A step ended.
    Finished {
        /// Its name.
        step: &'a str,
        /// Milliseconds.
        milliseconds: u64,
    },
}

/// Hears notices, from several threads.
pub type Report<'a> = &'a (dyn Fn(Notice<'_>) + Sync);

/// A finished root and what belongs to it.
#[derive(Debug)]
pub struct Bootstrapped {
    /// Name of the suite, where an alias was asked for its code name.
    pub suite: String,
    /// The tree, in the cache; never to be changed. None where the cache cannot keep it
    /// and the target has it already.
    pub root: Option<PathBuf>,
    /// Files for `/var/lib/apt/lists`.
    pub lists: Vec<ListFile>,
    /// Name in apt's cache and file of every package.
    pub packages: Vec<(String, PathBuf)>,
    /// Packages, by name, that are there only because others need them.
    pub automatic: Vec<String>,
    /// The architecture.
    pub arch: String,
}

struct Step<'a> {
    report: Report<'a>,
    name: &'a str,
    total: Option<u64>,
    done: AtomicU64,
    begin: Instant,
}

impl<'a> Step<'a> {
    fn start(report: Report<'a>, name: &'a str, total: Option<u64>) -> Step<'a> {
        report(Notice::Started { step: name, total });
        Step {
            report,
            name,
            total,
            done: AtomicU64::new(0),
            begin: Instant::now(),
        }
    }

    fn advance(&self, count: u64) {
        let done = self.done.fetch_add(count, Ordering::Relaxed) + count;
        (self.report)(Notice::Progress {
            step: self.name,
            done,
            total: self.total,
        });
    }

    fn finish(self) {
        let milliseconds = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        (self.report)(Notice::Finished {
            step: self.name,
            milliseconds,
        });
    }
}

/// Gives the root for a request: from the cache, or made now and cached, or made now in
/// the target, which is empty, where the cache cannot keep it. `aside` is where it can have
/// programs with set-id bits while it is made; that is empty afterwards.
pub fn bootstrap(
    request: &Request,
    client: &Client,
    cache: &Cache,
    target: &Path,
    aside: Option<&Path>,
    report: Report<'_>,
) -> Result<Bootstrapped, Error> {
    let access = Access {
        client,
        cache,
        keyring: &request.keyring,
        now: request.now,
        may_expire: request.may_expire,
    };
    let step = Step::start(report, "reading package lists", None);
    let asked = asked(request)?;
    let archives = Archives::read(request, &access, &asked, &step)?;
    let resolution = resolve::resolve(&archives.universe, &request.arch, &asked)?;
    step.finish();

    let packages = resolution.packages.as_slice();
    let making = Making {
        request,
        client,
        cache,
        report,
        resolution: &resolution,
        items: &archives.items(packages),
    };
    let root = making.root(target, aside)?;
    Ok(Bootstrapped {
        suite: archives.name().unwrap_or(&request.suite).to_owned(),
        root,
        packages: packages
            .iter()
            .map(|package| (package.cache_name(), cache.blob_path(package.sha256)))
            .collect(),
        automatic: resolution.automatic(),
        arch: request.arch.clone(),
        lists: archives.lists,
    })
}

/// What is to be in the root, beside what every system needs.
fn asked(request: &Request) -> Result<Vec<Relation>, Error> {
    let mut asked = vec!["apt"];
    if request.mirrors.main.starts_with("https:") {
        // Without certificates apt in the root could not reach its archive.
        asked.push("ca-certificates");
    }
    asked.extend(request.include.iter().map(String::as_str));
    Ok(resolve::asked(asked)?)
}

/// What the archives have, by their signed lists.
struct Archives {
    /// The suite that was asked for is the first.
    suites: Vec<OpenSuite>,
    universe: Universe,
    lists: Vec<ListFile>,
}

impl Archives {
    fn read(
        request: &Request,
        access: &Access<'_>,
        asked: &[Relation],
        step: &Step<'_>,
    ) -> Result<Archives, Error> {
        let suites = open_suites(request, access)?;
        let (components, arch) = (&request.components, &request.arch);
        let indices = access.indices(&suites, components, arch, &|count| step.advance(count))?;
        let versions = resolve::versions(asked)?;
        Ok(Archives {
            universe: repository::universe(&suites, &indices, arch, versions)?,
            lists: repository::apt_lists(&suites, &indices),
            suites,
        })
    }

    /// Name of the suite that was asked for.
    fn name(&self) -> Option<&str> {
        let first = self.suites.first();
        first.map(|first| first.suite.name.as_str())
    }

    /// The files of packages, in the same order.
    fn items(&self, packages: &[&Package]) -> Vec<Item> {
        let item = |package: &&Package| {
            let suite = self.suites.get(package.repository)?;
            let path = package.filename.trim_start_matches("./");
            Some(Item {
                locations: vec![suite.archive.join(path)],
                size: package.size,
                sha256: package.sha256,
            })
        };
        packages.iter().filter_map(item).collect()
    }
}

/// Opens the suite that was asked for and those that go with it.
///
/// An alias of a released suite (`stable`) is followed to its code name first,
/// and the others by the same code name: on release day, and on mirrors that are
/// updated in steps, `stable` and `stable-updates` can belong to two releases.
fn open_suites(request: &Request, access: &Access<'_>) -> Result<Vec<OpenSuite>, Error> {
    let suite = |name: &str| Suite {
        mirror: request.mirrors.main.clone(),
        name: name.to_owned(),
    };
    let asked = access.open(&suite(&request.suite))?;
    let code_name = asked
        .release
        .code_name_of_alias(&request.suite)
        .map(str::to_owned);
    let mut extra = request.extra_suites.clone();
    let (name, mut suites) = match code_name {
        None => (request.suite.clone(), vec![asked]),
        Some(code_name) => {
            let prefix = format!("{}-", request.suite);
            for suite in &mut extra {
                if let Some(rest) = suite.name.strip_prefix(&prefix) {
                    suite.name = format!("{code_name}-{rest}");
                }
            }
            let main = access.open(&suite(&code_name))?;
            (code_name, vec![main])
        }
    };
    if request.companions
        && let Some(first) = suites.first()
    {
        extra.extend(companion_suites(
            &name,
            first.release.is_rolling(),
            &request.mirrors,
        ));
    }
    suites.extend(access.open_all(&extra)?);
    Ok(suites)
}

/// What a root is made from.
struct Making<'a> {
    request: &'a Request,
    client: &'a Client,
    cache: &'a Cache,
    report: Report<'a>,
    resolution: &'a resolve::Resolution<'a>,
    /// The packages' files, in the same order.
    items: &'a [Item],
}

impl Making<'_> {
    /// The root in the cache, made if it is not there; `None` where the cache cannot keep it
    /// and it is made in the target.
    fn root(&self, target: &Path, aside: Option<&Path>) -> Result<Option<PathBuf>, Error> {
        if !cached::can_keep(self.cache) {
            (self.report)(Notice::Info(&format!(
                "the root is not kept for later builds: files in `{}` cannot be given to other \
                 users, as on NFS; `--image-cache` names another directory",
                self.cache.root().display()
            )));
            self.run(target)?;
            return Ok(None);
        }
        let identity = cached::Identity {
            arch: &self.request.arch,
            packages: &self.resolution.packages,
            keys: &self.request.keyring.fingerprints(),
            epoch: self.request.epoch.as_deref(),
            id_maps: &cached::id_maps()?,
        };
        let make = |path: &Path| self.run(path);
        let (root, was_cached) = cached::root(self.cache, identity.key(), aside, make)?;
        if was_cached {
            let text = "using the cached root of the same packages";
            (self.report)(Notice::Info(text));
        }
        Ok(Some(root))
    }

    /// Makes it in an empty directory.
    fn run(&self, path: &Path) -> Result<(), Error> {
        let root = Root::open(path).map_err(|source| Error::File {
            action: "open",
            path: path.to_owned(),
            source,
        })?;
        let total = self.items.iter().map(|item| item.size).sum();
        let step = Step::start(self.report, "fetching and unpacking packages", Some(total));
        let selection = install::Selection {
            packages: &self.resolution.packages,
            base: &self.resolution.base,
            items: self.items,
            arch: &self.request.arch,
        };
        let outcome = install::install(self.client, self.cache, selection, &root, &|count| {
            step.advance(count);
        })?;
        for device in &outcome.skipped_devices {
            (self.report)(Notice::Info(&format!(
                "device `{}` is left out: a user namespace may not make it",
                device.display()
            )));
        }
        step.finish();
        let step = Step::start(self.report, "configuring packages", None);
        let blobs: Vec<crate::fetch::Blob> = self
            .items
            .iter()
            .map(|item| crate::fetch::Blob {
                path: self.cache.blob_path(item.sha256),
                size: item.size,
            })
            .collect();
        let job = configure::Job {
            packages: &self.resolution.packages,
            base: &self.resolution.base,
            blobs: &blobs,
            for_dpkg: &outcome.for_dpkg,
            epoch: self.request.epoch.as_deref(),
        };
        configure::configure(&root, job, &mut |line| (self.report)(Notice::Output(line)))?;
        step.finish();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
