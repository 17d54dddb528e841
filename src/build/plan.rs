//! Everything that a build will do, before anything is done.
//!
//! A plan takes all decisions that do not depend on what hooks make: elements
//! and their hooks, variables, the disk's layout with labels and UUIDs, outputs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::disk::config::{Config, RootParameters};
use crate::disk::layout;
use crate::element::order::NamePattern;
use crate::element::{self, ElementSet, Library};
use crate::sink;

use super::arch::default_arch;
use super::environment::Variables;
use super::exports;
use super::failure::Failure;
use super::phases;
use super::programs;
use super::request::Request;

/// Namespace of all version 5 UUIDs that kiln derives; random once, fixed since.
const SEED_NAMESPACE: Uuid = Uuid::from_u128(0x6f1d_7c52_90aa_4e0b_b1f4_2c85_d3a6_917e);

/// Journal of an ext4 root filesystem in MiB, unless asked otherwise.
const DEFAULT_JOURNAL: u64 = 64;

/// A build, decided.
#[derive(Debug)]
pub struct Plan {
    /// What the user asked for.
    pub request: Request,
    /// Debian-style architecture.
    pub arch: String,
    /// The elements and why each is there.
    pub elements: ElementSet,
    /// Their merged files.
    pub hooks: element::hooks::HookTree,
    /// Which file names are hooks.
    pub hook_names: NamePattern,
    /// The disk.
    pub layout: layout::Plan,
    /// What is written, in order.
    pub outputs: Vec<sink::Format>,
    /// What every id in the image and in the files that hold it derives from.
    pub seed: Uuid,
    /// Variables of all hooks, without the paths that only a run has.
    pub variables: Variables,
    /// Where downloads and roots are kept.
    pub cache: PathBuf,
    /// Threads that write at the same time; 0 stands for one for each processor.
    pub jobs: usize,
    /// Latest time stamp in the image, in seconds since the epoch (`SOURCE_DATE_EPOCH`).
    pub epoch: Option<i64>,
    /// `REPOSITORY:TAG` of images for containers.
    pub reference: String,
    /// The manifest of an App Container image, where the user has one (`ACI_MANIFEST`).
    pub aci_manifest: Option<Arc<[u8]>>,
    /// What is odd but allowed: one sentence each.
    pub warnings: Vec<String>,
    /// Variables of the caller that hooks do not get.
    pub withheld: Vec<String>,
}

/// An error of the element module with its hint.
pub(super) fn element_failure(error: &element::Error) -> Failure {
    Failure::from_error(error).hint_if(error.hint())
}

