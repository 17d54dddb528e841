//! Reads the text by which a volume group describes itself: what [`text`](super::text)
//! writes, and what LVM writes of anything it can make.
//!
//! The text comes from an image and is not trusted: nesting and numbers are
//! bounded, and nothing is looked up in it but by name.

use super::format::SECTOR;

/// Sections may be nested this deep; LVM's own are four.
const MAX_DEPTH: usize = 16;

/// Why a text is no description of a volume group.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextError {
    /// It is not in LVM's form.
    #[error("line {line} of its description is not understood")]
    Syntax {
        /// Counted from 1.
        line: usize,
    },
    /// Something that every description has is not there, or is not what it should be.
    #[error("its description has no usable `{name}`")]
    Missing {
        /// Where it should be: names from the group on.
        name: String,
    },
}

/// A volume group, as its text describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Name.
    pub name: String,
    /// Identity, without dashes.
    pub id: String,
    /// Number of this version of the text.
    pub seqno: u64,
    /// Length of an extent in bytes; not zero.
    pub extent_size: u64,
    /// Its physical volumes.
    pub pvs: Vec<PvDescription>,
    /// Its logical volumes, those that others consist of too.
    pub lvs: Vec<LvDescription>,
}

/// A physical volume of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PvDescription {
    /// The name that segments have for it.
    pub name: String,
    /// Identity, without dashes.
    pub id: String,
    /// Where extents begin, in bytes.
    pub pe_start: u64,
}

/// A logical volume of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LvDescription {
    /// Name.
    pub name: String,
    /// Whether programs list it.
    pub visible: bool,
    /// Its parts.
    pub segments: Vec<SegmentDescription>,
}

/// Part of a logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentDescription {
    /// First extent in the volume.
    pub start: u64,
    /// Length in extents.
    pub count: u64,
    /// Where it is.
    pub kind: SegmentKind,
}

/// Where a part of a logical volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SegmentKind {
    /// In ranges of extents, in turn some bytes of each.
    Striped {
        /// Bytes; 0 where there is only one range.
        stripe_size: u64,
        /// Physical or logical volumes, and the first extent in each.
        stripes: Vec<(String, u64)>,
    },
    /// It is a pool for thin volumes.
    ThinPool {
        /// The logical volume that says what is where.
        metadata: String,
        /// The logical volume with the data.
        data: String,
    },
    /// In a pool.
    Thin {
        /// The pool's name.
        pool: String,
        /// The volume's number in the pool.
        device: u64,
    },
    /// In a way that only LVM knows, by its name.
    Other(String),
}

impl Description {
    /// Reads a text.
    ///
    /// # Errors
    /// See [`TextError`].
    pub fn parse(text: &str) -> Result<Description, TextError> {
        let top = Parser {
            rest: text,
            line: 1,
        }
        .top()?;
        let group = top.iter().find_map(|(name, item)| match item {
            Item::Section(section) => Some((name, section)),
            Item::Value(_) => None,
        });
        let Some((name, section)) = group else {
            return Err(missing("volume group"));
        };
        let group = Scope {
            path: name.clone(),
            section,
        };
        let extent_size = group.number("extent_size")?.checked_mul(SECTOR);
        let Some(extent_size) = extent_size.filter(|&size| size > 0) else {
            return Err(missing(&format!("{name}/extent_size")));
        };
        let pvs = group.sections("physical_volumes").into_iter().map(|pv| {
            let pe_start = pv.number("pe_start")?.checked_mul(SECTOR);
            Ok(PvDescription {
                name: pv.name().to_owned(),
                id: pv.text("id")?.replace('-', ""),
                pe_start: pe_start.ok_or_else(|| pv.missing("pe_start"))?,
            })
        });
        let lvs = group.sections("logical_volumes");
        Ok(Description {
            name: name.clone(),
            id: group.text("id")?.replace('-', ""),
            seqno: group.number("seqno")?,
            extent_size,
            pvs: pvs.collect::<Result<_, _>>()?,
            lvs: lvs.iter().map(volume).collect::<Result<_, _>>()?,
        })
    }
}

