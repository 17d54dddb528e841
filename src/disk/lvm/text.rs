//! The text by which a volume group describes itself.

use std::fmt::Write as _;

use uuid::Uuid;

use super::format::SECTOR;
use super::options::{Allocation, LvOptions};
use super::{Id, Place, Pool, Segment, Vg, length_of};

/// A logical volume of the text; some are not those of the configuration.
struct Entry<'a> {
    name: String,
    uuid: Uuid,
    /// Its properties; none for those that programs do not list.
    options: Option<&'a LvOptions>,
    content: Content<'a>,
}

enum Content<'a> {
    Linear(&'a [Segment]),
    Striped(&'a [Segment], u64),
    Pool(&'a Pool),
    Thin {
        pool: &'a str,
        bytes: u64,
        /// From 1; transactions count from 0.
        device: usize,
    },
}

/// The identity with the dashes that texts have.
pub(super) fn dashed(id: impl Into<Id>) -> String {
    let Id(id) = id.into();
    let mut out = String::with_capacity(38);
    for (at, byte) in id.into_iter().enumerate() {
        if matches!(at, 6 | 10 | 14 | 18 | 22 | 26) {
            out.push('-');
        }
        out.push(char::from(byte));
    }
    out
}

/// The volumes of a group, with those that pools consist of.
fn entries<'a>(
    vg: &'a Vg,
    places: &'a [Place],
    pools: &'a [Pool],
    spare: &'a [Segment],
) -> Vec<Entry<'a>> {
    let mut entries = Vec::with_capacity(vg.lvs.len());
    for (lv, place) in vg.lvs.iter().zip(places) {
        let content = match place {
            Place::Linear(segments) => Content::Linear(segments),
            Place::Striped { parts, size } => Content::Striped(parts, *size),
            Place::Pool(pool) => Content::Pool(&pools[*pool]),
            Place::Thin {
                pool,
                volume,
                bytes,
            } => Content::Thin {
                pool: &pools[*pool].name,
                bytes: *bytes,
                device: volume + 1,
            },
        };
        entries.push(Entry {
            name: lv.name.clone(),
            uuid: lv.uuid,
            options: Some(&lv.options),
            content,
        });
    }
    let hidden = |name: String, segments| Entry {
        uuid: Uuid::new_v5(&vg.uuid, name.as_bytes()),
        name,
        options: None,
        content: Content::Linear(segments),
    };
    if !spare.is_empty() {
        entries.push(hidden("lvol0_pmspare".to_owned(), spare));
    }
    for pool in pools {
        entries.push(hidden(format!("{}_tmeta", pool.name), &pool.metadata));
        entries.push(hidden(format!("{}_tdata", pool.name), &pool.data));
    }
    entries
}

/// The description of a group, with its final NUL.
pub(super) fn metadata(vg: &Vg, places: &[Place], pools: &[Pool], spare: &[Segment]) -> Vec<u8> {
    let time = vg.creation_time;
    let mut out = Lines {
        text: String::new(),
        vg,
    };
    let extent_size = vg.options.extent_size;
    out.line(format_args!("{} {{", vg.name));
    out.line(format_args!("id = \"{}\"", dashed(vg.uuid)));
    out.line(format_args!("seqno = 1"));
    out.line(format_args!("format = \"lvm2\""));
    out.line(format_args!(
        "status = [\"RESIZEABLE\", \"READ\", \"WRITE\"]"
    ));
    out.line(format_args!("flags = []"));
    out.tags(&vg.options.tags);
    out.line(format_args!("extent_size = {}", extent_size / SECTOR));
    out.line(format_args!("max_lv = {}", vg.options.max_lv));
    out.line(format_args!("max_pv = {}", vg.options.max_pv));
    out.allocation(vg.options.allocation);
    out.line(format_args!("metadata_copies = 0"));
    out.line(format_args!("physical_volumes {{"));
    for (at, pv) in vg.pvs.iter().enumerate() {
        out.line(format_args!("pv{at} {{"));
        out.line(format_args!("id = \"{}\"", dashed(pv.id)));
        out.line(format_args!("device = \"{}\"", quoted(&pv.device)));
        out.line(format_args!("status = [\"ALLOCATABLE\"]"));
        out.line(format_args!("flags = []"));
        out.line(format_args!("dev_size = {}", pv.length() / SECTOR));
        let start = pv.options.data_start / SECTOR;
        out.line(format_args!("pe_start = {start}"));
        out.line(format_args!("pe_count = {}", pv.extents(extent_size)));
        out.line(format_args!("}}"));
    }
    out.line(format_args!("}}"));
    if !vg.lvs.is_empty() {
        out.line(format_args!("logical_volumes {{"));
        for entry in entries(vg, places, pools, spare) {
            out.entry(&entry, time);
        }
        out.line(format_args!("}}"));
    }
    out.line(format_args!("}}"));
    out.line(format_args!("contents = \"Text Format Volume Group\""));
    out.line(format_args!("version = 1"));
    out.line(format_args!("description = \"made by kiln\""));
    out.line(format_args!("creation_host = \"kiln\""));
    out.line(format_args!("creation_time = {time}"));
    let mut bytes = out.text.into_bytes();
    bytes.push(0);
    bytes
}

/// Lines as LVM writes them: not indented, and an empty one before each section. GRUB
/// finds all but the first logical volume only so.
struct Lines<'a> {
    text: String,
    vg: &'a Vg,
}

