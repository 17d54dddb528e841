//! The keys of an image: what each takes, and what becomes of it.

use serde_json::json;

use super::super::failure::Failure;
use super::super::nearest::nearest;
use super::super::values::ARCHES;
use crate::disk::yaml::{Number, Scalar, ScalarKind, Value};

/// What the value of a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// A whole number from … to ….
    Integer(u64, u64),
    Bool,
    /// A list of texts, of these or (if empty) any.
    Texts(&'static [&'static str]),
    /// One of these texts.
    One(&'static [&'static str]),
    /// A map from texts to texts.
    Pairs,
}

/// What a key becomes on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Becomes {
    /// The option with the value.
    Option(&'static str),
    /// The option as often as the number says.
    Repeated(&'static str),
    /// Operands.
    Operands,
    /// Variables of the environment.
    Environment,
    /// Another command.
    Ramdisk,
}

/// A key of an image.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) becomes: Becomes,
    pub(super) help: &'static str,
}

const fn key(name: &'static str, kind: Kind, becomes: Becomes, help: &'static str) -> Key {
    Key {
        name,
        kind,
        becomes,
        help,
    }
}

const MANY: u64 = u64::MAX;

/// All keys, in the order in which they appear on the command line.
#[rustfmt::skip]
pub(super) static KEYS: &[Key] = &[
    key("imagename", Kind::Text, Becomes::Option("-o"), "Name of the output."),
    key("arch", Kind::One(&ARCHES), Becomes::Option("-a"), "Architecture of the image."),
    key("types", Kind::Texts(&crate::sink::NAMES), Becomes::Option("-t"), "Formats to write."),
    key("environment", Kind::Pairs, Becomes::Environment, "Variables for the build; values are texts, so numbers are quoted."),
    key("ramdisk", Kind::Bool, Becomes::Ramdisk, "Builds a ramdisk, with ramdisk-image-create."),
    key("debug-trace", Kind::Integer(0, 2), Becomes::Repeated("-x"), "How many times tracing is asked for."),
    key("uncompressed", Kind::Bool, Becomes::Option("-u"), "Leaves qcow2 images uncompressed."),
    key("clear", Kind::Bool, Becomes::Option("-c"), "Starts from an almost empty environment."),
    key("logfile", Kind::Text, Becomes::Option("--logfile"), "File to which every line is appended."),
    key("checksum", Kind::Bool, Becomes::Option("--checksum"), "Writes files with MD5 and SHA-256 sums."),
    key("image-size", Kind::Integer(1, MANY), Becomes::Option("--image-size"), "Size of the image in GiB."),
    key("image-extra-size", Kind::Integer(1, MANY), Becomes::Option("--image-extra-size"), "MiB to add to what the content needs."),
    key("image-cache", Kind::Text, Becomes::Option("--image-cache"), "Directory for downloads and base roots."),
    key("max-online-resize", Kind::Integer(1, MANY), Becomes::Option("--max-online-resize"), "Blocks up to which the root filesystem can grow."),
    key("min-tmpfs", Kind::Integer(1, MANY), Becomes::Option("--min-tmpfs"), "Builds in memory if twice this many GiB are there."),
    key("mkfs-journal-size", Kind::Integer(1, MANY), Becomes::Option("--mkfs-journal-size"), "Size of the ext4 journal in MiB."),
    key("mkfs-options", Kind::Text, Becomes::Option("--mkfs-options"), "Options for the root filesystem, in the notation of mke2fs."),
    key("no-tmpfs", Kind::Bool, Becomes::Option("--no-tmpfs"), "Never builds in memory."),
    key("offline", Kind::Bool, Becomes::Option("--offline"), "Builds without the network."),
    key("qemu-img-options", Kind::Pairs, Becomes::Option("--qemu-img-options"), "Options for the writer of the format."),
    key("root-label", Kind::Text, Becomes::Option("--root-label"), "Label of the root filesystem."),
    key("ramdisk-element", Kind::Text, Becomes::Option("--ramdisk-element"), "Element that builds the ramdisk."),
    key("install-type", Kind::One(&["source", "package"]), Becomes::Option("--install-type"), "What to install from where elements offer both."),
    key("docker-target", Kind::Text, Becomes::Option("--docker-target"), "Repository and tag of an image of type docker."),
    key("packages", Kind::Texts(&[]), Becomes::Option("-p"), "Packages to install as well."),
    key("skip-base", Kind::Bool, Becomes::Option("-n"), "Leaves out the element base."),
    key("elements", Kind::Texts(&[]), Becomes::Operands, "Elements to build the image from."),
];

