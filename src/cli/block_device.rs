//! The face `dib-block-device`: a disk step by step.

use std::path::PathBuf;

use super::failure::{Failure, misused};
use super::nearest::nearest;
use super::{Context, argparse};
use crate::build::block_device::{self, Step};
use crate::helpers::arguments::{Known, added, flag, value};

const USAGE: &str = "Usage: dib-block-device [--params FILE] STEP

Makes a disk image step by step, without root: nothing is attached or mounted.

Steps:
  init            Reads and checks the configuration.
  getval SYMBOL   Prints root-label, root-fstype, boot-label or mount-points; after
                  create also image-path, image-block-device or image-block-devices.
  create          Makes the image and a directory for each mount point.
  umount          Writes what is in the directories into the image.
  cleanup         Forgets the state.
  delete          Takes the image away as well.
  writefstab      Writes fstab into the state directory, and into built/etc of build-dir.

  -p, --params FILE  YAML file with the keys config, image-dir, mount-base and build-dir,
                     and optionally root-fs-type, root-fs-opts, root-label and image-size
                     (default: $DIB_BLOCK_DEVICE_PARAMS_YAML).
  -h, --help         Prints this text.
      --version      Prints the version.
";

const STEPS: [&str; 7] = [
    "init",
    "getval",
    "create",
    "umount",
    "cleanup",
    "delete",
    "writefstab",
];

const OPTIONS: [Known; 2] = [
    Known {
        short: Some("-p"),
        ..value("--params")
    },
    added(flag("--version", None)),
];

/// Runs `dib-block-device`.
pub fn run(_: &str, arguments: &[String], context: &mut Context) -> Result<u8, Failure> {
    let given = argparse::parse("dib-block-device", arguments, &OPTIONS)?;
    if given.asks_for_help() {
        context.printer.data(USAGE);
        return Ok(0);
    }
    if given.has("--version") {
        context.printer.line(env!("CARGO_PKG_VERSION"));
        return Ok(0);
    }
    let parameters = given
        .get("--params")
        .or_else(|| context.caller.var("DIB_BLOCK_DEVICE_PARAMS_YAML"))
        .map(PathBuf::from);
    let words = argparse::operands(&given);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let step = match words[..] {
        [] => {
            return Err(misused("no step is named").hint(format!("one of {}", STEPS.join(", "))));
        }
        ["init"] => Step::Init,
        ["getval", symbol] => Step::GetVal(symbol.to_owned()),
        ["getval"] => {
            return Err(misused("`getval` needs a symbol")
                .hint("for example: `dib-block-device getval root-label`"));
        }
        ["create"] => Step::Create,
        ["umount"] => Step::Umount,
        ["cleanup"] => Step::Cleanup,
        ["delete"] => Step::Delete,
        ["writefstab"] => Step::WriteFstab,
        [name, ..] if STEPS.contains(&name) => {
            return Err(misused(format!("`{name}` takes no more arguments"))
                .hint("`dib-block-device --help` lists the steps"));
        }
        [name, ..] => {
            let failure = misused(format!("unknown step `{name}`"));
            return Err(match nearest(name, STEPS) {
                Some(meant) => failure.hint(format!("did you mean `{meant}`?")),
                None => failure.hint(format!("one of {}", STEPS.join(", "))),
            });
        }
    };
    let Some(parameters) = parameters else {
        return Err(misused("no file of parameters is named")
            .hint("use `--params FILE` or set `DIB_BLOCK_DEVICE_PARAMS_YAML`"));
    };
    let parameters = context.caller.current_dir.join(parameters);
    if let Some(text) = block_device::run(&parameters, &step)? {
        context.printer.line(text);
    }
    Ok(0)
}
