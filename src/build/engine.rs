//! Runs a plan inside the sandbox, from an empty directory to written images.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use nix::sys::stat::Mode;

use crate::rootfs::copy;
use crate::sandbox::emul::lasting::Lasting;
use crate::sandbox::identity::Ownership;
use crate::sandbox::inside::Inside;
use crate::sandbox::limits::Watch;
use crate::sandbox::notify::{Options, Supervisor};
use crate::sandbox::terminal::Borrower;
use crate::sandbox::{self, command, mounts, seccomp};

use super::environment::Variables;
use super::event::Event;
use super::failure::Failure;
use super::phases;
use super::plan::{Plan, element_failure};
use super::{output, programs, record, target};

/// Sends events to main. Main may be gone; then nobody needs them.
#[derive(Debug)]
pub struct Events(File);

impl Events {
    /// Sends one event as a line of JSON.
    pub fn send(&mut self, event: &Event) {
        if let Ok(mut line) = serde_json::to_vec(event) {
            line.push(b'\n');
            let _ = self.0.write_all(&line);
        }
    }

    /// A second handle on the same pipe.
    pub fn try_clone(&self) -> io::Result<Events> {
        self.0.try_clone().map(Events)
    }
}

/// Directories of a build, below `TMP_BUILD_DIR`.
#[derive(Debug)]
pub struct Directories {
    /// `TMP_BUILD_DIR` itself.
    pub work: PathBuf,
    /// The merged hooks (`TMP_HOOKS_PATH`), for those that run outside.
    pub hooks: PathBuf,
    /// The copy that hooks inside get: whatever they do to it, nothing of it runs outside.
    pub inside: PathBuf,
    /// The target root (`TMP_MOUNT_PATH`, `TARGET_ROOT`).
    pub target: PathBuf,
    /// Bundled elements, one directory each.
    pub elements: PathBuf,
    /// TMPDIR of outside hooks.
    pub scratch: PathBuf,
    /// `TMP_IMAGE_DIR`.
    pub image: PathBuf,
    /// Layers of the target's overlay.
    pub layers: PathBuf,
}

impl Directories {
    fn below(work: &Path) -> Directories {
        Directories {
            work: work.to_owned(),
            target: work.join("mnt"),
            elements: work.join("elements"),
            scratch: work.join("tmp"),
            image: work.join("image"),
            layers: work.join("layers"),
            hooks: work.join("hooks"),
            inside: work.join("inside"),
        }
    }
}

/// A build that runs.
pub struct Engine<'a> {
    /// What to do.
    pub plan: &'a Plan,
    /// Where.
    pub dirs: Directories,
    /// Variables of all hooks, before the phase adds its own.
    pub variables: Variables,
    /// To main.
    pub events: Events,
    /// Answers hooks where the kernel refuses what root may do.
    pub supervisor: Option<Supervisor>,
    /// Limits on each program.
    pub watch: Watch,
    /// What the caller's files lack of modes, for those that are the caller's.
    pub umask: Mode,
    /// What gives shells at break points a terminal, if the caller has one.
    pub terminal: Option<Borrower>,
    /// Where programs inside the target run, once one has.
    inside: Option<HooksMount>,
}

/// The sandbox's engine: runs the plan, tells main everything, returns the exit status.
/// `in_memory` is the hint that makes a build in memory of this one.
pub fn main(
    plan: &Plan,
    view: &sandbox::host::View,
    in_memory: Option<&str>,
    watch: Watch,
    events: File,
    terminal: Option<Borrower>,
) -> u8 {
    let started = Instant::now();
    // An image is the same whoever builds it, and a root that is closed to all but root,
    // or that anybody may write to, is of no use.
    let umask = nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    let mut events = Events(events);
    let lasting = Lasting::of_host();
    let result = sandbox::host::restrict(view)
        .map_err(Failure::from)
        .and_then(|remarks| {
            for text in remarks {
                events.send(&Event::Info { text });
            }
            let dirs = Directories::below(&view.work);
            let mut events = events
                .try_clone()
                .map_err(Failure::io("duplicating a descriptor"))?;
            let variables = plan.variables.clone();
            let lasting = lasting
                .and_then(|lasting| lasting.but_for(&view.work))
                .map_err(Failure::io("reading the table of mounts"))?;
            // While this process has one thread.
            let answers = sandbox::probe::answers_calls();
            let supervisor = supervise(&view.work, in_memory, lasting)?;
            if let Some(text) = unkept_set_id(answers, supervisor.as_ref()) {
                events.send(&Event::Info { text });
            }
            Engine {
                plan,
                dirs,
                variables,
                events,
                supervisor,
                watch,
                umask,
                terminal,
                inside: None,
            }
            .run()
        });
    match result {
        Ok(()) => {
            events.send(&Event::Finished {
                seconds: started.elapsed().as_secs_f64(),
            });
            0
        }
        Err(failure) => {
            let Failure {
                message,
                hints,
                status,
            } = failure;
            events.send(&Event::Failed {
                message,
                hints,
                status,
            });
            status
        }
    }
}