impl Kind {
    pub(super) fn describe(self) -> String {
        match self {
            Kind::Text => "text".to_owned(),
            Kind::Integer(low, MANY) => format!("a whole number from {low}"),
            Kind::Integer(low, high) => format!("a whole number from {low} to {high}"),
            Kind::Bool => "`true` or `false`".to_owned(),
            Kind::Texts([]) => "a list of texts".to_owned(),
            Kind::Texts(of) => format!("a list of {}", of.join(", ")),
            Kind::One(of) => format!("one of {}", of.join(", ")),
            Kind::Pairs => "a map from texts to texts".to_owned(),
        }
    }

    fn schema(self) -> serde_json::Value {
        match self {
            Kind::Text => json!({"type": "string"}),
            Kind::Integer(low, MANY) => json!({"type": "integer", "minimum": low}),
            Kind::Integer(low, high) => json!({"type": "integer", "minimum": low, "maximum": high}),
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Texts([]) => json!({"type": "array", "items": {"type": "string"}}),
            Kind::Texts(of) => json!({"type": "array", "items": {"type": "string", "enum": of}}),
            Kind::One(of) => json!({"type": "string", "enum": of}),
            Kind::Pairs => {
                json!({"type": "object", "additionalProperties": {"type": "string"}})
            }
        }
    }
}

/// The schema of a file, as JSON Schema.
pub(super) fn schema() -> serde_json::Value {
    let properties: serde_json::Map<String, serde_json::Value> = KEYS
        .iter()
        .map(|key| {
            let mut value = key.kind.schema();
            value["description"] = key.help.into();
            (key.name.to_owned(), value)
        })
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Images that diskimage-builder builds",
        "type": "array",
        "items": {
            "type": "object",
            "properties": properties,
            "additionalProperties": false,
        },
    })
}

/// Checks a key and its value.
pub(super) fn check(name: &str, value: &Value) -> Result<(), Failure> {
    let Some(key) = KEYS.iter().find(|key| key.name == name) else {
        let failure = Failure::new(format!("unknown key `{name}`"));
        return Err(match nearest(name, KEYS.iter().map(|key| key.name)) {
            Some(meant) => failure.hint(format!("did you mean `{meant}`?")),
            None => failure.hint("`diskimage-builder --help` lists the keys"),
        });
    };
    let wrong =
        |found: &str, hint: Option<String>| {
            let failure = Failure::new(format!(
                "`{name}` is {found} where {} is expected",
                key.kind.describe()
            ));
            failure.hint(hint.unwrap_or_else(|| {
                "`diskimage-builder --help` says what each key takes".to_owned()
            }))
        };
    let text = |value: &Value| match value {
        Value::Scalar(Scalar {
            text,
            kind: ScalarKind::Text,
        }) => Ok(text.clone()),
        Value::Scalar(scalar) => Err(wrong(
            &format!("`{}`, which YAML takes for something else", scalar.text),
            Some(format!("quote it: `\"{}\"`", scalar.text)),
        )),
        other => Err(wrong(other.kind_name(), None)),
    };
    let known = |of: &'static [&'static str], word: &str| {
        if of.is_empty() || of.contains(&word) {
            return Ok(());
        }
        let near = nearest(word, of.iter().copied());
        let hint = near.map(|meant| format!("did you mean `{meant}`?"));
        Err(wrong(&format!("`{word}`"), hint))
    };
    match (key.kind, value) {
        (Kind::Text, value) => text(value).map(drop),
        (Kind::One(of), value) => text(value).and_then(|word| known(of, &word)),
        (Kind::Texts(of), Value::List(items)) => items
            .iter()
            .try_for_each(|item| text(item).and_then(|word| known(of, &word))),
        (Kind::Pairs, Value::Map(map)) => map.iter().try_for_each(|(_, item)| text(item).map(drop)),
        (
            Kind::Bool,
            Value::Scalar(Scalar {
                kind: ScalarKind::Bool,
                ..
            }),
        ) => Ok(()),
        (
            Kind::Integer(low, high),
            Value::Scalar(Scalar {
                text,
                kind: ScalarKind::Number,
            }),
        ) if whole(text).is_some_and(|(number, written)| {
            // The schema takes `2.0` for a whole number, but nothing can be repeated so often.
            let counted = !matches!(key.becomes, Becomes::Repeated(_)) || !written.contains('.');
            counted && (i128::from(low)..=i128::from(high)).contains(&number)
        }) =>
        {
            Ok(())
        }
        (_, Value::Scalar(scalar)) => Err(wrong(&format!("`{}`", scalar.text), None)),
        (_, other) => Err(wrong(other.kind_name(), None)),
    }
}

/// A whole number, in any way that YAML has to write it, and how Python writes it.
pub(super) fn whole(text: &str) -> Option<(i128, String)> {
    match Number::parse(text)? {
        Number::Integer(number) => Some((number, number.to_string())),
        Number::Float(number) if number.fract() == 0.0 => {
            let written = format!("{number:.1}");
            let number = written.strip_suffix(".0")?.parse().ok()?;
            Some((number, written))
        }
        Number::Float(_) => None,
    }
}
