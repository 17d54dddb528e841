//! “Did you mean”: the known word closest to a mistyped one.

/// Changes between two words: insert, delete, replace, or swap two neighbours.
///
/// This is the restricted Damerau–Levenshtein distance (optimal string
/// alignment), counted in characters.
fn distance(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().collect();
    let to: Vec<char> = to.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    for (i, &a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &b) in to.iter().enumerate() {
            let replaced = above[j] + usize::from(a != b);
            let mut best = replaced.min(above[j + 1] + 1).min(row[j] + 1);
            let swapped = i > 0 && j > 0 && a == to[j - 1] && from[i - 1] == b;
            if swapped {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[to.len()]
}

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
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|&(changes, _)| changes <= allowed)
        .min_by_key(|&(changes, _)| changes)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_edits_and_swaps() {
        for (from, to, changes) in [
            ("", "", 0),
            ("", "abc", 3),
            ("raw", "raw", 0),
            ("qcwo2", "qcow2", 1),
            ("offlin", "offline", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(from, to), changes, "{from} → {to}");
            assert_eq!(distance(to, from), changes, "{to} → {from}");
        }
    }

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
