//! From the finished target to written images: scan, plan, assemble, write.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::disk::Disk;
use crate::disk::boot::BiosBoot;
use crate::disk::layout::fit::{self, Length};
use crate::disk::layout::{self, LayoutError, NativePlanner, SizeRule};
use crate::helpers::record::{GRUB_INSTALL, GrubCore};
use crate::sink;
use crate::tree::live::{Owners, ScanOptions, scan};
use crate::tree::{Device, Inode, Kind, LabelError, Labelling, Timestamp, Tree};

use super::beside;
use super::engine::Engine;
use super::event::Event;
use super::failure::Failure;
use super::owners::Recorded;
use super::request::Request;
use super::{plan, record, strays, usage};

/// Directories whose contents belong to a running system.
const RUNTIME: [&str; 2] = ["/proc", "/sys"];

/// What a root has in `/dev` before udev or devtmpfs fills it, as debootstrap
/// makes it: name, mode, major and minor number.
const DEVICES: [(&str, u16, u32, u32); 8] = [
    ("console", 0o600, 5, 1),
    ("full", 0o666, 1, 7),
    ("null", 0o666, 1, 3),
    ("ptmx", 0o666, 5, 2),
    ("random", 0o666, 1, 8),
    ("tty", 0o666, 5, 0),
    ("urandom", 0o666, 1, 9),
    ("zero", 0o666, 1, 5),
];

/// Links in `/dev` and what they lead to.
const DEVICE_LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stderr", "/proc/self/fd/2"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
];

/// The size of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// In KiB, as `DIB_IMAGE_SIZE` from `block-device.d` on.
    pub kib: u64,
}

fn scan_target(engine: &Engine<'_>) -> Result<Tree, Failure> {
    let options = ScanOptions {
        prune: RUNTIME.map(Into::into).to_vec(),
        clamp_mtime: engine.plan.epoch.map(|seconds| Timestamp {
            seconds,
            nanoseconds: 0,
        }),
        owners: engine
            .supervisor
            .as_ref()
            .map(|supervisor| Arc::new(Recorded(supervisor.store().clone())) as Arc<dyn Owners>),
        threads: engine.plan.jobs,
    };
    scan(&engine.dirs.target, &options).map_err(|error| Failure::from_error(&error))
}

/// Computes the size of the image by DIB's rules from what the target holds now.
pub fn image_size(engine: &mut Engine<'_>) -> Result<Size, Failure> {
    let tree = scan_target(engine)?;
    report_usage(engine, &tree);
    let plan = engine.plan;
    let rule = SizeRule {
        image_size: plan.request.image_size.as_deref(),
        extra_size: plan.request.image_extra_size.as_deref(),
        du_kib: fit::content_kib(&tree),
        root_is_ext4: plan
            .layout
            .config()
            .root_fstype()
            .is_ok_and(|fstype| fstype == "ext4"),
        journal_mib: plan::journal_mib(&plan.request)?,
        efi: plan
            .elements
            .names()
            .iter()
            .any(|name| name.starts_with("block-device-efi")),
    };
    let kib = rule
        .image_size_kib()
        .map_err(|error| Failure::from_error(&error))?;
    // Layouts with large partitions of fixed size need more than the content says.
    let kib = if plan.request.image_size.is_some() {
        kib
    } else {
        kib.max(
            plan.layout
                .minimum_size()
                .div_ceil(1024)
                .next_multiple_of(64),
        )
    };
    Ok(Size { kib })
}

/// Says what takes the space, where `DIB_SHOW_IMAGE_USAGE` asks for it.
fn report_usage(engine: &mut Engine<'_>, tree: &Tree) {
    let is_set = |name: &str| {
        let value = engine.variables.get(OsStr::new(name));
        value.is_some_and(|value| !value.is_empty() && value != "0")
    };
    if is_set("DIB_SHOW_IMAGE_USAGE") {
        for text in usage::report(tree, is_set("DIB_SHOW_IMAGE_USAGE_FULL")) {
            engine.events.send(&Event::Info { text });
        }
    }
}

