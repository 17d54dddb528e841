//! `grub-probe` (`grub2-probe`): what a path or device is, from the plan.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{Error, Layout, module};
use crate::disk::facts::Filesystem;

/// What can be asked with `--target`.
pub const TARGETS: &[&str] = &[
    "abstraction",
    "baremetal_hints",
    "bios_hints",
    "compatibility_hint",
    "cryptodisk_uuid",
    "device",
    "disk",
    "drive",
    "efi_hints",
    "fs",
    "fs_label",
    "fs_uuid",
    "hints_string",
    "partmap",
    "partuuid",
];

#[derive(Debug, Default, PartialEq, Eq)]
struct Call {
    target: String,
    is_device: bool,
    nul: bool,
    version: bool,
    help: bool,
    operands: Vec<OsString>,
}

fn parse(args: &[OsString]) -> Result<Call, Error> {
    let mut call = Call {
        target: "fs".into(),
        ..Call::default()
    };
    let mut args = args.iter();
    let mut only_operands = false;
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        if only_operands || !text.starts_with('-') {
            call.operands.push(arg.clone());
            continue;
        }
        let mut value = |option: &str| {
            args.next()
                .map(|value| value.to_string_lossy().into_owned())
                .ok_or_else(|| Error::Argument {
                    option: option.to_owned(),
                })
        };
        match text.as_ref() {
            "--" => only_operands = true,
            "-d" | "--device" => call.is_device = true,
            "-0" => call.nul = true,
            "-v" | "--verbose" => {}
            "-V" | "--version" => call.version = true,
            "-?" | "--help" | "--usage" => call.help = true,
            "-t" | "--target" => call.target = value("--target")?,
            "-m" | "--device-map" => drop(value("--device-map")?),
            other => {
                if let Some(target) = other
                    .strip_prefix("--target=")
                    .or_else(|| other.strip_prefix("-t"))
                {
                    call.target = target.to_owned();
                } else if !other.starts_with("--device-map=") && !other.starts_with("-m") {
                    return Err(Error::Option {
                        option: other.to_owned(),
                    });
                }
            }
        }
    }
    Ok(call)
}

/// `grub-probe [-t TARGET] PATH`, `grub-probe [-t TARGET] -d DEVICE…`
pub(in crate::helpers) fn main(name: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let call = parse(args)?;
    let called = name.to_string_lossy();
    if call.version {
        crate::helpers::print(&super::version(&called)?);
        return Ok(ExitCode::SUCCESS);
    }
    if call.help {
        crate::helpers::print(&format!(
            "Usage: {called} [-t TARGET] [-0] PATH\n       {called} [-t TARGET] [-0] -d DEVICE…\nAnswers from the plan of the image. Targets: {}\n",
            TARGETS.join(", ")
        ));
        return Ok(ExitCode::SUCCESS);
    }
    if call.operands.is_empty() {
        return Err(Error::NoOperand);
    }
    let layout = Layout::from_environment()?;
    let mut out = String::new();
    for operand in &call.operands {
        let fs = if call.is_device {
            layout.on_device(&operand.to_string_lossy())?
        } else {
            let path = PathBuf::from(operand);
            let path = std::fs::canonicalize(&path).map_err(|source| Error::Io {
                action: "resolve",
                path,
                source,
            })?;
            Some(layout.holding(Path::new(&path))?)
        };
        if let Some(answer) = answer(&layout, fs, &call.target)? {
            out.push_str(&answer);
            out.push(if call.nul { '\0' } else { '\n' });
        }
    }
    crate::helpers::print(&out);
    Ok(ExitCode::SUCCESS)
}

