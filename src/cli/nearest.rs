//! “Did you mean”: the known word closest to a mistyped one.

use crate::element::similar::edit_distance;

/// The word of `known` that `word` was most likely meant to be.
///
/// Nothing is offered when more than a third of the word would have to change.
/// Among equals the first in the order of `known` wins.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Foreign input may be absurdly long; the cost is quadratic.
    if word.len() > 200 {
        return None;
    }
    let allowed = (word.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (edit_distance(word, candidate), candidate))
        .filter(|&(changes, _)| changes <= allowed)
        .min_by_key(|&(changes, _)| changes)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_near_words_are_offered() {
        let known = ["raw", "qcow2", "tar"];
        assert_eq!(nearest("qcow", known), Some("qcow2"));
        assert_eq!(nearest("rwa", known), Some("raw"));
        assert_eq!(nearest("iso9660", known), None);
        assert_eq!(nearest(&"x".repeat(10_000), known), None);
    }

    proptest::proptest! {
        #[test]
        fn a_known_word_is_nearest_to_itself(word in "[a-z-]{1,20}") {
            assert_eq!(nearest(&word, ["zzz-other", &word]), Some(word.as_str()));
        }
    }
}