impl Plan {
    /// Decides everything. Reads elements and configuration, changes nothing.
    pub fn new(request: Request) -> Result<Plan, Failure> {
        if request.elements.is_empty() {
            return Err(
                Failure::new("at least one element that makes a root must be named")
                    .hint("for example: `kiln build vm debian-minimal -o debian`")
                    .hint("`kiln elements list` shows what there is"),
            );
        }
        let arch = request.arch.clone().unwrap_or_else(default_arch);
        let library = Library::new(&request.elements_path).map_err(|e| element_failure(&e))?;
        let options = element::Options {
            skip_base: request.skip_base,
            arch: arch.clone(),
            ramdisk: request.ramdisk.clone(),
        };
        let elements = element::resolve(&library, &request.elements, &options)
            .map_err(|e| element_failure(&e))?;
        let hooks = element::hooks::merge(&elements).map_err(|e| element_failure(&e))?;
        let pattern = request.text("RUN_PARTS_REGEX")?;
        let hook_names = NamePattern::new(pattern.as_deref()).map_err(|e| element_failure(&e))?;
        let epoch = epoch(&request)?;
        let (mut outputs, unused) = outputs(&request)?;
        // A ramdisk's own files are made by its elements, as are those of elements
        // that say so by their name.
        let no_disk = |name: &&str| name.contains("no-final-image");
        if request.ramdisk.is_some() || elements.names().iter().any(no_disk) {
            outputs.retain(|format| !format.is_disk());
        }
        let mut warnings = odd_choices(&request, &library, &elements, &hooks, &hook_names);
        warnings.extend(unused);
        let config_text = block_device_config(&request, &elements, &arch)?;
        let parameters = root_parameters(&request)?;
        let config = Config::parse(&config_text, &parameters).map_err(|error| {
            Failure::from_error(&error).hint("the configuration comes from `DIB_BLOCK_DEVICE_CONFIG` or from an element's `block-device-*.yaml`")
        })?;
        warnings.extend(config.warnings.iter().cloned());
        let seed = seed(&request, &arch, &elements, &config_text)?;
        let parameters = layout::PlanParameters {
            seed,
            arch: arch.clone(),
            block_size: block_size(&request)?,
            creation_time: epoch
                .and_then(|seconds| u64::try_from(seconds).ok())
                .unwrap_or(0),
        };
        let layout =
            layout::Plan::new(config, &parameters).map_err(|error| Failure::from_error(&error))?;
        warnings.extend(layout.warnings().iter().cloned());
        if outputs.iter().any(sink::Format::is_disk) {
            super::output::check_filesystems(&layout)?;
            super::output::check_sizes(&layout, &request)?;
            if elements.names().contains(&"bootloader") {
                let told = layout.check_bootable();
                warnings.extend(told.map_err(|error| Failure::from_error(&error))?);
            }
        }
        let jobs = jobs(&request)?;
        let reference = reference(&request)?;
        let aci_manifest = if outputs.contains(&sink::Format::Aci) {
            aci_manifest(&request)?
        } else {
            None
        };
        let cache = request
            .image_cache
            .clone()
            .map_or_else(|| exports::default_directory(&request, "image-create"), Ok)?;
        let mut variables = exports::of(&request, &arch, &layout, &cache)?;
        let withheld = request.confinement.withhold(&mut variables);
        Ok(Plan {
            arch,
            elements,
            hooks,
            hook_names,
            layout,
            outputs,
            seed,
            variables,
            cache,
            jobs,
            epoch,
            reference,
            aci_manifest,
            warnings,
            withheld,
            request,
        })
    }

    /// Variables that need to know where bundled elements were written.
    pub fn element_variables(&self, bundled: &Path) -> Variables {
        let paths = element::info::paths(&self.elements, |element| bundled.join(&element.name));
        let mut search = OsString::new();
        for directory in &self.request.elements_path {
            search.push(directory);
            search.push(":");
        }
        search.push(bundled);
        let (function, body) = element::info::image_element_function(&paths);
        [
            (
                "IMAGE_ELEMENT".to_owned(),
                element::info::image_element(&self.elements).into(),
            ),
            (
                "IMAGE_ELEMENT_YAML".to_owned(),
                element::info::image_element_yaml(&paths).into(),
            ),
            ("ELEMENTS_PATH".to_owned(), search),
            (function, body.into()),
        ]
        .into_iter()
        .map(|(name, value): (String, OsString)| (OsString::from(name), value))
        .collect()
    }

    /// `IMAGE_BLOCK_DEVICES`: the body of an associative array in bash.
    pub fn block_devices(&self) -> String {
        self.layout
            .image_block_devices()
            .iter()
            .map(|(name, device)| format!(" [{name}]={device} "))
            .collect()
    }

    /// Whether the caller gave the layout of disks, and no element did.
    pub(super) fn layout_is_given(&self) -> bool {
        self.request.variable("DIB_BLOCK_DEVICE_CONFIG").is_some()
    }

    /// The files that are written, named as the user named the output: relative
    /// paths start in the directory of the build.
    pub fn output_files(&self) -> Vec<sink::OutputFile> {
        sink::files(
            &self.request.image_name,
            &self.outputs,
            sink::Format::suffix,
            self.layout.disks(),
            self.seed,
        )
    }
}

/// The name of images for containers: `DOCKER_TARGET`, else that of the output.
fn reference(request: &Request) -> Result<String, Failure> {
    if let Some(given) = request.text("DOCKER_TARGET")? {
        if sink::container::is_reference(&given) {
            return Ok(given);
        }
        return Err(
            Failure::new(format!("`{given}` is not a name for a container's image")).hint(
                "`--docker-target` takes a name in lower case and a tag, as in `me/debian:12`",
            ),
        );
    }
    let base = request.image_name.file_name().unwrap_or_default();
    let name: String = base
        .to_string_lossy()
        .to_lowercase()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect();
    let name = name.trim_matches(['-', '.']);
    let name = if name.is_empty() { "image" } else { name };
    Ok(format!("{name}:latest"))
}

