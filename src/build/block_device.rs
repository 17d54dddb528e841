//! What `dib-block-device` does: a disk step by step, for scripts of others.
//!
//! Upstream attaches a loop device, makes filesystems, and mounts them at the
//! `mount-base`; what the caller copies there is in the image. Here nothing is
//! attached: `create` makes plain directories at the mount points and an empty
//! image, and `umount` turns the directories into the image. The steps, their
//! files and their order are the same.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::{Uuid, uuid};

use super::arch::default_arch;
use super::failure::Failure;
use super::output;
use crate::disk::config::{Config, RootParameters};
use crate::disk::layout::fit::{self, Length};
use crate::disk::layout::{self, NativePlanner};
use crate::disk::yaml;
use crate::sink;
use crate::tree::live::{ScanOptions, scan};
use crate::tree::{Timestamp, Tree};

/// Namespace of the ids that are derived from a configuration.
const NAMESPACE: Uuid = uuid!("0f6a2c1e-90d4-4f35-8d0b-3c6d1e55a7b2");
/// Symbols that are known from the configuration alone.
const SYMBOLS: [&str; 4] = ["root-label", "root-fstype", "boot-label", "mount-points"];
/// Symbols that are known once there is an image.
const STATE_SYMBOLS: [&str; 3] = ["image-path", "image-block-device", "image-block-devices"];

/// A step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Reads and checks the configuration.
    Init,
    /// Prints a value.
    GetVal(String),
    /// Makes the image and the mount points.
    Create,
    /// Writes the content of the mount points into the image.
    Umount,
    /// Forgets the state.
    Cleanup,
    /// Takes the image away as well.
    Delete,
    /// Writes `fstab` into the state directory and `built/etc`.
    WriteFstab,
}

/// Where everything is, from the file of parameters.
#[derive(Debug)]
struct Parameters {
    config: PathBuf,
    image_dir: PathBuf,
    mount_base: PathBuf,
    build_dir: PathBuf,
    root: RootParameters,
    image_size: Option<u64>,
}

/// What `create` made.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    image_path: PathBuf,
    /// Those of further disks.
    #[serde(default)]
    more_paths: Vec<PathBuf>,
    image_block_device: String,
    image_block_devices: Vec<(String, String)>,
    bytes: u64,
}

fn read_parameters(file: &Path) -> Result<Parameters, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| {
            Failure::new(format!(
                "cannot read the parameters in `{}`: {error}",
                file.display()
            ))
        })
        .map_err(|failure| {
            failure.hint("`--params` or `DIB_BLOCK_DEVICE_PARAMS_YAML` names the file")
        })?;
    let value = yaml::parse(&text)
        .map_err(|error| Failure::new(format!("`{}` is not YAML: {error}", file.display())))?;
    let yaml::Value::Map(map) = value else {
        return Err(Failure::new(format!(
            "`{}` is {} where a map is expected",
            file.display(),
            value.kind_name()
        ))
        .hint("it has the keys config, image-dir, mount-base, build-dir"));
    };
    let text = |key: &str| {
        map.get(key)
            .and_then(yaml::Value::as_text)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let path = |key: &str| {
        text(key).map(PathBuf::from).ok_or_else(|| {
            Failure::new(format!("`{}` has no `{key}`", file.display()))
                .hint("it has the keys config, image-dir, mount-base, build-dir")
        })
    };
    let image_size = match text("image-size") {
        None => None,
        Some(size) => Some(crate::disk::config::absolute(&size).map_err(|error| {
            Failure::from_error(&error).hint("`image-size` is written as in `1048576KiB`")
        })?),
    };
    Ok(Parameters {
        config: path("config")?,
        image_dir: path("image-dir")?,
        mount_base: path("mount-base")?,
        build_dir: path("build-dir")?,
        root: RootParameters {
            fstype: text("root-fs-type").unwrap_or_else(|| "ext4".to_owned()),
            defaults: None,
            opts: text("root-fs-opts"),
            label: text("root-label"),
        },
        image_size,
    })
}

/// Does a step and returns what it prints.
///
/// # Errors
/// What failed; the exit status is 1.
pub fn run(parameters: &Path, step: &Step) -> Result<Option<String>, Failure> {
    let parameters = read_parameters(parameters)?;
    let tool = Tool { parameters };
    match step {
        Step::Init => tool.init().map(|()| None),
        Step::GetVal(symbol) => tool.value(symbol).map(Some),
        Step::Create => tool.create().map(|()| None),
        Step::Umount => tool.umount().map(|()| None),
        Step::Cleanup => tool.cleanup().map(|()| None),
        Step::Delete => tool.delete().map(|()| None),
        Step::WriteFstab => tool.write_fstab().map(|()| None),
    }
}

struct Tool {
    parameters: Parameters,
}

