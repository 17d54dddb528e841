//! Which part of a disk a running system means by the name of a device, as it is in
//! `/etc/fstab`.

use super::{Contents, Part};

/// Prefixes of the first disk's partitions, before their numbers.
const FIRST_DISKS: [&str; 6] = [
    "/dev/sda",
    "/dev/vda",
    "/dev/xvda",
    "/dev/hda",
    "/dev/nvme0n1p",
    "/dev/mmcblk0p",
];

impl Contents<'_> {
    /// The part that a system on this disk means by `UUID=…`, `LABEL=…`, `PARTUUID=…`,
    /// `PARTLABEL=…`, by the name of a logical volume below `/dev`, or by the name of a
    /// partition of the first disk.
    pub(super) fn device(&self, name: &str) -> Option<&Part> {
        let is_meant: Box<dyn Fn(&Part) -> bool> = match name.split_once('=') {
            Some((tag, value)) => {
                let value = value.trim_matches('"');
                match tag {
                    "UUID" => Box::new(move |part| is_text(uuid(part), value)),
                    "LABEL" => Box::new(move |part| label(part) == Some(value)),
                    "PARTUUID" => Box::new(move |part| self.has_partition_id(part, value)),
                    "PARTLABEL" => Box::new(move |part| part_label(part) == Some(value)),
                    _ => return None,
                }
            }
            None => {
                let directories = ["/dev/disk/by-uuid/", "/dev/disk/by-label/"];
                if let Some(value) = name.strip_prefix(directories[0]) {
                    Box::new(move |part| is_text(uuid(part), value))
                } else if let Some(value) = name.strip_prefix(directories[1]) {
                    Box::new(move |part| label(part) == Some(value))
                } else {
                    Box::new(move |part| is_logical(part, name) || is_numbered(part, name))
                }
            }
        };
        // A physical volume is never meant itself.
        let mut parts = self.parts.iter().filter(|part| !part.is_physical());
        parts.find(|part| is_meant(part))
    }

    /// Whether this is a partition's `PARTUUID`: in an MBR the disk's number and its own.
    fn has_partition_id(&self, part: &Part, value: &str) -> bool {
        let (Some(table), Some(partition)) = (&self.table, &part.partition) else {
            return false;
        };
        match &partition.guid {
            Some(guid) => guid.eq_ignore_ascii_case(value),
            None => format!("{}-{:02x}", table.id, partition.number).eq_ignore_ascii_case(value),
        }
    }
}

/// Whether a part is the logical volume of this name: `group/name`, the same below
/// `/dev`, or `/dev/mapper/group-name`.
pub(super) fn is_logical(part: &Part, name: &str) -> bool {
    let Some(logical) = &part.logical else {
        return false;
    };
    match name.strip_prefix("/dev/mapper/") {
        Some(name) => logical.mapper_name() == name,
        None => logical.to_string() == name.strip_prefix("/dev/").unwrap_or(name),
    }
}

fn is_numbered(part: &Part, name: &str) -> bool {
    let Some(partition) = &part.partition else {
        return false;
    };
    FIRST_DISKS.iter().any(|disk| {
        let number = name.strip_prefix(disk);
        number.and_then(|number| number.parse().ok()) == Some(partition.number)
    })
}

fn is_text(own: Option<&str>, value: &str) -> bool {
    own.is_some_and(|own| own.eq_ignore_ascii_case(value))
}

fn uuid(part: &Part) -> Option<&str> {
    part.identity.as_ref()?.uuid.as_deref()
}

fn label(part: &Part) -> Option<&str> {
    part.identity.as_ref()?.label.as_deref()
}

fn part_label(part: &Part) -> Option<&str> {
    part.partition.as_ref()?.name.as_deref()
}
