//! The options of `grub-install` and the platforms it knows.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Error;

/// What `grub-install` is asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Call {
    pub target: Option<String>,
    pub modules: Vec<String>,
    pub boot_directory: PathBuf,
    pub efi_directory: Option<PathBuf>,
    pub source: Option<PathBuf>,
    pub bootloader_id: Option<String>,
    pub removable: bool,
    pub version: bool,
    pub help: bool,
    pub device: Option<String>,
}

/// Options whose argument means nothing without a device or firmware.
const IGNORED_WITH_ARGUMENT: &[&str] = &[
    "--compress",
    "--core-compress",
    "--disk-module",
    "--fonts",
    "--grub-mkdevicemap",
    "--grub-mkimage",
    "--grub-probe",
    "--grub-setup",
    "--install-modules",
    "--label-bgcolor",
    "--label-color",
    "--label-font",
    "--locale-directory",
    "--locales",
    "--macppc-directory",
    "--product-version",
    "--pubkey",
    "--sbat",
    "--themes",
];
const IGNORED: &[&str] = &[
    "--allow-floppy",
    "--debug",
    "--force",
    "--force-extra-removable",
    "--force-file-id",
    "--no-bootsector",
    "--no-extra-removable",
    "--no-floppy",
    "--no-nvram",
    "--no-rs-codes",
    "--no-uefi-secure-boot",
    "--recheck",
    "--skip-fs-probe",
    "--uefi-secure-boot",
    "--verbose",
    "-f",
    "-s",
    "-v",
];

pub(super) fn parse(args: &[OsString]) -> Result<Call, Error> {
    let mut call = Call {
        boot_directory: "/boot".into(),
        ..Call::default()
    };
    let mut args = args.iter().map(|arg| arg.to_string_lossy().into_owned());
    while let Some(arg) = args.next() {
        let (option, inline) = match arg.split_once('=') {
            Some((option, value)) if option.starts_with("--") => {
                (option.to_owned(), Some(value.to_owned()))
            }
            _ => (arg.clone(), None),
        };
        let mut value = || {
            inline
                .clone()
                .or_else(|| args.next())
                .ok_or_else(|| Error::Argument {
                    option: option.clone(),
                })
        };
        match option.as_str() {
            "--target" => call.target = Some(value()?),
            "--modules" => call
                .modules
                .extend(value()?.split_whitespace().map(str::to_owned)),
            "--boot-directory" => call.boot_directory = value()?.into(),
            "--efi-directory" => call.efi_directory = Some(value()?.into()),
            "-d" | "--directory" => call.source = Some(value()?.into()),
            "--bootloader-id" => call.bootloader_id = Some(value()?),
            "--removable" => call.removable = true,
            "-V" | "--version" => call.version = true,
            "-?" | "--help" | "--usage" => call.help = true,
            // The one that says the tree is elsewhere is not harmless.
            "--root-directory" => call.boot_directory = Path::new(&value()?).join("boot"),
            other if IGNORED.contains(&other) => {}
            other if IGNORED_WITH_ARGUMENT.contains(&other) => drop(value()?),
            other if other.starts_with('-') && other.len() > 1 => {
                return Err(Error::Option {
                    option: other.to_owned(),
                });
            }
            _ => call.device = Some(arg),
        }
    }
    Ok(call)
}

/// A platform of GRUB that kiln can boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Platform {
    pub name: &'static str,
    /// File name of the EFI program at the removable path; `None` for BIOS.
    pub removable: Option<&'static str>,
    /// File name of the EFI program elsewhere.
    pub program: &'static str,
    /// Packages with the modules.
    pub package: &'static str,
}

const PLATFORMS: &[Platform] = &[
    Platform {
        name: "i386-pc",
        removable: None,
        program: "",
        package: "`grub-pc-bin` (Debian) or `grub2-pc-modules`",
    },
    Platform {
        name: "x86_64-efi",
        removable: Some("BOOTX64.EFI"),
        program: "grubx64.efi",
        package: "`grub-efi-amd64-bin` (Debian) or `grub2-efi-x64-modules`",
    },
    Platform {
        name: "i386-efi",
        removable: Some("BOOTIA32.EFI"),
        program: "grubia32.efi",
        package: "`grub-efi-ia32-bin` (Debian) or `grub2-efi-ia32-modules`",
    },
    Platform {
        name: "arm64-efi",
        removable: Some("BOOTAA64.EFI"),
        program: "grubaa64.efi",
        package: "`grub-efi-arm64-bin` (Debian) or `grub2-efi-aa64-modules`",
    },
    Platform {
        name: "arm-efi",
        removable: Some("BOOTARM.EFI"),
        program: "grubarm.efi",
        package: "`grub-efi-arm-bin` (Debian)",
    },
    Platform {
        name: "riscv64-efi",
        removable: Some("BOOTRISCV64.EFI"),
        program: "grubriscv64.efi",
        package: "`grub-efi-riscv64-bin` (Debian)",
    },
];

/// The platform that was named, or the one of this machine and root.
pub(super) fn platform(name: Option<&str>, lib: &Path) -> Result<Platform, Error> {
    let default = match std::env::consts::ARCH {
        "x86_64" | "x86" if lib.join("i386-pc").is_dir() => "i386-pc",
        "x86" => "i386-efi",
        "aarch64" => "arm64-efi",
        "arm" => "arm-efi",
        "riscv64" => "riscv64-efi",
        _ => "x86_64-efi",
    };
    let name = name.unwrap_or(default);
    PLATFORMS
        .iter()
        .find(|platform| platform.name == name)
        .copied()
        .ok_or_else(|| Error::Platform {
            target: name.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        let mut words = Vec::new();
        for word in shlex::split(text).unwrap() {
            words.push(OsString::from(word));
        }
        words
    }

    #[test]
    fn the_calls_of_the_bootloader_element_are_understood() {
        let call = parse(&words(
            "'--modules=part_msdos part_gpt lvm biosdisk' --target=i386-pc --force /dev/loop0",
        ))
        .unwrap();
        assert_eq!(call.modules, ["part_msdos", "part_gpt", "lvm", "biosdisk"]);
        assert_eq!(
            (call.target.as_deref(), call.device.as_deref()),
            (Some("i386-pc"), Some("/dev/loop0"))
        );
        let call = parse(&words("--modules 'a b' --removable --force --target=x86_64-efi --no-nvram --efi-directory /efi")).unwrap();
        assert!(call.removable && call.device.is_none());
        assert_eq!(call.efi_directory.as_deref(), Some(Path::new("/efi")));
        assert_eq!(
            parse(&words("--frob")).unwrap_err().to_string(),
            "unknown option `--frob`"
        );
        assert_eq!(
            parse(&words("--target")).unwrap_err().to_string(),
            "option `--target` needs an argument"
        );
    }

    #[test]
    fn an_unknown_platform_is_refused() {
        let error = platform(Some("powerpc-ieee1275"), Path::new("/")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "platform `powerpc-ieee1275` is not supported"
        );
    }
}