/// What the finished root has that the build could not make: device nodes are
/// refused in a user namespace, so they are added to the tree.
///
/// A regular file in the place of one is what a program wrote to a device that the
/// target had not got yet, such as `2>/dev/null` in a hook that makes the root: a
/// system that starts with that would fill it.
fn add_devices(tree: &Tree, epoch: Option<i64>) -> Result<Tree, Failure> {
    let failed = |error: crate::tree::Error| Failure::from_error(&error);
    let now = fit::made_at(tree, epoch);
    let mut edit = tree.edit();
    let mut add = |name: &str, inode: Inode| -> Result<(), Failure> {
        let path = format!("/dev/{name}");
        let found = tree.find(&path).map(|node| &tree.inode_of(node).kind);
        if matches!(found, Some(Kind::File(_))) {
            edit.remove(&path).map_err(failed)?;
        }
        if matches!(found, None | Some(Kind::File(_))) {
            edit.insert(&path, inode.modified(now)).map_err(failed)?;
        }
        Ok(())
    };
    for (name, mode, major, minor) in DEVICES {
        add(
            name,
            Inode::new(Kind::CharDevice(Device { major, minor }), mode),
        )?;
    }
    for (name, target) in DEVICE_LINKS {
        add(name, Inode::symlink(target))?;
    }
    for (name, mode) in [("pts", 0o755), ("shm", 0o1777)] {
        add(name, Inode::directory(mode))?;
    }
    edit.build().map_err(failed)
}

/// Reads the last recorded BIOS installation, if there is one and the layout has a
/// place for it or no other boot loader was installed.
fn bios_boot(engine: &mut Engine<'_>, tree: &Arc<Tree>) -> Result<Option<BiosBoot>, Failure> {
    let Some(text) = record::read(&engine.dirs.inside, GRUB_INSTALL)? else {
        return Ok(None);
    };
    let mut last = None;
    let lines = text.split(|&byte| byte == b'\n');
    for line in lines.filter(|line| !line.is_empty()) {
        let record: GrubCore = serde_json::from_slice(line).map_err(|error| {
            Failure::new(format!(
                "what grub-install recorded cannot be read: {error}"
            ))
        })?;
        if record.target == "i386-pc" {
            last = Some(record);
        }
    }
    // Once: there may be as many records as fit into the note.
    let found = match last {
        Some(record) => Some(BiosBoot {
            boot: read(tree, &record.boot_image)?,
            core: read(tree, &record.core)?,
        }),
        None => None,
    };
    // Hooks install both wherever they can; an image for EFI alone is one, too.
    let layout = &engine.plan.layout;
    if found.is_some() && !layout.has_boot_space() && layout.starts_by_efi(tree) {
        let text = "the image starts by EFI and not by a BIOS: its layout has no BIOS boot \
                    partition (type EF02)";
        engine.events.send(&Event::Warning { text: text.into() });
        return Ok(None);
    }
    Ok(found)
}

/// Why the image does not start, as far as its files say so.
fn not_starting(engine: &Engine<'_>, tree: &Tree) -> Vec<String> {
    let plan = engine.plan;
    let installs = plan.elements.names().contains(&"bootloader");
    let mut told = Vec::new();
    if let Some(text) = plan.layout.efi_without_loader(tree) {
        told.push(if installs {
            text
        } else {
            format!("{text} (the element `bootloader`, which `vm` brings, installs one)")
        });
    }
    if installs {
        told.extend(plan.layout.volumes_without_lvm(tree));
    }
    told
}

/// The bytes of a file of the target.
fn read(tree: &Arc<Tree>, path: &str) -> Result<Vec<u8>, Failure> {
    let missing = || {
        Failure::new(format!(
            "`{path}` of the target is gone, but grub-install recorded it as boot code"
        ))
        .hint("a hook of finalise.d or cleanup.d removed it")
    };
    let node = tree.find(path).ok_or_else(missing)?;
    let Kind::File(content) = &tree.inode_of(node).kind else {
        return Err(missing());
    };
    let length = usize::try_from(content.size)
        .ok()
        // Boot code lies below 1 MiB or in a small partition.
        .filter(|&length| length <= 64 << 20)
        .ok_or_else(|| {
            Failure::new(format!(
                "`{path}` is {} bytes long, too much for boot code",
                content.size
            ))
        })?;
    let mut bytes = vec![0; length];
    let mut reader = tree.reader();
    let count = reader
        .read_at(tree.node(node).inode, 0, &mut bytes)
        .map_err(|error| Failure::from_error(&error))?;
    bytes.truncate(count);
    Ok(bytes)
}

/// The tree with the SELinux labels of its own policy, as `KILN_SELINUX` says.
fn labelled(engine: &Engine<'_>, tree: Arc<Tree>) -> Result<Arc<Tree>, Failure> {
    labelling(engine)
        .and_then(|labelling| labelling.apply(tree))
        .map_err(|error| Failure::from_error(&error).hint_if(error.hint()))
}

fn labelling(engine: &Engine<'_>) -> Result<Labelling, LabelError> {
    let value = engine.variables.get(OsStr::new("KILN_SELINUX"));
    Labelling::from_value(value.map(OsString::as_os_str))
}

