//! YAML as plain data: mappings in document order, scalars as they were written.
//!
//! Block-device files are YAML 1.1 read by PyYAML, where `type: 8E00` is text,
//! `type: 0700` is 448 and `1_000` is a number. What counts for kiln is what the
//! user wrote, so every scalar keeps its text and no number is ever made of it.
//!
//! The parser does not hand out the text of a scalar together with its kind, so
//! a document is read twice: once for its shape, once for its text, guided by
//! that shape. Anchors, aliases and merge keys are expanded alike both times, and
//! the parser's budgets bound what they may grow to.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};

/// A YAML value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar.
    Scalar(Scalar),
    /// A sequence.
    List(Vec<Value>),
    /// A mapping.
    Map(Map),
}

/// A scalar that is not null.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    /// Its text, without quotes.
    pub text: String,
    /// What YAML resolves it to.
    pub kind: ScalarKind,
}

/// What YAML resolves a scalar to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalarKind {
    /// Quoted, or plain text that is nothing else.
    Text,
    /// `true`, `no`, …
    Bool,
    /// `5`, `0x83`, `1.5`, …
    Number,
}

/// What Python makes of a plain scalar that is a number to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// A whole number, written in any base.
    Integer(i128),
    /// One with a point, or one of the names of what is no finite number.
    Float(f64),
}

impl Number {
    /// Reads a number by the rules of YAML 1.1 as PyYAML has them, or `None` for
    /// text: `1e3` and `0o10` are text there, `1_000`, `0b11` and `1:30` numbers.
    pub fn parse(text: &str) -> Option<Number> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        match rest {
            ".inf" | ".Inf" | ".INF" if negative => return Some(Number::Float(f64::NEG_INFINITY)),
            ".inf" | ".Inf" | ".INF" => return Some(Number::Float(f64::INFINITY)),
            _ => {}
        }
        if matches!(text, ".nan" | ".NaN" | ".NAN") {
            return Some(Number::Float(f64::NAN));
        }
        if let Some((whole, fraction)) = rest.split_once('.') {
            return float(whole, fraction, text == rest)
                .map(|value| Number::Float(if negative { -value } else { value }));
        }
        let value = integer(rest)?;
        Some(Number::Integer(if negative { -value } else { value }))
    }
}

/// The digits of a whole number without its sign.
fn integer(text: &str) -> Option<i128> {
    let digits = |text: &str, base: u32| -> Option<i128> {
        let clean = text.replace('_', "");
        let all = clean.bytes().all(|byte| char::from(byte).is_digit(base));
        all.then(|| i128::from_str_radix(&clean, base).ok())?
    };
    if text == "0" {
        return Some(0);
    }
    if let Some(rest) = text.strip_prefix("0b") {
        return digits(rest, 2);
    }
    if let Some(rest) = text.strip_prefix("0x") {
        return digits(rest, 16);
    }
    if let Some(rest) = text.strip_prefix('0') {
        return digits(rest, 8);
    }
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let mut places = text.split(':');
    let mut value = digits(places.next()?, 10)?;
    for place in places {
        value = value.checked_mul(60)?.checked_add(sixtieths(place)?)?;
    }
    Some(value)
}

/// A number with a point, without its sign; only one without a sign may begin with the point.
fn float(whole: &str, fraction: &str, unsigned: bool) -> Option<f64> {
    let is_digits = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'_')
    };
    if whole.is_empty() {
        if !unsigned || !fraction.starts_with(|first: char| first.is_ascii_digit()) {
            return None;
        }
    } else if !whole.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    if let Some((first, rest)) = whole.split_once(':') {
        if !is_digits(first) || !is_digits(fraction) {
            return None;
        }
        let mut value: f64 = first.replace('_', "").parse().ok()?;
        let mut places: Vec<String> = rest.split(':').map(str::to_owned).collect();
        for place in &places {
            sixtieths(place)?;
        }
        let last = places.last_mut()?;
        last.push('.');
        last.push_str(&fraction.replace('_', ""));
        for place in &places {
            value = value * 60.0 + place.parse::<f64>().ok()?;
        }
        return Some(value);
    }
    let (digits, exponent) = match fraction.find(['e', 'E']) {
        Some(at) => (&fraction[..at], Some(&fraction[at + 1..])),
        None => (fraction, None),
    };
    let signed = |exponent: &str| {
        exponent.starts_with(['+', '-'])
            && exponent.len() > 1
            && exponent[1..].bytes().all(|byte| byte.is_ascii_digit())
    };
    if !is_digits(whole) || !is_digits(digits) || !exponent.is_none_or(signed) {
        return None;
    }
    let exponent = exponent.map_or_else(String::new, |exponent| format!("e{exponent}"));
    format!("0{whole}.{digits}0{exponent}")
        .replace('_', "")
        .parse()
        .ok()
}

/// A place of a number to the base 60.
fn sixtieths(place: &str) -> Option<i128> {
    let good = matches!(place.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9']);
    good.then(|| place.parse().ok())?
}

/// A mapping: keys are unique (of equal ones the last value counts) and keep the
/// order of the document.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Map {
    entries: Vec<(String, Value)>,
}

