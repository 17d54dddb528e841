//! Images for containers: Docker's and OCI's archives, and App Container images.
//!
//! `docker` and `oci` are the same archive, an OCI image layout with one layer,
//! which `docker load`, `podman load` and `skopeo` read; `docker` also has the
//! `manifest.json` that older Dockers look for. The layer is written first, at a
//! place that is known, and its header (whose name is the layer's digest) when
//! its digest is: so the tree is read once and nothing is stored on the side.
//!
//! Specifications: OCI image format 1.1, “Docker Image Specification v1.2”, App
//! Container 0.8.11.

use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

use super::checksum::{Checksums, Digests};
use super::error::Error;
use super::output::Output;
use super::tar;
use crate::date::civil_from_days;
use crate::tree::{Timestamp, Tree};

/// Length of a header, and unit of everything else in an archive.
const BLOCK: u64 = 512;
/// Longest member without a record for its length: eleven octal digits.
const PLAIN_LIMIT: u64 = 0o777_7777_7777;

/// What an image says about itself besides its files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    /// `REPOSITORY:TAG`, where it has a name.
    pub reference: Option<String>,
    /// Debian's name of the architecture.
    pub architecture: String,
    /// When it counts as made.
    pub created: Timestamp,
    /// The manifest of an App Container image, where the user has one.
    pub aci_manifest: Option<Arc<[u8]>>,
}

/// Writes the archive of `docker` or `oci`. Returns warnings.
pub(crate) fn write(
    tree: &Arc<Tree>,
    output: &Output,
    about: &About,
    docker: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<String>, Error> {
    let mut archive = Archive { output, offset: 0 };
    for name in ["blobs/", "blobs/sha256/"] {
        archive.append(&tar::directory_header(name.as_bytes()))?;
    }
    // The header's length must be known before the layer's is.
    let large = tar::estimate(tree) > PLAIN_LIMIT;
    let header = archive.offset;
    let start = header + if large { 3 * BLOCK } else { BLOCK };
    let sha256 = Checksums {
        md5: false,
        sha256: true,
    };
    let (report, length) =
        tar::write_container(tree, output, start, b".", None, sha256, &mut *progress)?;
    let layer = report.digests.sha256.unwrap_or_default();
    let name = format!("blobs/sha256/{layer}");
    // A record for the length is there either way if it might have been needed.
    let stated = tar::file_header_sized(name.as_bytes(), length, large);
    output.write_at(&stated, header)?;
    archive.offset = start + length;

    let config = text(&config(about, &layer));
    let config_digest = archive.blob(&config)?;
    let manifest = text(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config_digest, config.len() as u64),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer, length)],
    }));
    let manifest_digest = archive.blob(&manifest)?;
    let mut entry = descriptor(
        "application/vnd.oci.image.manifest.v1+json",
        &manifest_digest,
        manifest.len() as u64,
    );
    entry["platform"] = platform(&about.architecture);
    if let Some(reference) = &about.reference {
        let tag = reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        entry["annotations"] = json!({
            "io.containerd.image.name": canonical(reference),
            "org.opencontainers.image.ref.name": tag,
        });
    }
    let index = text(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    }));
    archive.file("index.json", &index)?;
    if docker {
        let tags: Vec<&String> = about.reference.iter().collect();
        let list = text(&json!([{
            "Config": format!("blobs/sha256/{config_digest}"),
            "RepoTags": tags,
            "Layers": [name],
        }]));
        archive.file("manifest.json", &list)?;
    }
    archive.file("oci-layout", &text(&json!({"imageLayoutVersion": "1.0.0"})))?;
    archive.end()?;
    Ok(report.warnings)
}

/// Writes an App Container image.
pub(crate) fn write_aci(
    tree: &Arc<Tree>,
    output: &Output,
    about: &About,
    checksums: Checksums,
    progress: &mut dyn FnMut(u64),
) -> Result<(Digests, Vec<String>), Error> {
    let manifest = match &about.aci_manifest {
        Some(given) => given.to_vec(),
        None => text(&aci_manifest(about)),
    };
    let (report, _) = tar::write_container(
        tree,
        output,
        0,
        b"rootfs",
        Some((b"manifest", &manifest)),
        checksums,
        progress,
    )?;
    Ok((report.digests, report.warnings))
}

/// An archive whose members are small, apart from the layer.
struct Archive<'a> {
    output: &'a Output,
    offset: u64,
}

impl Archive<'_> {
    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.output.write_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.append(&tar::file_header(name.as_bytes(), bytes.len() as u64))?;
        self.append(bytes)?;
        self.offset = self.offset.next_multiple_of(BLOCK);
        Ok(())
    }

    /// Writes bytes under their digest, which is returned.
    fn blob(&mut self, bytes: &[u8]) -> Result<String, Error> {
        let digest: String = Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.file(&format!("blobs/sha256/{digest}"), bytes)?;
        Ok(digest)
    }

    fn end(&mut self) -> Result<(), Error> {
        // Two empty blocks, padded as tar does; they are a hole.
        let end = (self.offset + 2 * BLOCK).next_multiple_of(20 * BLOCK);
        self.output.set_length(end)
    }
}