impl Lines<'_> {
    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let start = self.text.len();
        let _ = self.text.write_fmt(text);
        if start > 0 && self.text.ends_with('{') {
            self.text.insert(start, '\n');
        }
        self.text.push('\n');
    }

    fn entry(&mut self, entry: &Entry<'_>, time: u64) {
        self.line(format_args!("{} {{", entry.name));
        self.line(format_args!("id = \"{}\"", dashed(entry.uuid)));
        let usual = LvOptions::default();
        let options = entry.options.unwrap_or(&usual);
        let status = [
            ("READ", true),
            ("WRITE", !options.read_only),
            ("VISIBLE", entry.options.is_some()),
        ];
        self.list("status", words(&status));
        let flags = [
            ("ACTIVATION_SKIP", options.activation_skip),
            ("NOAUTOACTIVATE", options.no_autoactivation),
        ];
        self.list("flags", words(&flags));
        self.tags(&options.tags);
        self.line(format_args!("creation_time = {time}"));
        self.line(format_args!("creation_host = \"kiln\""));
        self.allocation(options.allocation);
        match options.read_ahead {
            None => {}
            // Zero is for what the system thinks best.
            Some(0) => self.line(format_args!("read_ahead = -1")),
            Some(sectors) => self.line(format_args!("read_ahead = {sectors}")),
        }
        let extent_size = self.vg.options.extent_size;
        match &entry.content {
            Content::Linear(segments) => {
                self.line(format_args!("segment_count = {}", segments.len()));
                let mut start = 0;
                for (at, part) in segments.iter().enumerate() {
                    let count = part.length / extent_size;
                    let first = self.first_extent(part);
                    self.segment(at + 1, start, count, "striped");
                    self.line(format_args!("stripe_count = 1"));
                    self.line(format_args!("stripes = [\"pv{}\", {first}]", part.pv));
                    self.line(format_args!("}}"));
                    start += count;
                }
            }
            Content::Striped(parts, size) => {
                self.line(format_args!("segment_count = 1"));
                self.segment(1, 0, length_of(parts) / extent_size, "striped");
                self.line(format_args!("stripe_count = {}", parts.len()));
                self.line(format_args!("stripe_size = {}", size / SECTOR));
                self.line(format_args!("stripes = ["));
                for (at, part) in parts.iter().enumerate() {
                    let comma = if at + 1 < parts.len() { "," } else { "" };
                    let first = self.first_extent(part);
                    self.line(format_args!("\"pv{}\", {first}{comma}", part.pv));
                }
                self.line(format_args!("]"));
                self.line(format_args!("}}"));
            }
            Content::Pool(pool) => {
                self.line(format_args!("segment_count = 1"));
                self.segment(1, 0, length_of(&pool.data) / extent_size, "thin-pool");
                self.line(format_args!("metadata = \"{}_tmeta\"", pool.name));
                self.line(format_args!("pool = \"{}_tdata\"", pool.name));
                self.line(format_args!("transaction_id = {}", pool.volumes));
                self.line(format_args!("chunk_size = {}", pool.chunk / SECTOR));
                let discards = pool.options.discards.name();
                self.line(format_args!("discards = \"{discards}\""));
                if pool.options.zero {
                    self.line(format_args!("zero_new_blocks = 1"));
                }
                self.line(format_args!("}}"));
            }
            Content::Thin {
                pool,
                bytes,
                device,
            } => {
                self.line(format_args!("segment_count = 1"));
                self.segment(1, 0, bytes / extent_size, "thin");
                self.line(format_args!("thin_pool = \"{pool}\""));
                self.line(format_args!("transaction_id = {}", device - 1));
                self.line(format_args!("device_id = {device}"));
                self.line(format_args!("}}"));
            }
        }
        self.line(format_args!("}}"));
    }

    /// The extent of its physical volume that a part begins with.
    fn first_extent(&self, part: &Segment) -> u64 {
        let start = self.vg.pvs[part.pv].options.data_start;
        (part.offset - start) / self.vg.options.extent_size
    }

    /// `NAME = ["A", "B"]`
    fn list<'a>(&mut self, name: &str, items: impl Iterator<Item = &'a str>) {
        let items: Vec<String> = items.map(|item| format!("\"{item}\"")).collect();
        self.line(format_args!("{name} = [{}]", items.join(", ")));
    }

    fn tags(&mut self, tags: &[String]) {
        if !tags.is_empty() {
            self.list("tags", tags.iter().map(String::as_str));
        }
    }

    fn allocation(&mut self, allocation: Option<Allocation>) {
        if let Some(allocation) = allocation {
            let name = allocation.name();
            self.line(format_args!("allocation_policy = \"{name}\""));
        }
    }

    /// The lines that all segments begin with.
    fn segment(&mut self, number: usize, start: u64, extents: u64, kind: &str) {
        self.line(format_args!("segment{number} {{"));
        self.line(format_args!("start_extent = {start}"));
        self.line(format_args!("extent_count = {extents}"));
        self.line(format_args!("type = \"{kind}\""));
    }
}

/// The words that apply.
fn words<'a>(all: &'a [(&'a str, bool)]) -> impl Iterator<Item = &'a str> {
    all.iter()
        .filter(|(_, applies)| *applies)
        .map(|(word, _)| *word)
}

/// Text between quotes.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}
