//! Control files: paragraphs of `Field: value` with continuation lines.
//!
//! The format is deb-control(5) and deb822(5). Parsing borrows from the text:
//! a `Packages` index has sixty thousand paragraphs of which a few dozen matter.

/// A paragraph: fields in their order, borrowed from the text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paragraph<'a> {
    fields: Vec<(&'a str, &'a str)>,
}

/// Why a text is not a control file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ParseControlError {
    /// Line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl<'a> Paragraph<'a> {
    /// Returns the value of a field, whose name is compared without case.
    ///
    /// The value is everything after the colon without surrounding white space;
    /// continuation lines are included with their line breaks.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.fields
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value)
    }

    /// Iterates over the fields in their order.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, &'a str)> + '_ {
        self.fields.iter().copied()
    }

    /// Iterates over the non-empty lines of a field, without surrounding white space.
    pub fn lines(&self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.get(name)
            .unwrap_or("")
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
    }

    fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

/// Iterates over the paragraphs of a control file.
pub fn paragraphs(text: &str) -> Paragraphs<'_> {
    Paragraphs {
        text,
        at: 0,
        line: 0,
    }
}

/// Parses a text that has exactly one paragraph.
pub fn single(text: &str) -> Result<Paragraph<'_>, ParseControlError> {
    let mut all = paragraphs(text);
    let first = all.next().unwrap_or(Err(ParseControlError {
        line: 1,
        reason: "there is no paragraph",
    }))?;
    match all.next() {
        None => Ok(first),
        Some(Err(error)) => Err(error),
        Some(Ok(_)) => Err(ParseControlError {
            line: all.line,
            reason: "there is more than one paragraph",
        }),
    }
}

/// Iterator of [`paragraphs`].
#[derive(Debug, Clone)]
pub struct Paragraphs<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Paragraphs<'a> {
    /// Takes the next line without its line break, and its offset.
    fn take_line(&mut self) -> Option<(usize, &'a str)> {
        if self.at >= self.text.len() {
            return None;
        }
        let start = self.at;
        let rest = &self.text[start..];
        let length = rest.find('\n').unwrap_or(rest.len());
        self.at = (start + length + 1).min(self.text.len());
        self.line += 1;
        Some((start, &rest[..length]))
    }
}

impl<'a> Iterator for Paragraphs<'a> {
    type Item = Result<Paragraph<'a>, ParseControlError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut paragraph = Paragraph::default();
        // The field being read: name, offset where its value begins, and ends so far.
        let mut open: Option<(&'a str, usize, usize)> = None;
        let text = self.text;
        while let Some((start, line)) = self.take_line() {
            if line.trim().is_empty() {
                if open.is_some() {
                    break;
                }
                continue;
            }
            if line.starts_with('#') {
                continue;
            }
            let end = start + line.len();
            if line.starts_with([' ', '\t']) {
                match &mut open {
                    Some((_, _, value_end)) => *value_end = end,
                    None => {
                        return Some(Err(ParseControlError {
                            line: self.line,
                            reason: "a continuation line has no field before it",
                        }));
                    }
                }
                continue;
            }
            let Some(colon) = line.find(':').filter(|colon| *colon > 0) else {
                return Some(Err(ParseControlError {
                    line: self.line,
                    reason: "there is no `Field:` at its begin",
                }));
            };
            if let Some((name, from, to)) = open.replace((&line[..colon], start + colon + 1, end)) {
                paragraph.fields.push((name, text[from..to].trim()));
            }
        }
        if let Some((name, from, to)) = open {
            paragraph.fields.push((name, text[from..to].trim()));
        }
        (!paragraph.is_empty()).then_some(Ok(paragraph))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paragraphs_and_continuations_are_split() {
        let text =
            "\n\nPackage: a\nDescription: one\n two\n .\n three\n# note\nTag: x\n\n \nPackage: b\n";
        let all: Vec<_> = paragraphs(text).collect::<Result<_, _>>().expect("valid");
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].get("package"), Some("a"));
        assert_eq!(all[0].get("Description"), Some("one\n two\n .\n three"));
        assert_eq!(all[0].get("Tag"), Some("x"));
        assert_eq!(all[1].get("Package"), Some("b"));
        assert_eq!(all[1].lines("Missing").count(), 0);
    }

    #[test]
    fn malformed_lines_are_named() {
        for (text, line) in [(" x\n", 1), ("A: b\nnonsense\n", 2), (": x\n", 1)] {
            let error = paragraphs(text).find_map(Result::err).expect("an error");
            assert_eq!(error.line, line, "{text:?}");
        }
        assert!(single("").is_err());
        assert!(single("A: b\n\nA: c\n").is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(fields in prop::collection::vec(("[A-Za-z][A-Za-z0-9-]{0,8}", "[!-~][ -~]{0,12}[!-~]"), 1..6)) {
            let text: String = fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
            let read = single(&text).expect("valid");
            let read: Vec<(String, String)> = read.fields().map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
            prop_assert_eq!(read, fields);
        }

        #[test]
        fn parsing_never_panics(text in "(\\PC|\n| |:){0,60}") {
            for paragraph in paragraphs(&text) {
                if paragraph.is_err() { break; }
            }
        }
    }
}