/// Starts the supervisor that this sandbox needs: for owners and all that goes
/// with them where there is one id, for `/proc` too where nothing can be mounted,
/// for devices where the kernel makes none. Hooks do without those where nobody may
/// look into programs (Yama's `ptrace_scope` of 3).
fn supervise(
    work: &Path,
    in_memory: Option<&str>,
    lasting: Lasting,
) -> Result<Option<Supervisor>, Failure> {
    let refused = |what: &str| {
        let parent = sandbox::sweep::parent_of(work).display();
        let refusal =
            Failure::new(format!("files in `{parent}` {what}")).hint(super::place::ADVICE);
        in_memory.into_iter().fold(refusal, Failure::hint)
    };
    let ownership = sandbox::identity::ownership(work);
    if ownership == Ownership::Other {
        return Err(refused(
            "belong to another user than who makes them, as those of root on NFS",
        ));
    }
    let options = if !sandbox::standin::mounts_are_possible() {
        Options::chroot()
    } else if sandbox::identity::owners_are_recorded() {
        Options::single().keeping(lasting)
    } else if ownership == Ownership::Maker {
        let refusal = refused("cannot be given to other users, as on NFS");
        return Err(refusal.hint(sandbox::doctor::SINGLE_ADVICE));
    } else if sandbox::identity::devices_are_refused(work) && sandbox::probe::programs_can_be_read()
    {
        Options::ranges().keeping(lasting)
    } else {
        return Ok(None);
    };
    let supervisor = Supervisor::start(Options {
        journal: Some((work.join("owners"), work.to_owned())),
        ..options
    })?;
    Ok(Some(supervisor))
}

/// That hooks can leave programs with set-id bits, where nobody answers their calls.
fn unkept_set_id(
    answers: Result<(), sandbox::Error>,
    supervisor: Option<&Supervisor>,
) -> Option<String> {
    // There the container is the wall.
    if !sandbox::standin::mounts_are_possible() {
        return None;
    }
    let why = match (answers, supervisor) {
        (Ok(()), Some(_)) => return None,
        (Ok(()), None) => "no call of theirs is answered".to_owned(),
        (Err(error), _) => error.to_string(),
    };
    Some(format!(
        "hooks may leave programs with set-id bits in the directories that they can write to: \
         {why}"
    ))
}

