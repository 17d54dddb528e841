//! `grub-install` (`grub2-install`): GRUB's files and core image, without a device.
//!
//! Does what the real one does to the tree: modules, fonts and translations in
//! `/boot/grub`, `core.img` or the EFI program made by the target's own
//! `grub-mkimage`. The core finds its filesystem by UUID, so it does not matter
//! which disk it is on. Boot sectors are the assembler's; it is told in
//! [`record::GRUB_INSTALL`].

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use super::options::{Call, Platform, parse, platform};
use super::{Error, Layout, module};
use crate::disk::facts::Filesystem;
use crate::helpers::record::{self, GrubCore, Journal};

/// Bytes of GRUB's environment block.
const ENVBLK_SIZE: usize = 1024;
const ENVBLK_HEADER: &str = "# GRUB Environment Block\n";

/// `grub-install [OPTION…] [DEVICE]`
pub(in crate::helpers) fn main(name: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let called = name.to_string_lossy();
    let call = parse(args)?;
    if call.version {
        crate::helpers::print(&super::version(&called)?);
        return Ok(ExitCode::SUCCESS);
    }
    if call.help {
        crate::helpers::print(&format!(
            "Usage: {called} [--target=PLATFORM] [--modules=MODULES] [--boot-directory=DIR]\n       [--efi-directory=DIR] [--removable] [--bootloader-id=ID] [DEVICE]\nPrepares GRUB in the tree; kiln writes the boot code when it makes the image.\n"
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let layout = Layout::from_environment()?;
    let lib = Path::new("/usr/lib/grub");
    let platform = platform(call.target.as_deref(), lib)?;
    let source = call
        .source
        .clone()
        .unwrap_or_else(|| lib.join(platform.name));
    if !source.join("moddep.lst").is_file() {
        let path = source.join("moddep.lst");
        return Err(Error::NoModules {
            target: platform.name.to_owned(),
            path,
            package: platform.package,
        });
    }
    if let Some(device) = &call.device {
        layout.on_device(device)?;
    } else if platform.removable.is_none() {
        return Err(Error::NoOperand);
    }
    let mkimage = super::tool(&called, "mkimage")?;
    let flavour = if called.starts_with("grub2") {
        "grub2"
    } else {
        "grub"
    };
    let install = Install {
        layout: &layout,
        call: &call,
        platform,
        source,
        mkimage,
        flavour,
    };
    let summary = install.run()?;
    // The real one reports on standard error as well.
    crate::helpers::say(&summary);
    Ok(ExitCode::SUCCESS)
}

struct Install<'a> {
    layout: &'a Layout,
    call: &'a Call,
    platform: Platform,
    source: PathBuf,
    mkimage: PathBuf,
    flavour: &'static str,
}

impl Install<'_> {
    fn run(&self) -> Result<String, Error> {
        let boot = &self.call.boot_directory;
        let grub = boot.join(self.flavour);
        let modules = grub.join(self.platform.name);
        create_dir(&modules)?;
        let grub = canonical(&grub)?;
        let modules = canonical(&modules)?;
        let fs = self.layout.holding(&grub)?;
        // Checked before anything is written: an ESP that is missing is a wrong layout.
        let esp = self
            .platform
            .removable
            .is_some()
            .then(|| self.esp())
            .transpose()?;

        self.copy_modules(&modules)?;
        copy_fonts(&grub)?;
        copy_translations(&grub)?;
        create_environment_block(&grub)?;

        let prefix = prefix_in(fs, &grub)?;
        let config = modules.join("load.cfg");
        write(
            &config,
            early_config(fs, &self.layout.drive(Some(fs)), &prefix).as_bytes(),
        )?;
        let core = modules.join(if esp.is_some() {
            "core.efi"
        } else {
            "core.img"
        });
        self.make_image(
            &config,
            &prefix,
            &core,
            &core_modules(self.layout, fs, self.platform, &self.call.modules)?,
        )?;

        let Some(esp) = esp else {
            let boot_image = modules.join("boot.img");
            copy(&self.source.join("boot.img"), &boot_image)?;
            let entry = GrubCore {
                target: self.platform.name.to_owned(),
                core: core.display().to_string(),
                boot_image: boot_image.display().to_string(),
            };
            Journal::open(record::GRUB_INSTALL)?.append(entry)?;
            return Ok(format!(
                "Prepared GRUB for {}; its boot code goes into the image.",
                self.platform.name
            ));
        };
        let places = efi_places(
            self.platform,
            &esp,
            self.call.removable,
            self.call.bootloader_id.as_deref(),
        );
        for place in &places {
            if let Some(parent) = place.parent() {
                create_dir(parent)?;
            }
            copy(&core, place)?;
        }
        let places: Vec<String> = places
            .iter()
            .map(|place| place.display().to_string())
            .collect();
        Ok(format!(
            "Installed GRUB for {} as {}.",
            self.platform.name,
            places.join(" and ")
        ))
    }

    /// The EFI system partition's directory, which must be a FAT of the plan.
    fn esp(&self) -> Result<PathBuf, Error> {
        let directory = self
            .call
            .efi_directory
            .clone()
            .unwrap_or_else(|| self.call.boot_directory.join("efi"));
        create_dir(&directory)?;
        let directory = canonical(&directory)?;
        let fs = self.layout.holding(&directory)?;
        if module(fs).ok() == Some("fat") {
            Ok(directory)
        } else {
            Err(Error::NoEsp { path: directory })
        }
    }

    fn copy_modules(&self, to: &Path) -> Result<(), Error> {
        for name in names(&self.source)? {
            let wanted = name.ends_with(".mod")
                || name.ends_with(".lst")
                || name == "modinfo.sh"
                || (name.starts_with("efiemu") && name.ends_with(".o"));
            if wanted {
                copy(&self.source.join(&name), &to.join(&name))?;
            }
        }
        Ok(())
    }

    fn make_image(
        &self,
        config: &Path,
        prefix: &str,
        core: &Path,
        modules: &[String],
    ) -> Result<(), Error> {
        let output = Command::new(&self.mkimage)
            .args(["-O", self.platform.name, "-p", prefix, "-d"])
            .arg(&self.source)
            .arg("-c")
            .arg(config)
            .arg("-o")
            .arg(core)
            .args(modules)
            .stdin(Stdio::null())
            .output()
            .map_err(|source| Error::Io {
                action: "run",
                path: self.mkimage.clone(),
                source,
            })?;
        if output.status.success() {
            Ok(())
        } else {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(Error::Mkimage {
                program: self.mkimage.display().to_string(),
                message,
            })
        }
    }
}

/// GRUB's directory as seen from the top of its filesystem.
fn prefix_in(fs: &Filesystem, grub: &Path) -> Result<String, Error> {
    let mount = fs.mount_point.as_deref().unwrap_or("/");
    let inside = grub.strip_prefix(mount).map_err(|_| Error::NoFilesystem {
        path: grub.to_owned(),
    })?;
    Ok(format!("/{}", inside.display()))
}

/// What the core does first: find its filesystem, wherever that is.
fn early_config(fs: &Filesystem, drive: &str, prefix: &str) -> String {
    format!(
        "search.fs_uuid {} root {drive}\nset prefix=($root)'{prefix}'\n",
        fs.uuid
    )
}

/// Modules in the core: what it takes to read the rest, and what was asked for.
fn core_modules(
    layout: &Layout,
    fs: &Filesystem,
    platform: Platform,
    asked: &[String],
) -> Result<Vec<String>, Error> {
    let mut modules: Vec<String> = Vec::new();
    let mut add = |name: &str| {
        if !modules.iter().any(|known| known == name) {
            modules.push(name.to_owned());
        }
    };
    for name in asked {
        add(name);
    }
    if platform.removable.is_none() {
        add("biosdisk");
    }
    add(module(fs)?);
    let table = layout.partition_map(Some(fs));
    if !table.is_empty() {
        add(&format!("part_{table}"));
    }
    if fs.disk.is_none() {
        add("lvm");
    }
    add("search_fs_uuid");
    Ok(modules)
}

/// Where the EFI program goes: the path that firmware tries without an entry in
/// its memory, since a build cannot make one, and the vendor's unless `removable`.
fn efi_places(platform: Platform, esp: &Path, removable: bool, id: Option<&str>) -> Vec<PathBuf> {
    let mut places = Vec::new();
    if !removable {
        // One component: an id is a name, not a path.
        let id = id.unwrap_or("grub").replace('/', "_");
        places.push(esp.join("EFI").join(id).join(platform.program));
    }
    places.extend(
        platform
            .removable
            .map(|name| esp.join("EFI/BOOT").join(name)),
    );
    places
}

fn copy_fonts(grub: &Path) -> Result<(), Error> {
    let font = Path::new("/usr/share/grub/unicode.pf2");
    if font.is_file() {
        let fonts = grub.join("fonts");
        create_dir(&fonts)?;
        copy(font, &fonts.join("unicode.pf2"))?;
    }
    Ok(())
}

fn copy_translations(grub: &Path) -> Result<(), Error> {
    let locales = Path::new("/usr/share/locale");
    if !locales.is_dir() {
        return Ok(());
    }
    for language in names(locales)? {
        let catalogue = locales.join(&language).join("LC_MESSAGES/grub.mo");
        if catalogue.is_file() {
            create_dir(&grub.join("locale"))?;
            copy(
                &catalogue,
                &grub.join("locale").join(format!("{language}.mo")),
            )?;
        }
    }
    Ok(())
}

/// Makes an empty environment block where there is none.
fn create_environment_block(grub: &Path) -> Result<(), Error> {
    let path = grub.join("grubenv");
    if std::fs::symlink_metadata(&path).is_ok() {
        return Ok(());
    }
    let mut block = ENVBLK_HEADER.as_bytes().to_vec();
    block.resize(ENVBLK_SIZE, b'#');
    write(&path, &block)
}

fn names(directory: &Path) -> Result<Vec<String>, Error> {
    super::super::names_in(directory).map_err(|source| Error::Io {
        action: "list",
        path: directory.to_owned(),
        source,
    })
}

fn create_dir(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(|source| Error::Io {
        action: "create",
        path: path.to_owned(),
        source,
    })
}

fn canonical(path: &Path) -> Result<PathBuf, Error> {
    std::fs::canonicalize(path).map_err(|source| Error::Io {
        action: "resolve",
        path: path.to_owned(),
        source,
    })
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let mut source = std::fs::File::open(from).map_err(|source| Error::Io {
        action: "open",
        path: from.to_owned(),
        source,
    })?;
    let mut target = create(to)?;
    io::copy(&mut source, &mut target).map_err(|source| Error::Io {
        action: "write",
        path: to.to_owned(),
        source,
    })?;
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    create(path)?.write_all(bytes).map_err(|source| Error::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

/// A new file with mode 0644, in place of whatever has its name.
fn create(path: &Path) -> Result<std::fs::File, Error> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let io = |action| {
        move |source| Error::Io {
            action,
            path: path.to_owned(),
            source,
        }
    };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io("replace")(error)),
        _ => {}
    }
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)
        .map_err(io("create"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{efi, filesystem, layout};
    use super::*;
    use crate::helpers::Explain as _;

    fn named(name: &str) -> Platform {
        platform(Some(name), Path::new("/nowhere")).unwrap()
    }

    #[test]
    fn the_core_finds_its_filesystem_by_uuid() {
        let mut facts = efi();
        let root = |facts: &crate::disk::facts::Facts| {
            layout(facts)
                .holding(Path::new("/boot/grub"))
                .unwrap()
                .clone()
        };
        let fs = root(&facts);
        assert_eq!(
            early_config(
                &fs,
                "hd0,gpt3",
                &prefix_in(&fs, Path::new("/boot/grub")).unwrap()
            ),
            "search.fs_uuid 00000000-0000-4000-8000-000000000003 root hd0,gpt3\nset prefix=($root)'/boot/grub'\n"
        );
        facts
            .filesystems
            .push(filesystem("mkfs_boot", Some("/boot"), "xfs", "b", Some(4)));
        let fs = root(&facts);
        assert_eq!(
            (
                fs.uuid.as_str(),
                prefix_in(&fs, Path::new("/boot/grub2")).unwrap().as_str()
            ),
            ("b", "/grub2")
        );
    }

    #[test]
    fn the_core_has_what_it_needs_once() {
        let facts = efi();
        let layout = layout(&facts);
        let fs = layout.holding(Path::new("/boot/grub")).unwrap();
        let asked = ["part_msdos", "part_gpt", "lvm", "biosdisk"].map(str::to_owned);
        let modules = core_modules(&layout, fs, named("i386-pc"), &asked).unwrap();
        assert_eq!(
            modules.join(" "),
            "part_msdos part_gpt lvm biosdisk ext2 search_fs_uuid"
        );
        let modules = core_modules(&layout, fs, named("x86_64-efi"), &[]).unwrap();
        assert_eq!(modules.join(" "), "ext2 part_gpt search_fs_uuid");
    }

    #[test]
    fn an_efi_program_always_has_the_removable_path() {
        let places =
            |removable, id| efi_places(named("x86_64-efi"), Path::new("/boot/efi"), removable, id);
        assert_eq!(
            places(true, None),
            [Path::new("/boot/efi/EFI/BOOT/BOOTX64.EFI")]
        );
        assert_eq!(
            places(false, Some("debian")),
            [
                Path::new("/boot/efi/EFI/debian/grubx64.efi"),
                Path::new("/boot/efi/EFI/BOOT/BOOTX64.EFI")
            ]
        );
    }

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let error = platform(Some("powerpc-ieee1275"), Path::new("/")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "platform `powerpc-ieee1275` is not supported"
        );
        let error = Error::NoModules {
            target: "i386-pc".into(),
            path: "/usr/lib/grub/i386-pc".into(),
            package: named("i386-pc").package,
        };
        assert_eq!(
            error.to_string(),
            "GRUB's modules for `i386-pc` are not in this root: no `/usr/lib/grub/i386-pc`"
        );
        assert_eq!(
            error.hint().unwrap(),
            "install `grub-pc-bin` (Debian) or `grub2-pc-modules`"
        );
    }

    #[test]
    fn the_environment_block_has_its_size_and_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        create_environment_block(dir.path()).unwrap();
        let block = std::fs::read(dir.path().join("grubenv")).unwrap();
        assert_eq!(block.len(), 1024);
        assert!(block.starts_with(b"# GRUB Environment Block\n###"));
        std::fs::write(dir.path().join("grubenv"), "mine").unwrap();
        create_environment_block(dir.path()).unwrap();
        assert_eq!(std::fs::read(dir.path().join("grubenv")).unwrap(), b"mine");
    }
}