/// Writes all outputs.
pub fn write(engine: &mut Engine<'_>, size: Size) -> Result<(), Failure> {
    let started = Instant::now();
    let step = "planning the disk".to_owned();
    engine.events.send(&Event::StepStarted {
        step: step.clone(),
        total: None,
    });
    let mut tree = scan_target(engine)?;
    let strays = strays::replace(
        &tree,
        &engine.dirs.target,
        &engine.dirs.hooks.join(".kiln/kiln"),
        engine
            .variables
            .get(OsStr::new("PATH"))
            .map_or(OsStr::new("/usr/sbin:/usr/bin:/sbin:/bin"), |path| path),
    )?;
    let told = strays.replaced.iter().map(|path| {
        let path = path.display();
        format!("put the real program in place of kiln's stand-in that a hook copied to `{path}`")
    });
    let told: Vec<String> = told
        .chain(strays.removed.iter().map(|path| {
            let path = path.display();
            format!("removed `{path}`, where a hook copied a program of kiln's for the build")
        }))
        .collect();
    if !told.is_empty() {
        for text in told {
            engine.events.send(&Event::Info { text });
        }
        tree = scan_target(engine)?;
    }
    let tree = labelled(engine, Arc::new(add_devices(&tree, engine.plan.epoch)?))?;
    let needs_disk = engine.plan.outputs.iter().any(sink::Format::is_disk);
    let disks = if needs_disk {
        let boot = bios_boot(engine, &tree)?;
        for text in not_starting(engine, &tree) {
            engine.events.send(&Event::Warning { text });
        }
        assemble(engine, size, &tree, boot.as_ref())?
    } else {
        Vec::new()
    };
    engine.events.send(&Event::StepFinished {
        step,
        seconds: started.elapsed().as_secs_f64(),
    });
    let written = write_outputs(engine, &disks, &tree)?;
    for one in written {
        if let Some(renamed) = &one.renamed {
            let text = format!("kept the image that was there as `{}`", renamed.display());
            engine.events.send(&Event::Info { text });
        }
        for text in one.warnings {
            engine.events.send(&Event::Warning { text });
        }
        engine.events.send(&Event::OutputWritten {
            path: shown(&one.path, &engine.plan.request),
            format: one.format.to_owned(),
            virtual_size: one.virtual_size,
            file_size: one.file_size,
            disk_size: one.disk_size,
        });
    }
    // New directories are the caller's, whoever made the target.
    let ours = nix::sys::stat::umask(engine.umask);
    let request = &engine.plan.request;
    let put = beside::put(&engine.dirs.work, &request.current_dir, request.fsync);
    nix::sys::stat::umask(ours);
    for path in put? {
        let text = format!("wrote {}", shown(&path, &engine.plan.request).display());
        engine.events.send(&Event::Info { text });
    }
    Ok(())
}

/// Lays out the disks of a build with all their filesystems.
fn assemble(
    engine: &Engine<'_>,
    size: Size,
    tree: &Arc<Tree>,
    boot: Option<&BiosBoot>,
) -> Result<Vec<Disk>, Failure> {
    let planner = NativePlanner {
        timestamp: fit::made_at(tree, engine.plan.epoch),
        scratch: engine.dirs.scratch.clone(),
        lost_found: labelling(engine)
            .and_then(|labelling| labelling.lost_found(tree, &engine.plan.layout.mount_points()))
            .map_err(|error| Failure::from_error(&error).hint_if(error.hint()))?,
    };
    let length = Length {
        bytes: size.kib.saturating_mul(1024),
        // A size that the user chose is not ours to change.
        grow: engine.plan.request.image_size.is_none(),
    };
    let assembled = engine
        .plan
        .layout
        .assemble_tree(length, Arc::clone(tree), boot, &planner);
    assembled.map_err(|error| {
        let failure = too_small(&engine.plan.layout, &engine.plan.request, &error);
        let of_files = matches!(error, LayoutError::Filesystem { .. }) && !failure.hints.is_empty();
        failure.hint_if(
            of_files.then_some("or remove what it need not have in a hook of `finalise.d`"),
        )
    })
}

/// An error of a layout, with what to make larger if that is what helps.
fn too_small(layout: &layout::Plan, request: &Request, error: &LayoutError) -> Failure {
    // A size that is given is all that counts.
    let image = match request.image_size {
        Some(_) => "`--image-size` or `DIB_IMAGE_SIZE` (GiB) make the image larger",
        None => "`--image-size` (GiB) or `DIB_IMAGE_EXTRA_SIZE` (MiB) make the image larger",
    };
    let found = layout.too_small(error);
    Failure::from_error(error).hint_if(found.map(|found| found.remedy(image)))
}

/// A planner for what can be told without files.
pub(super) fn empty_planner() -> NativePlanner {
    NativePlanner {
        timestamp: Timestamp {
            seconds: 0,
            nanoseconds: 0,
        },
        scratch: std::path::PathBuf::new(),
        lost_found: BTreeMap::new(),
    }
}