impl Tool {
    fn states(&self) -> PathBuf {
        self.parameters.build_dir.join("states/block-device")
    }

    fn layout(&self) -> Result<layout::Plan, Failure> {
        let file = &self.parameters.config;
        let text = std::fs::read_to_string(file).map_err(|error| {
            Failure::new(format!(
                "cannot read the configuration in `{}`: {error}",
                file.display()
            ))
            .hint("the key `config` of the parameters names the file")
        })?;
        let config = Config::parse(&text, &self.parameters.root)
            .map_err(|error| Failure::from_error(&error).hint("see docs/block-devices.md"))?;
        let block_size = std::env::var("DIB_BLOCK_SIZE").ok();
        let block_size = block_size
            .filter(|text| !text.is_empty())
            .map(|text| {
                text.trim().parse().map_err(|_| {
                    Failure::new(format!(
                        "`DIB_BLOCK_SIZE` is `{text}`, which is not a number of bytes"
                    ))
                    .hint("sectors have 512 or 4096 bytes")
                })
            })
            .transpose()?;
        let arch = std::env::var("ARCH").unwrap_or_else(|_| default_arch());
        let parameters = layout::PlanParameters {
            seed: Uuid::new_v5(&NAMESPACE, &Sha256::digest(text.as_bytes())),
            arch,
            block_size,
            creation_time: epoch().and_then(|time| time.try_into().ok()).unwrap_or(0),
        };
        layout::Plan::new(config, &parameters).map_err(|error| Failure::from_error(&error))
    }

    /// The layout, if an image can be made with it.
    fn checked_layout(&self) -> Result<layout::Plan, Failure> {
        let plan = self.layout()?;
        output::check_filesystems(&plan)?;
        plan.check_sizes(self.parameters.image_size, &output::empty_planner())
            .map_err(|error| too_small(&plan, &error))?;
        Ok(plan)
    }

    fn init(&self) -> Result<(), Failure> {
        let plan = self.checked_layout()?;
        let states = self.states();
        make(&states)?;
        let facts = serde_json::to_vec_pretty(&plan.facts())
            .map_err(|error| Failure::new(format!("cannot write the configuration: {error}")))?;
        write(&states.join("config.json"), &facts)
    }