fn missing(name: &str) -> TextError {
    TextError::Missing {
        name: name.to_owned(),
    }
}

fn volume(lv: &Scope<'_>) -> Result<LvDescription, TextError> {
    let mut segments = Vec::new();
    for part in lv.children() {
        if part.name().starts_with("segment") {
            segments.push(segment(&part)?);
        }
    }
    segments.sort_by_key(|part: &SegmentDescription| part.start);
    let status = lv.list("status").unwrap_or_default();
    Ok(LvDescription {
        name: lv.name().to_owned(),
        visible: status.contains(&Value::Text("VISIBLE".to_owned())),
        segments,
    })
}

fn segment(part: &Scope<'_>) -> Result<SegmentDescription, TextError> {
    let kind = part.text("type")?;
    // A name may have flags behind it.
    let kind = match kind.split('+').next().unwrap_or_default() {
        "striped" | "linear" => {
            let list = part
                .list("stripes")
                .ok_or_else(|| part.missing("stripes"))?;
            let stripes = list.chunks(2).map(|pair| match pair {
                [Value::Text(name), Value::Number(extent)] => {
                    let extent = u64::try_from(*extent).ok()?;
                    Some((name.clone(), extent))
                }
                _ => None,
            });
            let stripes: Vec<_> = stripes
                .collect::<Option<_>>()
                .ok_or_else(|| part.missing("stripes"))?;
            let stripe_size = match stripes.len() {
                0 => return Err(part.missing("stripes")),
                1 => 0,
                _ => part
                    .number("stripe_size")?
                    .checked_mul(SECTOR)
                    .filter(|&size| size > 0)
                    .ok_or_else(|| part.missing("stripe_size"))?,
            };
            SegmentKind::Striped {
                stripe_size,
                stripes,
            }
        }
        "thin-pool" => SegmentKind::ThinPool {
            metadata: part.text("metadata")?.to_owned(),
            data: part.text("pool")?.to_owned(),
        },
        "thin" if part.text("external_origin").is_err() => SegmentKind::Thin {
            pool: part.text("thin_pool")?.to_owned(),
            device: part.number("device_id")?,
        },
        other => SegmentKind::Other(other.to_owned()),
    };
    Ok(SegmentDescription {
        start: part.number("start_extent")?,
        count: part.number("extent_count")?,
        kind,
    })
}

/// What stands behind a name.
#[derive(Debug, Clone, PartialEq)]
enum Item {
    Value(Value),
    Section(Section),
}

type Section = Vec<(String, Item)>;

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Number(i64),
    Text(String),
    /// Anything that nobody asks for.
    Other,
    List(Vec<Value>),
}

/// A section, and where it is.
struct Scope<'s> {
    path: String,
    section: &'s Section,
}

impl<'s> Scope<'s> {
    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    fn missing(&self, name: &str) -> TextError {
        missing(&format!("{}/{name}", self.path))
    }

    fn value(&self, name: &str) -> Option<&'s Value> {
        self.section.iter().find_map(|(own, item)| match item {
            Item::Value(value) if own == name => Some(value),
            _ => None,
        })
    }

    fn number(&self, name: &str) -> Result<u64, TextError> {
        match self.value(name) {
            Some(Value::Number(number)) => u64::try_from(*number).map_err(|_| self.missing(name)),
            _ => Err(self.missing(name)),
        }
    }

    fn text(&self, name: &str) -> Result<&'s str, TextError> {
        match self.value(name) {
            Some(Value::Text(text)) => Ok(text),
            _ => Err(self.missing(name)),
        }
    }

    fn list(&self, name: &str) -> Option<&'s [Value]> {
        match self.value(name) {
            Some(Value::List(list)) => Some(list),
            _ => None,
        }
    }

    /// The sections in it.
    fn children(&self) -> Vec<Scope<'s>> {
        let sections = self.section.iter().filter_map(|(name, item)| match item {
            Item::Section(section) => Some(Scope {
                path: format!("{}/{name}", self.path),
                section,
            }),
            Item::Value(_) => None,
        });
        sections.collect()
    }

    /// The sections in the section of this name; none if there is no such section.
    fn sections(&self, name: &str) -> Vec<Scope<'s>> {
        let found = self.children().into_iter().find(|own| own.name() == name);
        found.map(|found| found.children()).unwrap_or_default()
    }
}