/// The answer of one question; `None` where the real tool prints nothing.
fn answer(layout: &Layout, fs: Option<&Filesystem>, target: &str) -> Result<Option<String>, Error> {
    if !TARGETS.contains(&target) {
        return Err(Error::UnknownTarget {
            target: target.to_owned(),
        });
    }
    let device = fs.map_or(layout.device(), |fs| fs.device.as_str());
    let no_value = |what| Error::NoValue {
        what,
        device: device.to_owned(),
    };
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let is_volume = fs.is_some_and(|fs| fs.disk.is_none());
    let drive = layout.drive(fs);
    Ok(match target {
        "device" => Some(device.to_owned()),
        "disk" => Some(if is_volume {
            device.to_owned()
        } else {
            let disk = layout.disk(fs);
            disk.map_or("", |disk| &disk.device).to_owned()
        }),
        "fs" => Some(module(fs.ok_or_else(|| no_value("filesystem"))?)?.to_owned()),
        "fs_uuid" => Some(
            some(&fs.ok_or_else(|| no_value("filesystem"))?.uuid)
                .ok_or_else(|| no_value("filesystem UUID"))?,
        ),
        // An empty label is an empty line, as with the real tool.
        "fs_label" => Some(fs.ok_or_else(|| no_value("filesystem"))?.label.clone()),
        "partuuid" => fs.and_then(|fs| some(&fs.partuuid)),
        "partmap" => some(layout.partition_map(fs)),
        "abstraction" => is_volume.then(|| "lvm".to_owned()),
        "cryptodisk_uuid" => None,
        "drive" => Some(format!("({drive})")),
        "compatibility_hint" | "bios_hints" | "efi_hints" => Some(drive),
        "baremetal_hints" => (!is_volume).then(|| drive.replacen("hd", "ahci", 1)),
        "hints_string" => Some(if is_volume {
            format!("--hint='{drive}'")
        } else {
            let bare = drive.replacen("hd", "ahci", 1);
            format!("--hint-bios={drive} --hint-efi={drive} --hint-baremetal={bare}")
        }),
        _ => {
            return Err(Error::UnknownTarget {
                target: target.to_owned(),
            });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{efi, filesystem, layout};
    use super::*;
    use crate::helpers::Explain as _;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn options_are_understood_in_all_their_forms() {
        for line in [
            "--device /dev/x --target=fs_uuid",
            "-d -t fs_uuid /dev/x",
            "-tfs_uuid --device -- /dev/x",
        ] {
            let call = parse(&words(line)).unwrap();
            assert_eq!(
                (call.target.as_str(), call.is_device, call.operands),
                ("fs_uuid", true, words("/dev/x")),
                "{line}"
            );
        }
        assert_eq!(parse(&words("/")).unwrap().target, "fs");
        assert_eq!(
            parse(&words("--frob /")).unwrap_err().to_string(),
            "unknown option `--frob`"
        );
    }

    #[test]
    fn answers_come_from_the_plan() {
        let facts = efi();
        let layout = layout(&facts);
        let root = facts.filesystems.get(1);
        for (target, expected) in [
            ("device", Some("/dev/mapper/loop0p3")),
            ("disk", Some("/dev/loop0")),
            ("fs", Some("ext2")),
            ("fs_uuid", Some("00000000-0000-4000-8000-000000000003")),
            ("fs_label", Some("MKFS_ROOT")),
            ("partuuid", Some("11111111-0000-4000-8000-000000000003")),
            ("partmap", Some("gpt")),
            ("abstraction", None),
            ("cryptodisk_uuid", None),
            ("drive", Some("(hd0,gpt3)")),
            ("compatibility_hint", Some("hd0,gpt3")),
            (
                "hints_string",
                Some("--hint-bios=hd0,gpt3 --hint-efi=hd0,gpt3 --hint-baremetal=ahci0,gpt3"),
            ),
        ] {
            assert_eq!(
                answer(&layout, root, target).unwrap().as_deref(),
                expected,
                "{target}"
            );
        }
        assert_eq!(answer(&layout, None, "drive").unwrap().unwrap(), "(hd0)");
        let error = answer(&layout, None, "fs_uuid").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the plan has no filesystem for `/dev/loop0`"
        );
        let error = answer(&layout, root, "zero_check").unwrap_err();
        assert_eq!(error.to_string(), "unknown target `zero_check`");
        assert!(error.hint().unwrap().starts_with("known are abstraction, "));
    }

    #[test]
    fn a_bare_filesystem_has_no_partition_map() {
        let mut facts = efi();
        facts.disks[0].partition_table = String::new();
        facts.filesystems = vec![filesystem("mkfs_root", Some("/"), "ext4", "u", None)];
        let layout = layout(&facts);
        assert_eq!(
            answer(&layout, facts.filesystems.first(), "partmap").unwrap(),
            None
        );
        assert_eq!(
            answer(&layout, facts.filesystems.first(), "compatibility_hint")
                .unwrap()
                .unwrap(),
            "hd0"
        );
    }
}