    fn state(&self) -> Result<State, Failure> {
        let file = self.states().join("state.json");
        let bytes = std::fs::read(&file).map_err(|error| {
            Failure::new(format!(
                "there is no image yet: cannot read `{}`: {error}",
                file.display()
            ))
            .hint("`dib-block-device create` makes it")
        })?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Failure::new(format!("`{}` is damaged: {error}", file.display()))
                .hint("begin again with `dib-block-device init`")
        })
    }

    fn value(&self, symbol: &str) -> Result<String, Failure> {
        if SYMBOLS.contains(&symbol) {
            let plan = self.layout()?;
            return plan
                .config()
                .getval(symbol)
                .map_err(|error| Failure::from_error(&error));
        }
        if !STATE_SYMBOLS.contains(&symbol) {
            let known = SYMBOLS.into_iter().chain(STATE_SYMBOLS);
            return Err(
                Failure::new(format!("unknown symbol `{symbol}`")).hint(format!(
                    "known are {}",
                    known.collect::<Vec<_>>().join(", ")
                )),
            );
        }
        let state = self.state()?;
        Ok(match symbol {
            "image-path" => state.image_path.display().to_string(),
            "image-block-device" => state.image_block_device,
            _ => state
                .image_block_devices
                .iter()
                .map(|(name, device)| format!(" [{name}]={device} "))
                .collect(),
        })
    }

    fn create(&self) -> Result<(), Failure> {
        let plan = self.checked_layout()?;
        // Every disk has its own length or the image's.
        let open = plan.disks().iter().any(|disk| disk.size.is_none());
        let size = self
            .parameters
            .image_size
            .or(plan.fixed_size().filter(|_| !open))
            .ok_or_else(|| {
                Failure::new("the size of the image is not known").hint(
                    "write `image-size: 1048576KiB` into the parameters, or `size` at `local_loop`",
                )
            })?;
        let mut paths = Vec::with_capacity(plan.disks().len());
        for disk in plan.disks() {
            let bytes = plan
                .disk_size(disk, size)
                .map_err(|error| Failure::from_error(&error))?;
            let directory = disk.directory.as_ref();
            let directory = directory.unwrap_or(&self.parameters.image_dir);
            let path = directory.join(format!("{}.raw", disk.name));
            let file = fs_err::File::create(&path).map_err(Failure::io("making the image"))?;
            file.set_len(bytes)
                .map_err(Failure::io("making the image"))?;
            paths.push(path);
        }
        let mut paths = paths.into_iter();
        for point in plan.mount_points() {
            make(&self.mounted(point))?;
        }
        let state = State {
            image_path: paths.next().unwrap_or_default(),
            more_paths: paths.collect(),
            image_block_device: plan.image_block_device(),
            image_block_devices: plan.image_block_devices(),
            bytes: size,
        };
        make(&self.states())?;
        let text = serde_json::to_vec_pretty(&state)
            .map_err(|error| Failure::new(format!("cannot write the state: {error}")))?;
        write(&self.states().join("state.json"), &text)
    }

    /// A mount point of the image below the base.
    fn mounted(&self, point: &str) -> PathBuf {
        self.parameters
            .mount_base
            .join(point.trim_start_matches('/'))
    }

    fn umount(&self) -> Result<(), Failure> {
        let state = self.state()?;
        let plan = self.layout()?;
        let options = ScanOptions {
            prune: Vec::new(),
            clamp_mtime: epoch().map(|seconds| Timestamp {
                seconds,
                nanoseconds: 0,
            }),
            owners: None,
            threads: 0,
        };
        let tree = if self.parameters.mount_base.is_dir() {
            scan(&self.parameters.mount_base, &options)
        } else {
            crate::tree::TreeBuilder::new().build()
        };
        let tree: Arc<Tree> = Arc::new(tree.map_err(|error| Failure::from_error(&error))?);
        let planner = NativePlanner {
            timestamp: fit::made_at(&tree, epoch()),
            scratch: std::env::temp_dir(),
            lost_found: BTreeMap::new(),
        };
        let length = Length {
            bytes: state.bytes,
            grow: false,
        };
        let disks = plan
            .assemble_tree(length, Arc::clone(&tree), None, &planner)
            .map_err(|error| too_small(&plan, &error))?;
        let paths = [state.image_path].into_iter().chain(state.more_paths);
        let specs: Vec<sink::Spec> = paths
            .enumerate()
            .map(|(disk, path)| sink::Spec {
                format: sink::Format::Raw,
                disk,
                path,
                checksums: sink::Checksums::default(),
                existing: sink::Existing::Replace,
                durable: false,
                seed: NAMESPACE,
            })
            .collect();
        let disks: Vec<&dyn sink::ReadAt> = disks.iter().map(|disk| disk as _).collect();
        sink::write_all(&disks, &tree, &specs, 0, &|_, _, _| {})
            .map_err(|error| Failure::from_error(&error).hint_if(error.hint()))?;
        Ok(())
    }

    fn cleanup(&self) -> Result<(), Failure> {
        remove(&self.states(), |path| fs_err::remove_dir_all(path))
    }

    fn delete(&self) -> Result<(), Failure> {
        if let Ok(state) = self.state() {
            for path in [&state.image_path].into_iter().chain(&state.more_paths) {
                remove(path, |path| fs_err::remove_file(path))?;
            }
        }
        self.cleanup()
    }

    /// Scripts look in either place: with the state, and in a tree that is being built.
    fn write_fstab(&self) -> Result<(), Failure> {
        let plan = self.layout()?;
        let built = self.parameters.build_dir.join("built/etc");
        for directory in [self.states(), built] {
            make(&directory)?;
            write(&directory.join("fstab"), plan.fstab().as_bytes())?;
        }
        Ok(())
    }
}

/// Why no image can be made with a layout, whatever is put into it; for people.
pub fn problem(text: &str, arch: &str) -> Option<String> {
    let checked = || {
        let parameters = layout::PlanParameters {
            seed: NAMESPACE,
            arch: arch.to_owned(),
            block_size: None,
            creation_time: 0,
        };
        let config = Config::parse(text, &RootParameters::default())?;
        let plan = layout::Plan::new(config, &parameters)?;
        plan.check_sizes(None, &output::empty_planner())
    };
    let error: layout::LayoutError = checked().err()?;
    Some(Failure::from_error(&error).message)
}

/// An error of a layout, with what to make larger if that is what helps.
fn too_small(plan: &layout::Plan, error: &layout::LayoutError) -> Failure {
    let found = plan.too_small(error);
    let image = "`image-size` in the parameters makes the image larger";
    Failure::from_error(error).hint_if(found.map(|found| found.remedy(image)))
}

/// `SOURCE_DATE_EPOCH`, where it is a number.
fn epoch() -> Option<i64> {
    std::env::var_os(OsStr::new("SOURCE_DATE_EPOCH"))?
        .to_str()?
        .parse()
        .ok()
}

fn make(path: &Path) -> Result<(), Failure> {
    fs_err::create_dir_all(path).map_err(Failure::io("making a directory"))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    fs_err::write(path, bytes).map_err(Failure::io("writing the state"))
}

fn remove(path: &Path, how: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<(), Failure> {
    match how(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Failure::io("cleaning up")),
    }
}