/// The file that `ACI_MANIFEST` names.
fn aci_manifest(request: &Request) -> Result<Option<Arc<[u8]>>, Failure> {
    let Some(path) = request.variable("ACI_MANIFEST") else {
        return Ok(None);
    };
    let path = request.current_dir.join(path);
    let bytes = crate::small::read(&path)
        .map_err(Failure::io(format!(
            "reading the manifest that `ACI_MANIFEST` names, `{}`",
            path.display()
        )))
        .map_err(|failure| failure.hint("unset `ACI_MANIFEST` to have kiln write one"))?;
    serde_json::from_slice::<serde_json::Value>(&bytes).map_err(|error| {
        Failure::new(format!(
            "the manifest that `ACI_MANIFEST` names is not JSON: {error}"
        ))
        .hint("unset `ACI_MANIFEST` to have kiln write one")
    })?;
    Ok(Some(bytes.into()))
}

/// `KILN_JOBS`: threads that work at the same time; 0 stands for one for each processor.
fn jobs(request: &Request) -> Result<usize, Failure> {
    let Some(text) = request.text("KILN_JOBS")? else {
        return Ok(0);
    };
    text.trim()
        .parse()
        .ok()
        .filter(|&jobs| jobs > 0)
        .ok_or_else(|| {
            Failure::new(format!(
                "`KILN_JOBS` is `{text}`, which is not a number of threads"
            ))
            .hint("leave it unset for one thread for each processor")
        })
}

/// The formats of `-t`, each once, and what is to be said of options that have no effect.
fn outputs(request: &Request) -> Result<(Vec<sink::Format>, Vec<String>), Failure> {
    let names = &request.image_types;
    let (options, unused) = sink::divide_unused(names, &request.qemu_img_options);
    let formats = sink::formats(sink::Request {
        names,
        compress: request.compress,
        options: &options,
    })
    .map_err(|error| Failure::from_error(&error).hint_if(error.hint()))?;
    let names = names.join(", ");
    let told = unused
        .iter()
        .map(|key| format!("the format option `{key}` has no effect, since {names} has none such"));
    Ok((formats, told.collect()))
}

/// The block-device configuration: the user's, else the first element's.
fn block_device_config(
    request: &Request,
    elements: &ElementSet,
    arch: &str,
) -> Result<String, Failure> {
    if let Some(given) = request.text("DIB_BLOCK_DEVICE_CONFIG")? {
        let Some(path) = given.strip_prefix("file://") else {
            return Ok(given);
        };
        let path = request.current_dir.join(path);
        return crate::small::read_text(&path)
            .map_err(Failure::io(format!(
                "reading the file that `DIB_BLOCK_DEVICE_CONFIG` names, `{}`",
                path.display()
            )))
            .map_err(|failure| {
                failure.hint(
                    "`file://` is followed by a path; relative ones start at the current directory",
                )
            });
    }
    let arch = if arch == "ppc64le" { "ppc64el" } else { arch };
    let names = [
        format!("block-device-{arch}.yaml"),
        "block-device-default.yaml".to_owned(),
    ];
    for element in elements.elements() {
        for name in &names {
            if let Some(bytes) = element.read(name).map_err(|e| element_failure(&e))? {
                return String::from_utf8(bytes).map_err(|_| {
                    Failure::new(format!(
                        "`{name}` of element `{}` is not UTF-8",
                        element.name
                    ))
                });
            }
        }
    }
    Ok(crate::disk::config::FALLBACK.to_owned())
}

/// `SOURCE_DATE_EPOCH`, in seconds.
fn epoch(request: &Request) -> Result<Option<i64>, Failure> {
    request
        .text("SOURCE_DATE_EPOCH")?
        .map(|text| {
            text.parse::<i64>().map_err(|_| {
                Failure::new(format!(
                    "`SOURCE_DATE_EPOCH` is `{text}`, which is not a number of seconds"
                ))
            })
        })
        .transpose()
}

