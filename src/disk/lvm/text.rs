//! The text by which a volume group describes itself.

use std::fmt::Write as _;

use uuid::Uuid;

use super::format::{DATA_OFFSET, EXTENT_SIZE, SECTOR};
use super::{Place, Pool, Segment, Vg, extents_of, id, length_of};

/// A logical volume of the text; some are not those of the configuration.
struct Entry<'a> {
    name: String,
    uuid: Uuid,
    /// Whether programs list it.
    visible: bool,
    content: Content<'a>,
}

enum Content<'a> {
    Linear(&'a [Segment]),
    Pool(&'a Pool),
    Thin {
        pool: &'a str,
        extents: u64,
        /// From 1; transactions count from 0.
        device: usize,
    },
}

/// The identity with the dashes that texts have.
pub(super) fn dashed(uuid: Uuid) -> String {
    let id = id(uuid);
    let mut out = String::with_capacity(38);
    for (at, character) in id.chars().enumerate() {
        if matches!(at, 6 | 10 | 14 | 18 | 22 | 26) {
            out.push('-');
        }
        out.push(character);
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
            Place::Pool(pool) => Content::Pool(&pools[*pool]),
            Place::Thin {
                pool,
                volume,
                bytes,
            } => Content::Thin {
                pool: &pools[*pool].name,
                extents: bytes / EXTENT_SIZE,
                device: volume + 1,
            },
        };
        entries.push(Entry {
            name: lv.name.clone(),
            uuid: lv.uuid,
            visible: true,
            content,
        });
    }
    let hidden = |name: String, segments| Entry {
        uuid: Uuid::new_v5(&vg.uuid, name.as_bytes()),
        name,
        visible: false,
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
    let mut out = Lines(String::new());
    out.line(0, format_args!("{} {{", vg.name));
    out.line(1, format_args!("id = \"{}\"", dashed(vg.uuid)));
    out.line(1, format_args!("seqno = 1"));
    out.line(1, format_args!("format = \"lvm2\""));
    out.line(
        1,
        format_args!("status = [\"RESIZEABLE\", \"READ\", \"WRITE\"]"),
    );
    out.line(1, format_args!("flags = []"));
    out.line(1, format_args!("extent_size = {}", EXTENT_SIZE / SECTOR));
    out.line(1, format_args!("max_lv = 0"));
    out.line(1, format_args!("max_pv = 0"));
    out.line(1, format_args!("metadata_copies = 0"));
    out.line(1, format_args!("physical_volumes {{"));
    for (at, pv) in vg.pvs.iter().enumerate() {
        out.line(2, format_args!("pv{at} {{"));
        out.line(3, format_args!("id = \"{}\"", dashed(pv.uuid)));
        out.line(3, format_args!("device = \"{}\"", quoted(&pv.device)));
        out.line(3, format_args!("status = [\"ALLOCATABLE\"]"));
        out.line(3, format_args!("flags = []"));
        out.line(3, format_args!("dev_size = {}", pv.bytes / SECTOR));
        out.line(3, format_args!("pe_start = {}", DATA_OFFSET / SECTOR));
        out.line(3, format_args!("pe_count = {}", extents_of(pv.bytes)));
        out.line(2, format_args!("}}"));
    }
    out.line(1, format_args!("}}"));
    if !vg.lvs.is_empty() {
        out.line(1, format_args!("logical_volumes {{"));
        for entry in entries(vg, places, pools, spare) {
            out.entry(&entry, time);
        }
        out.line(1, format_args!("}}"));
    }
    out.line(0, format_args!("}}"));
    out.line(0, format_args!("contents = \"Text Format Volume Group\""));
    out.line(0, format_args!("version = 1"));
    out.line(0, format_args!("description = \"made by kiln\""));
    out.line(0, format_args!("creation_host = \"kiln\""));
    out.line(0, format_args!("creation_time = {time}"));
    let mut bytes = out.0.into_bytes();
    bytes.push(0);
    bytes
}

/// Indented lines.
struct Lines(String);

impl Lines {
    fn line(&mut self, depth: usize, text: std::fmt::Arguments<'_>) {
        self.0.extend(std::iter::repeat_n('\t', depth));
        // Writing to a string cannot fail.
        let _ = self.0.write_fmt(text);
        self.0.push('\n');
    }

    fn entry(&mut self, entry: &Entry<'_>, time: u64) {
        self.line(2, format_args!("{} {{", entry.name));
        self.line(3, format_args!("id = \"{}\"", dashed(entry.uuid)));
        let visible = if entry.visible { ", \"VISIBLE\"" } else { "" };
        self.line(3, format_args!("status = [\"READ\", \"WRITE\"{visible}]"));
        self.line(3, format_args!("flags = []"));
        self.line(3, format_args!("creation_time = {time}"));
        self.line(3, format_args!("creation_host = \"kiln\""));
        match &entry.content {
            Content::Linear(segments) => {
                self.line(3, format_args!("segment_count = {}", segments.len()));
                let mut start = 0;
                for (at, part) in segments.iter().enumerate() {
                    let count = part.length / EXTENT_SIZE;
                    let first = (part.offset - DATA_OFFSET) / EXTENT_SIZE;
                    self.segment(at + 1, start, count, "striped");
                    self.line(4, format_args!("stripe_count = 1"));
                    self.line(4, format_args!("stripes = [\"pv{}\", {first}]", part.pv));
                    self.line(3, format_args!("}}"));
                    start += count;
                }
            }
            Content::Pool(pool) => {
                self.line(3, format_args!("segment_count = 1"));
                self.segment(1, 0, length_of(&pool.data) / EXTENT_SIZE, "thin-pool");
                self.line(4, format_args!("metadata = \"{}_tmeta\"", pool.name));
                self.line(4, format_args!("pool = \"{}_tdata\"", pool.name));
                self.line(4, format_args!("transaction_id = {}", pool.volumes));
                self.line(4, format_args!("chunk_size = {}", pool.chunk / SECTOR));
                self.line(4, format_args!("discards = \"passdown\""));
                self.line(4, format_args!("zero_new_blocks = 1"));
                self.line(3, format_args!("}}"));
            }
            Content::Thin {
                pool,
                extents,
                device,
            } => {
                self.line(3, format_args!("segment_count = 1"));
                self.segment(1, 0, *extents, "thin");
                self.line(4, format_args!("thin_pool = \"{pool}\""));
                self.line(4, format_args!("transaction_id = {}", device - 1));
                self.line(4, format_args!("device_id = {device}"));
                self.line(3, format_args!("}}"));
            }
        }
        self.line(2, format_args!("}}"));
    }

    /// The lines that all segments begin with.
    fn segment(&mut self, number: usize, start: u64, extents: u64, kind: &str) {
        self.line(3, format_args!("segment{number} {{"));
        self.line(4, format_args!("start_extent = {start}"));
        self.line(4, format_args!("extent_count = {extents}"));
        self.line(4, format_args!("type = \"{kind}\""));
    }
}

/// Text between quotes.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}