/// Refuses filesystems that kiln cannot make before anything runs.
pub(super) fn check_filesystems(layout: &layout::Plan) -> Result<(), Failure> {
    let planner = empty_planner();
    for filesystem in layout.filesystems() {
        planner.check(filesystem).map_err(|error| {
            let cause = Failure::from_error(error.as_ref());
            Failure::new(format!(
                "cannot make filesystem `{}`: {}",
                filesystem.name, cause.message
            ))
            .hint("its type and options come from `FS_TYPE`, `--mkfs-options` and the block device configuration")
        })?;
    }
    Ok(())
}

/// Refuses sizes with which no image can be made, whatever hooks put into it.
pub(super) fn check_sizes(layout: &layout::Plan, request: &Request) -> Result<(), Failure> {
    let rule = SizeRule {
        image_size: request.image_size.as_deref(),
        ..SizeRule::default()
    };
    let kib = rule
        .image_size_kib()
        .map_err(|error| Failure::from_error(&error))?;
    let given = request.image_size.as_ref();
    let bytes = given.map(|_| kib.saturating_mul(1024));
    layout
        .check_sizes(bytes, &empty_planner())
        .map_err(|error| too_small(layout, request, &error))
}

/// A path as the user wrote it: whole if the output's name was.
fn shown(path: &Path, request: &Request) -> std::path::PathBuf {
    match path.strip_prefix(&request.current_dir) {
        Ok(relative) if request.image_name.is_relative() => relative.to_owned(),
        _ => path.to_owned(),
    }
}

fn write_outputs(
    engine: &mut Engine<'_>,
    disks: &[Disk],
    tree: &Arc<Tree>,
) -> Result<Vec<sink::Written>, Failure> {
    let plan = engine.plan;
    let flag = |name: &str| {
        plan.variables
            .get(std::ffi::OsStr::new(name))
            .map(|value| value.to_string_lossy().into_owned())
            .filter(|value| !value.is_empty() && value != "0")
    };
    let existing = sink::Existing::replaced_if(flag("OVERWRITE_OLD_IMAGE").is_some());
    let wanted = flag("DIB_CHECKSUM").unwrap_or_default();
    let checksums = sink::Checksums {
        md5: wanted == "1" || wanted.contains("md5"),
        sha256: wanted == "1" || wanted.contains("sha256"),
    };
    // Checksum files hold paths as they were given, so the sinks get them so. The
    // directory is entered again because the sandbox put a mount on it.
    std::env::set_current_dir(&plan.request.current_dir)
        .map_err(Failure::io("entering the directory of the build"))?;
    let specs: Vec<sink::Spec> = plan
        .output_files()
        .into_iter()
        .map(|file| sink::Spec {
            format: file.format,
            disk: file.disk,
            path: file.path,
            checksums,
            existing: existing.clone(),
            durable: plan.request.fsync,
            seed: file.seed,
        })
        .collect();
    let disks: Vec<&dyn sink::ReadAt> = disks.iter().map(|disk| disk as _).collect();
    // The sinks call back through a shared reference.
    let progress = RefCell::new(Progress {
        events: &mut engine.events,
        step: None,
    });
    let about = sink::container::About {
        reference: Some(plan.reference.clone()),
        architecture: plan.arch.clone(),
        created: fit::made_at(tree, plan.epoch),
        aci_manifest: plan.aci_manifest.clone(),
    };
    // These are the caller's, whoever made the target.
    let ours = nix::sys::stat::umask(engine.umask);
    let result = sink::write_all_about(
        &disks,
        tree,
        &specs,
        &about,
        plan.jobs,
        &|step, done, total| progress.borrow_mut().report(step, done, total),
    );
    nix::sys::stat::umask(ours);
    progress.into_inner().finish();
    result.map_err(|error| Failure::from_error(&error).hint_if(error.hint()))
}

/// Turns the sinks' calls into events.
struct Progress<'a> {
    events: &'a mut super::engine::Events,
    step: Option<(String, Instant)>,
}

impl Progress<'_> {
    fn report(&mut self, step: &str, done: u64, total: u64) {
        if self.step.as_ref().is_none_or(|(name, _)| name != step) {
            self.finish();
            self.step = Some((step.to_owned(), Instant::now()));
            self.events.send(&Event::StepStarted {
                step: step.to_owned(),
                total: Some(total),
            });
        }
        self.events.send(&Event::StepProgress {
            step: step.to_owned(),
            done,
            total: Some(total),
        });
    }

    fn finish(&mut self) {
        if let Some((step, started)) = self.step.take() {
            self.events.send(&Event::StepFinished {
                step,
                seconds: started.elapsed().as_secs_f64(),
            });
        }
    }
}
