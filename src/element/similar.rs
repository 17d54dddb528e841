//! Which names somebody may have meant.

/// Up to three of `known` that look like `name`, best first: misspellings, then
/// names of which one contains the other.
pub(super) fn names<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    let limit = (name.chars().count() / 3).max(1);
    let mut found: Vec<(usize, &str)> = known
        .filter_map(|known| {
            let distance = edit_distance(name, known);
            let is_part =
                name.len() >= 3 && known.contains(name) || known.len() >= 3 && name.contains(known);
            match (distance <= limit, is_part) {
                (true, _) => Some((distance, known)),
                (false, true) => Some((limit + distance, known)),
                (false, false) => None,
            }
        })
        .collect();
    found.sort();
    found
        .into_iter()
        .take(3)
        .map(|(_, known)| known.to_owned())
        .collect()
}

/// The one of `known` that `name` is a slip of: one or two edits away, and long
/// enough for that to be no coincidence.
pub(crate) fn misspelt<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 6).min(2);
    known
        .map(|known| (edit_distance(name, known), known))
        .filter(|&(distance, _)| distance <= limit)
        .min()
        .map(|(_, known)| known)
}

/// Edits (insert, delete, replace, swap neighbours) between two names: the restricted
/// Damerau–Levenshtein distance, counted in characters.
pub(crate) fn edit_distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before = vec![0; b.len() + 1];
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (previous[j] + 1)
                .min(row[j - 1] + 1)
                .min(previous[j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut previous, row);
    }
    previous[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspellings_come_before_parts() {
        let known = ["debian", "debian-minimal", "ubuntu", "vm"];
        for (name, expected) in [
            ("debain", vec!["debian"]),
            ("minimal", vec!["debian-minimal"]),
            ("mv", vec!["vm"]),
            ("debians", vec!["debian"]),
            ("zzzzzz", vec![]),
        ] {
            assert_eq!(names(name, known.into_iter()), expected, "{name}");
        }
    }

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
            assert_eq!(edit_distance(from, to), changes, "{from} → {to}");
            assert_eq!(edit_distance(to, from), changes, "{to} → {from}");
        }
    }

    proptest::proptest! {
        #[test]
        fn distance_is_symmetric_and_bounded(a in "[a-c]{0,8}", b in "[a-c]{0,8}") {
            let distance = edit_distance(&a, &b);
            proptest::prop_assert_eq!(distance, edit_distance(&b, &a));
            proptest::prop_assert!(distance <= a.len().max(b.len()));
            proptest::prop_assert_eq!(distance == 0, a == b);
        }
    }
}