impl Engine<'_> {
    /// Suppresses syncs in hooks, and has the supervisor answer where there is one.
    pub fn filter(&self) -> seccomp::Filter {
        self.supervisor
            .as_ref()
            .map_or_else(seccomp::no_sync, Supervisor::filter)
    }

    /// How the host finds names, for hooks inside.
    fn resolv_conf(&mut self) -> Vec<u8> {
        const PATH: &str = "/etc/resolv.conf";
        match std::fs::read(PATH) {
            Ok(text) => text,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    let text = format!(
                        "hooks inside find no host by its name: `{PATH}` cannot be read: {error}"
                    );
                    self.events.send(&Event::Warning { text });
                }
                Vec::new()
            }
        }
    }

    fn run(mut self) -> Result<(), Failure> {
        self.prepare()?;
        self.run_phase(phases::ROOT)?;
        let populated = target::is_populated(&self.dirs.target)
            .map_err(Failure::io("looking at the target"))?;
        if !populated {
            return Err(Failure::new("no element put anything into the target root")
                .hint("the operating system's element does that in its `root.d`"));
        }
        let resolv_conf = self.resolv_conf();
        target::prepare(&self.dirs.target, &resolv_conf)
            .map_err(of_target("preparing the target"))?;
        let api = self.mount_api()?;
        self.write_install_type()?;
        self.run_phase(phases::EXTRA_DATA)?;
        self.run_phase(phases::PRE_INSTALL)?;
        self.run_phase(phases::INSTALL)?;
        self.install_packages()?;
        self.run_phase(phases::POST_INSTALL)?;
        self.run_deferred()?;
        self.run_phase(phases::POST_ROOT)?;
        self.leave_inside();
        drop(api);
        self.stop_processes()?;
        target::drop_lost_and_found(&self.dirs.target)
            .map_err(Failure::io("cleaning up the target"))?;
        let size = output::image_size(&mut self)?;
        self.set("DIB_IMAGE_SIZE", size.kib.to_string());
        self.run_phase(phases::BLOCK_DEVICE)?;
        self.write_fstab()?;
        let facts = self.plan.layout.facts();
        self.set("IMAGE_BLOCK_DEVICE", facts.device().to_owned());
        self.set("IMAGE_BLOCK_DEVICES", self.plan.block_devices());
        let api = self.mount_api()?;
        self.run_phase(phases::PRE_FINALISE)?;
        self.run_phase(phases::FINALISE)?;
        self.run_deferred()?;
        self.run_phase(phases::CLEANUP)?;
        self.leave_inside();
        drop(api);
        self.stop_processes()?;
        target::scrub(&self.dirs.target).map_err(of_target("cleaning up the target"))?;
        output::write(&mut self, size)
    }

    fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.variables.insert(name.into(), value.into());
    }

    /// Makes the build's directories and writes the hooks.
    fn prepare(&mut self) -> Result<(), Failure> {
        let dirs = &self.dirs;
        let make =
            |path: &Path| make_open(path).map_err(Failure::io("making the build's directories"));
        for path in [&dirs.target, &dirs.elements, &dirs.scratch, &dirs.image] {
            make(path)?;
        }
        for name in ["upper", "work"] {
            make(&dirs.layers.join(name))?;
        }
        for element in self.plan.elements.elements() {
            if matches!(element.origin, crate::element::Origin::Embedded(_)) {
                let directory = dirs.elements.join(&element.name);
                make(&directory)?;
                element
                    .write(&directory)
                    .map_err(|error| element_failure(&error))?;
            }
        }
        self.plan
            .hooks
            .write(&dirs.hooks)
            .map_err(|error| element_failure(&error))?;
        self.write_helpers()
            .map_err(Failure::io("writing the helper programs"))?;
        let facts = serde_json::to_vec_pretty(&self.plan.layout.facts())
            .map_err(|error| Failure::new(format!("writing the disk's layout: {error}")))?;
        fs_err::write(dirs.hooks.join(".kiln/layout.json"), facts)
            .map_err(Failure::io("writing the disk's layout"))?;
        let writing = || Failure::io("writing the helper programs");
        let (own, inside) = (dirs.hooks.join(".kiln"), dirs.inside.join(".kiln"));
        make(&inside)?;
        copy::copy_tree_without(&own, &inside, &["outside", PROGRAM]).map_err(copying)?;
        for directory in [&own, &inside] {
            make(&directory.join(RECORD))?;
        }
        // Hooks outside have the very program that runs: they cannot change it. Hooks inside
        // could, so theirs is a copy.
        if mounts::show_own_program(&own.join(PROGRAM)).is_err() {
            write_program(&own.join(PROGRAM)).map_err(writing())?;
        }
        write_program(&inside.join(PROGRAM)).map_err(writing())?;
        let dirs = &self.dirs;
        let paths: [(&str, OsString); 6] = [
            ("KILN_UMASK", format!("{:04o}", self.umask.bits()).into()),
            ("TMP_BUILD_DIR", dirs.work.clone().into()),
            ("TMP_HOOKS_PATH", dirs.hooks.clone().into()),
            ("TMP_MOUNT_PATH", dirs.target.clone().into()),
            ("TMP_IMAGE_DIR", dirs.image.clone().into()),
            ("KILN_LAYERS", dirs.layers.clone().into()),
        ];
        for (name, value) in paths {
            self.set(name, value);
        }
        self.variables
            .extend(self.plan.element_variables(&self.dirs.elements));
        Ok(())
    }

    /// The helpers are this program under other names ([`write_program`]).
    fn write_helpers(&self) -> io::Result<()> {
        let kiln = self.dirs.hooks.join(".kiln");
        let (inside, outside) = (kiln.join("bin"), kiln.join("outside"));
        for directory in [&kiln, &inside, &outside] {
            make_open(directory)?;
        }
        let lib = kiln.join("lib");
        make_open(&lib)?;
        for (name, text) in crate::helpers::lib::FILES {
            let file = lib.join(name);
            fs_err::write(&file, text)?;
            let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
            fs_err::set_permissions(&file, std::fs::Permissions::from_mode(mode))?;
        }
        for helper in crate::helpers::HELPERS {
            use crate::helpers::Scope;
            let directories: &[&PathBuf] = match helper.scope {
                Scope::Anywhere => &[&inside, &outside],
                Scope::Inside => &[&inside],
                Scope::Outside => &[&outside],
                Scope::Called => &[],
            };
            for directory in directories {
                let own = *directory == &inside
                    && programs::is_own(&self.plan.hooks, &self.plan.elements, helper.name);
                let target = if own {
                    Path::new("../../bin").join(helper.name)
                } else {
                    PathBuf::from("../kiln")
                };
                std::os::unix::fs::symlink(target, directory.join(helper.name))?;
            }
        }
        Ok(())
    }

    fn mount_api(&self) -> Result<mounts::TargetApi, Failure> {
        mounts::mount_target_api(&self.dirs.target)
            .map_err(of_target("mounting /proc, /sys and /dev in the target"))
    }

    /// Where programs inside the target run: with the hooks, read-only but for the
    /// record. Kept until [`Engine::leave_inside`], and with it what hooks mount.
    pub fn inside(&mut self) -> Result<Arc<Inside>, Failure> {
        let mounted = match self.inside.take() {
            Some(mounted) => mounted,
            None => {
                let mounted = self.mount_hooks()?;
                if !mounted.inside.is_sealed() && sandbox::standin::mounts_are_possible() {
                    self.events.send(&Event::Warning {
                        text:
                            "hooks inside are held by their root directory alone, which they may \
                               not change: this container refuses `pivot_root`"
                                .to_owned(),
                    });
                }
                mounted
            }
        };
        let inside = Arc::clone(&mounted.inside);
        self.inside = Some(mounted);
        Ok(inside)
    }

    /// Takes the hooks out of the target again.
    pub fn leave_inside(&mut self) {
        self.inside = None;
    }

    /// Fails if programs go on in the target that should have ended by now.
    pub(super) fn require_ended(&self) -> Result<(), Failure> {
        sandbox::standin::require_ended().map_err(Failure::io("ending programs in the target"))
    }

    fn mount_hooks(&self) -> Result<HooksMount, Failure> {
        let root = &self.dirs.target;
        // Whether they are there tells more than what stands in their place in the target.
        self.copy_hooks()?;
        target::make_directory(root, super::environment::HOOKS_INSIDE)
            .map_err(of_target("mounting the hooks in the target"))?;
        let inside = super::environment::HOOKS_INSIDE.trim_start_matches('/');
        let hooks = mounts::show_below(&self.dirs.inside, root, inside, ".kiln/record")
            .map_err(Failure::io("mounting the hooks in the target"))?;
        let inside = Inside::new(root).map_err(Failure::io("entering the target"))?;
        Ok(HooksMount {
            hooks: Some(hooks),
            root: root.clone(),
            inside: Arc::new(inside),
        })
    }

    /// Makes the hooks inside those that there are now: hooks outside may add some.
    fn copy_hooks(&self) -> Result<(), Failure> {
        let inside = &self.dirs.inside;
        let clear = || -> io::Result<()> {
            for entry in fs_err::read_dir(inside)? {
                let entry = entry?;
                if entry.file_name() == ".kiln" {
                    continue;
                }
                // A link is removed and not followed.
                if entry.file_type()?.is_dir() {
                    // As deep as hooks made it.
                    sandbox::sweep::remove_tree(&entry.path())?;
                } else {
                    fs_err::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        clear().map_err(|error| {
            let is_gone = error.kind() == io::ErrorKind::NotFound;
            let failure = Failure::io("removing the former hooks of the target")(error);
            if is_gone {
                let path = super::environment::HOOKS_INSIDE;
                return failure.hint(format!("a hook moved or replaced `{path}`"));
            }
            failure
        })?;
        copy::copy_tree_without(&self.dirs.hooks, inside, &[".kiln"]).map_err(copying)
    }

    /// The hooks as those outside or inside have them, and what these left.
    pub fn hooks_of(&self, inside: bool) -> &Path {
        if inside {
            &self.dirs.inside
        } else {
            &self.dirs.hooks
        }
    }

    /// The element that a file of the hooks came from.
    pub fn element_of(&self, path: &str) -> String {
        self.plan.hooks.get(path).map_or_else(
            || "(added by a hook)".to_owned(),
            |entry| entry.element.clone(),
        )
    }

    /// DIB gives the install type to hooks from `extra-data.d` on by this file.
    fn write_install_type(&self) -> Result<(), Failure> {
        let directory = self.dirs.hooks.join("environment.d");
        let value = crate::element::info::quote(&self.plan.request.install_type);
        let text =
            format!("export DIB_DEFAULT_INSTALLTYPE=${{DIB_DEFAULT_INSTALLTYPE:-{value}}}\n");
        fs_err::create_dir_all(&directory)
            .and_then(|()| fs_err::write(directory.join("11-dib-install-type.bash"), text))
            .map_err(Failure::io("writing the install type"))
    }

    /// Packages of `-p`.
    fn install_packages(&mut self) -> Result<(), Failure> {
        if self.plan.request.packages.is_empty() {
            return Ok(());
        }
        let mut arguments = vec!["install-packages"];
        arguments.extend(self.plan.request.packages.iter().map(String::as_str));
        self.run_inside("installing the packages of `-p`", &arguments)
    }

    /// What package scripts asked for and what is better done once, at the end.
    fn run_deferred(&mut self) -> Result<(), Failure> {
        let pending = record::read(&self.dirs.inside, crate::helpers::record::INITRAMFS)?;
        if pending.is_none_or(|pending| pending.is_empty()) {
            return Ok(());
        }
        let started = Instant::now();
        let step = "initramfs".to_owned();
        self.events.send(&Event::StepStarted {
            step: step.clone(),
            total: None,
        });
        self.run_inside("making the initramfs", &["kiln-deferred", "run"])?;
        self.events.send(&Event::StepFinished {
            step,
            seconds: started.elapsed().as_secs_f64(),
        });
        Ok(())
    }

    /// Ends daemons that hooks left behind and takes away what they mounted, so
    /// that the tree no longer changes.
    fn stop_processes(&mut self) -> Result<(), Failure> {
        self.leave_inside();
        self.require_ended()?;
        command::kill_others();
        loop {
            let mut below =
                mounts::mounts_below(&self.dirs.target).map_err(Failure::io("listing mounts"))?;
            // The target itself is a mount where it is an overlay.
            below.retain(|path| path != &self.dirs.target);
            // What was bound with everything below it only goes as a whole, and one
            // place may be mounted on several times.
            let Some(top) = below.iter().find(|path| {
                !below
                    .iter()
                    .any(|other| *path != other && path.starts_with(other))
            }) else {
                return Ok(());
            };
            mounts::detach(top).map_err(Failure::io(format!("unmounting `{}`", top.display())))?;
        }
    }

    fn write_fstab(&self) -> Result<(), Failure> {
        let text = self.plan.layout.fstab();
        target::replace_file(&self.dirs.target, "/etc/fstab", text.as_bytes(), 0o644)
            .map_err(Failure::io("writing fstab"))
    }
}

/// Where helpers leave what the engine reads, below `.kiln`.
const RECORD: &str = "record";

/// The program that helpers are, below `.kiln`.
const PROGRAM: &str = "kiln";

/// Copies this program, so that nothing in a sandbox can reach the file that the user runs.
fn write_program(path: &Path) -> io::Result<()> {
    let mut copy = fs_err::File::create(path)?;
    io::copy(&mut File::open("/proc/self/exe")?, &mut copy)?;
    copy.set_permissions(std::fs::Permissions::from_mode(0o755))
}

/// An I/O failure while doing something to the target, which hooks made as it is.
fn of_target(action: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |error| {
        let is_theirs = error.kind() == io::ErrorKind::NotADirectory;
        Failure::io(action)(error).hint_if(is_theirs.then_some(
            "a hook of an element made it so: let it make a directory there, or nothing",
        ))
    }
}

fn copying(error: copy::CopyError) -> Failure {
    let path = error.path.display();
    Failure::io(format!("copying `{path}` of the hooks for the target"))(error.source)
}

/// Makes a directory that everybody may search, whatever the umask says: the target is
/// the image's `/`, and programs of any user of the image call the helpers.
fn make_open(path: &Path) -> io::Result<()> {
    fs_err::create_dir_all(path)?;
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

/// The hooks inside a target; taken away when dropped.
#[derive(Debug)]
pub struct HooksMount {
    hooks: Option<mounts::Shown>,
    root: PathBuf,
    inside: Arc<Inside>,
}

impl Drop for HooksMount {
    fn drop(&mut self) {
        drop(self.hooks.take());
        if let Err(error) = target::remove_directory(&self.root, super::environment::HOOKS_INSIDE) {
            tracing::warn!("{error}");
        }
    }
}