impl Value {
    /// A text scalar.
    pub fn text(text: impl Into<String>) -> Value {
        Value::Scalar(Scalar {
            text: text.into(),
            kind: ScalarKind::Text,
        })
    }

    /// The text of a scalar.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// What it is, for error messages.
    pub fn kind_name(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Scalar(_) => "a scalar",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

impl Map {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries
            .iter()
            .find(|(have, _)| have == key)
            .map(|(_, value)| value)
    }

    /// Whether the key is there, even with a null value.
    pub fn contains(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Sets a key; a new one comes last, an existing one keeps its place.
    pub fn set(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        match self.entries.iter_mut().find(|(have, _)| *have == key) {
            Some((_, old)) => *old = value,
            None => self.entries.push((key, value)),
        }
    }

    /// Keys and values in document order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries
            .iter()
            .map(|(key, value)| (key.as_str(), value))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Flow notation on one line, as Python prints it, cut after 200 characters.
impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LIMIT: usize = 200;
        let mut text = String::new();
        render(self, &mut text, LIMIT);
        if let Some((cut, _)) = text.char_indices().nth(LIMIT) {
            text.truncate(cut);
            text.push('…');
        }
        formatter.write_str(&text)
    }
}

/// Appends `value` to `out` until that is longer than `limit` bytes by one scalar.
fn render(value: &Value, out: &mut String, limit: usize) {
    if out.len() > limit * 4 {
        return;
    }
    match value {
        Value::Null => out.push_str("None"),
        Value::Scalar(Scalar {
            text,
            kind: ScalarKind::Text,
        }) => {
            out.push('\'');
            out.push_str(text);
            out.push('\'');
        }
        Value::Scalar(scalar) => out.push_str(&scalar.text),
        Value::List(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                render(item, out, limit);
            }
            out.push(']');
        }
        Value::Map(map) => {
            out.push('{');
            for (at, (key, item)) in map.iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                out.push('\'');
                out.push_str(key);
                out.push_str("': ");
                render(item, out, limit);
            }
            out.push('}');
        }
    }
}

/// Reads a document.
///
/// # Errors
/// If it is not YAML, holds several documents, has keys that are not scalars, or
/// goes beyond the parser's budgets.
pub fn parse(text: &str) -> Result<Value, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
    };
    let shape = serde_saphyr::with_deserializer_from_str_with_options(
        text,
        options.clone(),
        |deserializer| ShapeSeed.deserialize(deserializer),
    )?;
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        shape.deserialize(deserializer)
    })
}

/// A value without the text of its scalars.
enum Shape {
    Null,
    Scalar(ScalarKind),
    List(Vec<Shape>),
    Map(Vec<Shape>),
}

struct ShapeSeed;

impl<'de> DeserializeSeed<'de> for ShapeSeed {
    type Value = Shape;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ShapeSeed {
    type Value = Shape;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }

    fn visit_none<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Scalar(ScalarKind::Bool))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Scalar(ScalarKind::Number))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Shape, E> {
        Ok(Shape::Scalar(ScalarKind::Number))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Scalar(ScalarKind::Number))
    }

    fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
        Ok(Shape::Scalar(ScalarKind::Text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Shape, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(ShapeSeed)? {
            items.push(item);
        }
        Ok(Shape::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Shape, A::Error> {
        let mut values = Vec::new();
        while access.next_key::<String>()?.is_some() {
            values.push(access.next_value_seed(ShapeSeed)?);
        }
        Ok(Shape::Map(values))
    }
}

impl<'de> DeserializeSeed<'de> for Shape {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self {
            Shape::Null => deserializer.deserialize_any(TextVisitor(Shape::Null)),
            Shape::Scalar(kind) => deserializer.deserialize_str(TextVisitor(Shape::Scalar(kind))),
            Shape::List(items) => deserializer.deserialize_seq(TextVisitor(Shape::List(items))),
            Shape::Map(values) => deserializer.deserialize_map(TextVisitor(Shape::Map(values))),
        }
    }
}

/// The second reading; what it meets has the shape that it carries.
struct TextVisitor(Shape);

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.0 {
            Shape::Null => "null",
            Shape::Scalar(_) => "a scalar",
            Shape::List(_) => "a list",
            Shape::Map(_) => "a mapping",
        })
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        match self.0 {
            // PyYAML, and so DIB, takes `y` and `n` for text.
            Shape::Scalar(ScalarKind::Bool) if text.len() == 1 => Ok(Value::text(text)),
            // So it does with numbers of newer rules, such as `1e3`, `0o10` and `08`.
            Shape::Scalar(ScalarKind::Number) if Number::parse(text).is_none() => {
                Ok(Value::text(text))
            }
            Shape::Scalar(kind) => Ok(Value::Scalar(Scalar {
                text: text.to_owned(),
                kind,
            })),
            _ => Err(E::invalid_type(serde::de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let Shape::List(shapes) = self.0 else {
            return Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &self));
        };
        let mut items = Vec::with_capacity(shapes.len());
        for shape in shapes {
            let missing = items.len();
            items.push(
                access
                    .next_element_seed(shape)?
                    .ok_or_else(|| A::Error::invalid_length(missing, &"the same list again"))?,
            );
        }
        // Lets the parser see the end of the list.
        if access.next_element::<serde::de::IgnoredAny>()?.is_some() {
            return Err(A::Error::invalid_length(
                items.len(),
                &"the same list again",
            ));
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let Shape::Map(shapes) = self.0 else {
            return Err(A::Error::invalid_type(serde::de::Unexpected::Map, &self));
        };
        let mut map = Map::default();
        for shape in shapes {
            let key = access
                .next_key::<String>()?
                .ok_or_else(|| A::Error::invalid_length(map.len(), &"the same mapping again"))?;
            map.set(key, access.next_value_seed(shape)?);
        }
        if access.next_key::<String>()?.is_some() {
            return Err(A::Error::invalid_length(
                map.len(),
                &"the same mapping again",
            ));
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value_of(text: &str, key: &str) -> Value {
        match parse(text).unwrap() {
            Value::Map(map) => map.get(key).unwrap().clone(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn scalars_keep_the_text_that_was_written() {
        for text in [
            "8E00", "EF00", "8300", "0700", "0x83", "1_000", "2:30", "no", "1e3", "100%", "1.5G",
            "1e999", "NaN", "-0",
        ] {
            assert_eq!(
                value_of(&format!("type: {text}"), "type").as_text(),
                Some(text)
            );
            assert_eq!(
                value_of(&format!("type: '{text}'"), "type").as_text(),
                Some(text)
            );
        }
        assert_eq!(value_of("a: ", "a"), Value::Null);
        assert_eq!(value_of("a: ~", "a"), Value::Null);
        assert_eq!(value_of("a: ''", "a"), Value::text(""));
        assert_eq!(value_of("a: 'null'", "a"), Value::text("null"));
    }

    #[test]
    fn the_last_of_equal_keys_counts() {
        assert_eq!(value_of("a: 1\nb: 2\na: x\n", "a"), Value::text("x"));
        assert_eq!(
            parse("{a: 1, b: 2, a: x}").unwrap().to_string(),
            "{'a': 'x', 'b': 2}"
        );
    }

    #[test]
    fn single_letters_are_text() {
        for (text, kind) in [
            ("y", ScalarKind::Text),
            ("N", ScalarKind::Text),
            ("yes", ScalarKind::Bool),
            ("off", ScalarKind::Bool),
        ] {
            let Value::Scalar(scalar) = value_of(&format!("a: {text}"), "a") else {
                panic!("{text}")
            };
            assert_eq!((scalar.text.as_str(), scalar.kind), (text, kind));
        }
    }

    #[test]
    fn numbers_are_those_of_yaml_1_1() {
        for (text, value) in [
            ("0", 0),
            ("2", 2),
            ("+5", 5),
            ("-0", 0),
            ("-7", -7),
            ("010", 8),
            ("0x10", 16),
            ("+0x1F", 31),
            ("0x_f", 15),
            ("0b11", 3),
            ("1_000", 1000),
            ("2_", 2),
            ("1:30", 90),
            ("190:20:30", 685_230),
        ] {
            assert_eq!(Number::parse(text), Some(Number::Integer(value)), "{text}");
        }
        for (text, value) in [
            ("2.0", 2.0),
            ("-2.5", -2.5),
            ("1.", 1.0),
            (".5", 0.5),
            ("1_0.5", 10.5),
            ("1.0e+3", 1000.0),
            ("190:20:30.15", 685_230.15),
            ("-.inf", f64::NEG_INFINITY),
        ] {
            assert_eq!(Number::parse(text), Some(Number::Float(value)), "{text}");
        }
        for text in [
            "", "-", "1e3", "12e03", "0o10", "08", "_2", "1,000", "1:60", "1.0e3", "+.5", ".",
            "._5", "0x", "0b", "0b2", "0xg", "inf", "NaN", "1.5G", "2:", "1.2.3", "é", "-é",
        ] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
        let kind = |text: &str| match value_of(&format!("a: {text}"), "a") {
            Value::Scalar(scalar) => scalar.kind,
            other => panic!("{text}: {other}"),
        };
        assert_eq!(kind("1e3"), ScalarKind::Text);
        assert_eq!(kind("1_000"), ScalarKind::Number);
        assert_eq!(kind("2.0"), ScalarKind::Number);
    }

    #[test]
    fn aliases_and_merge_keys_are_expanded() {
        let text = "x: &d {size: 1G, type: 0x83}\ny: {<<: *d, size: 2G}\nz: *d\n";
        let value = parse(text).unwrap().to_string();
        assert!(
            value.contains("'z': {'size': '1G', 'type': 0x83}"),
            "{value}"
        );
        let y = value_of(text, "y");
        let Value::Map(y) = y else { panic!("{y}") };
        assert_eq!(y.get("size").and_then(Value::as_text), Some("2G"));
        assert_eq!(y.get("type").and_then(Value::as_text), Some("0x83"));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "\\PC*|[-a-z0-9:&*<>{}\\[\\]!|'\"#,%? \n]*") {
            let _ = parse(&text);
        }
    }
}