struct Parser<'t> {
    rest: &'t str,
    line: usize,
}

impl<'t> Parser<'t> {
    fn syntax<T>(&self) -> Result<T, TextError> {
        Err(TextError::Syntax { line: self.line })
    }

    fn skip(&mut self, length: usize) -> &'t str {
        let (skipped, rest) = self
            .rest
            .split_at_checked(length)
            .unwrap_or((self.rest, ""));
        self.line += skipped.bytes().filter(|&byte| byte == b'\n').count();
        self.rest = rest;
        skipped
    }

    /// Leaves out blanks and comments.
    fn blanks(&mut self) {
        loop {
            let blank = self.rest.len() - self.rest.trim_start().len();
            self.skip(blank);
            if !self.rest.starts_with('#') {
                return;
            }
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            self.skip(end);
        }
    }

    /// Takes a character if it comes next.
    fn take(&mut self, character: char) -> bool {
        self.blanks();
        let found = self.rest.starts_with(character);
        if found {
            self.skip(character.len_utf8());
        }
        found
    }

    /// All of a text.
    fn top(mut self) -> Result<Section, TextError> {
        let section = self.section(0)?;
        self.blanks();
        if !self.rest.is_empty() {
            return self.syntax();
        }
        Ok(section)
    }

    /// What is up to the end, or to a brace that closes.
    fn section(&mut self, depth: usize) -> Result<Section, TextError> {
        if depth > MAX_DEPTH {
            return self.syntax();
        }
        let mut section = Section::new();
        loop {
            self.blanks();
            if self.rest.is_empty() || self.rest.starts_with('}') {
                return Ok(section);
            }
            let name = self.name()?.to_owned();
            let item = if self.take('{') {
                let inner = self.section(depth + 1)?;
                if !self.take('}') {
                    return self.syntax();
                }
                Item::Section(inner)
            } else if self.take('=') {
                Item::Value(self.value(depth)?)
            } else {
                return self.syntax();
            };
            section.push((name, item));
        }
    }

    fn name(&mut self) -> Result<&'t str, TextError> {
        let allowed =
            |character: char| character.is_ascii_alphanumeric() || "+_.-/@".contains(character);
        let end = self.rest.find(|character| !allowed(character));
        match self.skip(end.unwrap_or(self.rest.len())) {
            "" => self.syntax(),
            name => Ok(name),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, TextError> {
        if depth > MAX_DEPTH {
            return self.syntax();
        }
        if self.take('"') {
            return self.quoted();
        }
        if self.take('[') {
            let mut list = Vec::new();
            while !self.take(']') {
                list.push(self.value(depth + 1)?);
                if !self.take(',') && !self.rest.starts_with(']') {
                    return self.syntax();
                }
            }
            return Ok(Value::List(list));
        }
        let word = self.name()?;
        Ok(word.parse().map_or(Value::Other, Value::Number))
    }

    /// Text up to its closing quote.
    fn quoted(&mut self) -> Result<Value, TextError> {
        let mut text = String::new();
        let mut characters = self.rest.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.skip(at + 1);
                    return Ok(Value::Text(text));
                }
                '\\' => match characters.next() {
                    Some((_, escaped)) => text.push(escaped),
                    None => break,
                },
                other => text.push(other),
            }
        }
        self.syntax()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lvm_writes_is_read() {
        // As `vgcfgbackup` writes it: comments, times, lists over several lines.
        let text = r#"
# Generated by LVM2 version 2.03.16(2) (2022-05-18): Sat Nov 28 11:00:00 2026
contents = "Text Format Volume Group"
version = 1
description = "a \"quoted\" \\ word"
creation_time = 1795866519	# Sat Nov 28
vg-0 {
	id = "abcdef-ghij-klmn-opqr-stuv-wxyz-012345"
	seqno = 12
	format = "lvm2"			# informational
	status = ["RESIZEABLE", "READ", "WRITE"]
	flags = []
	extent_size = 8192		# 4 Megabytes
	max_lv = 0
	physical_volumes {
		pv0 {
			id = "000000-1111-2222-3333-4444-5555-666666"
			device = "/dev/sda1"
			pe_start = 2048
			pe_count = 25
		}
		pv1 {
			id = "000000-1111-2222-3333-4444-5555-777777"
			pe_start = 4096
		}
	}
	logical_volumes {
		lv_root {
			id = "x"
			status = ["READ", "WRITE", "VISIBLE"]
			segment_count = 2
			segment2 {
				start_extent = 10
				extent_count = 4
				type = "striped"
				stripe_count = 2
				stripe_size = 128
				stripes = [
					"pv0", 10,
					"pv1", 0
				]
			}
			segment1 {
				start_extent = 0
				extent_count = 10
				type = "striped"
				stripe_count = 1	# linear
				stripes = [ "pv0", 0 ]
			}
		}
		pool_tdata {
			status = ["READ", "WRITE"]
		}
		mirror {
			status = ["READ", "VISIBLE"]
			segment1 {
				start_extent = 0
				extent_count = 1
				type = "raid1"
				raids = ["a", "b"]
			}
		}
	}
}
"#;
        let group = Description::parse(text).unwrap();
        assert_eq!(group.name, "vg-0");
        assert_eq!(group.id, "abcdefghijklmnopqrstuvwxyz012345");
        assert_eq!((group.seqno, group.extent_size), (12, 4 << 20));
        assert_eq!(group.pvs[1].pe_start, 2 << 20);
        let root = &group.lvs[0];
        assert!(root.visible && !group.lvs[1].visible);
        assert_eq!(
            root.segments,
            [
                SegmentDescription {
                    start: 0,
                    count: 10,
                    kind: SegmentKind::Striped {
                        stripe_size: 0,
                        stripes: vec![("pv0".to_owned(), 0)],
                    },
                },
                SegmentDescription {
                    start: 10,
                    count: 4,
                    kind: SegmentKind::Striped {
                        stripe_size: 64 << 10,
                        stripes: vec![("pv0".to_owned(), 10), ("pv1".to_owned(), 0)],
                    },
                },
            ]
        );
        assert_eq!(
            group.lvs[2].segments[0].kind,
            SegmentKind::Other("raid1".to_owned())
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let deep = "a {".repeat(100);
        for (text, message) in [
            ("", "its description has no usable `volume group`"),
            ("vg {\n\tid = \"x\n", "line 2 of its description"),
            ("vg {\n\tid =\n}", "line 3 of its description"),
            ("vg { a = [1, 2 3] }", "line 1 of its description"),
            ("vg {} }", "line 1 of its description"),
            ("vg {", "line 1 of its description"),
            (&deep, "line 1 of its description"),
            ("vg { id = \"a\" }", "no usable `vg/extent_size`"),
            ("vg { extent_size = 0 }", "no usable `vg/extent_size`"),
            (
                "vg { extent_size = 8 id = \"a\" seqno = -1 }",
                "no usable `vg/seqno`",
            ),
            (
                "vg { extent_size = 9223372036854775807 }",
                "no usable `vg/extent_size`",
            ),
            (
                "vg { extent_size = 8 id = \"a\" seqno = 1 logical_volumes { x { segment1 { \
                 type = \"striped\" stripes = [\"pv0\"] } } } }",
                "no usable `vg/logical_volumes/x/segment1/stripes`",
            ),
        ] {
            let error = Description::parse(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
