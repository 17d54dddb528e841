//! Small YAML (and JSON) documents with the order of their keys kept.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};

/// A map in the order in which it is written; a later duplicate replaces the earlier one in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ordered<V>(pub Vec<(String, V)>);

impl<V> Default for Ordered<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Ordered<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = Ordered<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries: Vec<(String, V)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, V>()? {
                    match entries.iter_mut().find(|(known, _)| *known == key) {
                        Some((_, old)) => *old = value,
                        None => entries.push((key, value)),
                    }
                }
                Ok(Ordered(entries))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Ordered::default())
            }

            fn visit_none<E>(self) -> Result<Self::Value, E> {
                Ok(Ordered::default())
            }
        }
        deserializer.deserialize_any(Entries(PhantomData))
    }
}

/// Reads a document as JSON and, where it is none, as YAML.
pub(crate) fn json_or_yaml<T: DeserializeOwned + Default>(text: &str) -> Result<T, String> {
    if text.trim().is_empty() {
        return Ok(T::default());
    }
    match serde_json::from_str(text) {
        Ok(value) => Ok(value),
        Err(_) => yaml(text),
    }
}

/// Reads a YAML document.
pub(crate) fn yaml<T: DeserializeOwned + Default>(text: &str) -> Result<T, String> {
    // As in Python, the later of two keys counts.
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins,
    };
    serde_saphyr::from_str_with_options::<Option<T>>(text, options)
        .map(Option::unwrap_or_default)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_keep_the_order_of_the_file() {
        let value: Ordered<i32> = yaml("b: 1\na: 2\n").unwrap();
        assert_eq!(value.0, [("b".into(), 1), ("a".into(), 2)]);
        let value: Ordered<i32> = yaml("b: 1\na: 2\nb: 3\n").unwrap();
        assert_eq!(value.0, [("b".into(), 3), ("a".into(), 2)]);
        let value: Ordered<i32> = json_or_yaml("{\"b\": 1, \"a\": 2, \"b\": 3}").unwrap();
        assert_eq!(value.0, [("b".into(), 3), ("a".into(), 2)]);
    }

    #[test]
    fn an_empty_document_is_an_empty_map() {
        for text in ["", "---\n", "# nothing\n", "null", "{}"] {
            assert_eq!(
                json_or_yaml::<Ordered<i32>>(text).unwrap().0,
                [],
                "{text:?}"
            );
        }
        assert!(json_or_yaml::<Ordered<i32>>("- a\n").is_err());
    }
}