/// What may not be as the caller thinks: hooks and elements that others take the place
/// of, hooks that do not run, and variables that look misspelt. One sentence each.
fn odd_choices(
    request: &Request,
    library: &Library,
    elements: &ElementSet,
    hooks: &element::hooks::HookTree,
    hook_names: &NamePattern,
) -> Vec<String> {
    let notes = hooks.notes().iter().map(|note| {
        format!(
            "`{}` of element `{}` replaces that of `{}`",
            note.path.display(),
            note.winner,
            note.loser
        )
    });
    let replaced = library
        .replaced()
        .iter()
        .filter(|element| elements.names().contains(&element.name.as_str()))
        .filter_map(|element| {
            let reason = element::replaced::reason(&element.name)?;
            Some(format!(
                "kiln's own element `{}` takes the place of `{}`: {reason}",
                element.name,
                element.location()
            ))
        });
    let idle = phases::ALL
        .iter()
        .flat_map(|phase| hooks.idle(&phase.directory(), hook_names));
    let idle = idle.map(|hook| {
        format!(
            "`{}` of element `{}` does not run, because it is not executable (`chmod +x`)",
            hook.path.display(),
            hook.element
        )
    });
    let names = request.environment.keys().filter_map(|name| name.to_str());
    let misspelt = super::variables::misspelt(names, hooks, library);
    let unused = programs::unused(hooks, elements);
    notes
        .chain(replaced)
        .chain(idle)
        .chain(unused)
        .chain(misspelt)
        .collect()
}

/// `DIB_BLOCK_SIZE`: the sector size that wins over the configuration's.
fn block_size(request: &Request) -> Result<Option<u32>, Failure> {
    request
        .text("DIB_BLOCK_SIZE")?
        .map(|text| {
            text.trim().parse().map_err(|_| {
                Failure::new(format!(
                    "`DIB_BLOCK_SIZE` is `{text}`, which is not a number of bytes"
                ))
                .hint("sectors have 512 or 4096 bytes")
            })
        })
        .transpose()
}

/// What DIB passes to mkfs of the root filesystem.
fn root_parameters(request: &Request) -> Result<RootParameters, Failure> {
    let fstype = request
        .text("FS_TYPE")?
        .unwrap_or_else(|| "ext4".to_owned());
    let mut options = Vec::new();
    if let Some(blocks) = request.max_online_resize {
        options.push(format!("-E resize={blocks}"));
    }
    let defaults = match fstype.as_str() {
        "ext4" => Some(format!("-i 4096 -J size={}", journal_mib(request)?)),
        _ => None,
    };
    options.extend(Some(request.mkfs_options.clone()).filter(|text| !text.is_empty()));
    let options = options.join(" ");
    Ok(RootParameters {
        fstype,
        defaults,
        opts: Some(options).filter(|text| !text.is_empty()),
        label: request.root_label.clone(),
    })
}

/// Journal size of the root filesystem in MiB.
pub fn journal_mib(request: &Request) -> Result<u64, Failure> {
    request
        .journal_size
        .as_deref()
        .map_or(Ok(DEFAULT_JOURNAL), |text| {
            text.trim().parse().map_err(|_| {
                Failure::new(format!(
                    "the journal size `{text}` is not a whole number of MiB"
                ))
                .hint("for example: `DIB_JOURNAL_SIZE=64`")
            })
        })
}

/// The seed of every id in the image: what is built, not where or when.
fn seed(
    request: &Request,
    arch: &str,
    elements: &ElementSet,
    config: &str,
) -> Result<Uuid, Failure> {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(env!("CARGO_PKG_VERSION").as_bytes());
    add(arch.as_bytes());
    add(config.as_bytes());
    for name in elements.names() {
        add(name.as_bytes());
    }
    for package in &request.packages {
        add(package.as_bytes());
    }
    let epoch = request.text("SOURCE_DATE_EPOCH")?.unwrap_or_default();
    add(epoch.as_bytes());
    let build_dependent = [
        "DIB_IMAGE_CACHE",
        "DIB_LOCKFILES",
        "DIB_ARGS",
        "DIB_ENV",
        "DIB_NO_TMPFS",
        "DIB_OFFLINE",
    ];
    for (name, value) in &request.environment {
        let counts = name.as_encoded_bytes().starts_with(b"DIB_");
        if counts && !build_dependent.iter().any(|&skip| name == skip) {
            add(name.as_encoded_bytes());
            add(value.as_encoded_bytes());
        }
    }
    Ok(Uuid::new_v5(&SEED_NAMESPACE, &hash.finalize()))
}