fn text(value: &serde_json::Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn descriptor(kind: &str, digest: &str, size: u64) -> serde_json::Value {
    json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": size})
}

fn config(about: &About, layer: &str) -> serde_json::Value {
    let created = rfc3339(about.created);
    let mut config = platform(&about.architecture);
    config["created"] = json!(created);
    config["config"] = json!({
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "Cmd": ["/bin/sh"],
    });
    config["rootfs"] = json!({"type": "layers", "diff_ids": [format!("sha256:{layer}")]});
    config["history"] = json!([{"created": created, "created_by": "kiln"}]);
    config
}

/// An architecture as Go, and therefore OCI, names it.
fn platform(architecture: &str) -> serde_json::Value {
    let (name, variant) = match architecture {
        "i386" | "i686" | "x86" => ("386", None),
        "x86_64" => ("amd64", None),
        "aarch64" | "arm64" => ("arm64", Some("v8")),
        "armhf" | "armv7l" | "arm" => ("arm", Some("v7")),
        "armel" => ("arm", Some("v5")),
        "ppc64el" | "ppc64le" => ("ppc64le", None),
        "mips64el" => ("mips64le", None),
        "mipsel" => ("mipsle", None),
        "loong64" | "loongarch64" => ("loong64", None),
        other => (other, None),
    };
    let mut value = json!({"architecture": name, "os": "linux"});
    if let Some(variant) = variant {
        value["variant"] = json!(variant);
    }
    value
}

fn aci_manifest(about: &About) -> serde_json::Value {
    let reference = about.reference.as_deref().unwrap_or("image:latest");
    let (name, version) = reference.rsplit_once(':').unwrap_or((reference, "latest"));
    let platform = platform(&about.architecture);
    json!({
        "acKind": "ImageManifest",
        "acVersion": "0.8.11",
        "name": name.replace('_', "-"),
        "labels": [
            {"name": "os", "value": "linux"},
            {"name": "arch", "value": platform["architecture"]},
            {"name": "version", "value": version},
        ],
        "app": {"exec": ["/bin/sh"], "user": "0", "group": "0"},
        "annotations": [{"name": "created", "value": rfc3339(about.created)}],
    })
}

/// A reference with its registry, as containerd wants it.
fn canonical(reference: &str) -> String {
    let first = reference.split('/').next().unwrap_or_default();
    if !reference.contains('/') {
        format!("docker.io/library/{reference}")
    } else if first.contains(['.', ':']) || first == "localhost" {
        reference.to_owned()
    } else {
        format!("docker.io/{reference}")
    }
}

/// `2026-03-01T12:00:00Z`; fractions of a second are cut off.
fn rfc3339(time: Timestamp) -> String {
    let days = time.seconds.div_euclid(86_400);
    let rest = time.seconds.rem_euclid(86_400);
    let (year, month, day) = civil_from_days(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// Whether a text is `REPOSITORY:TAG` or `REPOSITORY` as Docker has them.
pub fn is_reference(text: &str) -> bool {
    let (name, tag) = match text.rsplit_once(':') {
        // A port of the registry has slashes after it.
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    };
    let part = |part: &str| {
        let ends = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        ends(part.as_bytes().first())
            && ends(part.as_bytes().last())
            && part.bytes().all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte)
            })
    };
    let mut parts = name.split('/');
    let first = parts.next().unwrap_or_default();
    // The registry may have upper case and a port.
    let registry = name.contains('/')
        && (first.contains(['.', ':']) || first == "localhost")
        && first
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".:-".contains(&byte));
    name.len() <= 255
        && (registry || part(first))
        && parts.all(part)
        && tag.is_none_or(|tag| {
            !tag.is_empty()
                && tag.len() <= 128
                && !tag.starts_with(['.', '-'])
                && tag
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_those_that_docker_takes() {
        for (text, expected) in [
            ("debian", true),
            ("debian:12", true),
            ("me/debian:v1.0_x-y", true),
            ("registry.example:5000/me/debian:12", true),
            ("localhost/x", true),
            ("", false),
            ("Debian:12", false),
            ("debian:", false),
            ("debian:-x", false),
            ("a//b", false),
            ("-a", false),
            ("a b", false),
        ] {
            assert_eq!(is_reference(text), expected, "{text}");
        }
    }

    #[test]
    fn times_and_names_have_the_forms_of_their_readers() {
        let time = |seconds| Timestamp {
            seconds,
            nanoseconds: 5,
        };
        assert_eq!(rfc3339(time(0)), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(time(1_709_210_096)), "2024-02-29T12:34:56Z");
        assert_eq!(rfc3339(time(-1)), "1969-12-31T23:59:59Z");
        for (text, expected) in [
            ("a:1", "docker.io/library/a:1"),
            ("me/a:1", "docker.io/me/a:1"),
            ("host:5/a:1", "host:5/a:1"),
            ("localhost/a:1", "localhost/a:1"),
        ] {
            assert_eq!(canonical(text), expected);
        }
    }
}
