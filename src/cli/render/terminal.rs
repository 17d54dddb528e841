//! Makes foreign text safe for a terminal.

/// The last visible state of a line that a program printed.
///
/// Hooks are not trusted: escape sequences and control characters, which could
/// retitle, clear or reprogram the user's terminal, are removed. Of a line that
/// redrew itself with carriage returns only the final state is kept.
pub fn visible(line: &str) -> String {
    let line = line.trim_end_matches(['\r', '\n']);
    let line = line.rsplit('\r').next().unwrap_or_default();
    let mut text = String::with_capacity(line.len());
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\x1b' => skip_escape(&mut characters),
            '\t' => text.push_str("    "),
            control if control.is_control() || is_bidi_control(control) => {}
            other => text.push(other),
        }
    }
    text
}

/// Characters that reorder the text around them.
fn is_bidi_control(character: char) -> bool {
    matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Skips the rest of an escape sequence (ECMA-48 §5.4, §5.6).
fn skip_escape(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match characters.next() {
        // Control sequence: parameters, then one final byte.
        Some('[') => {
            for character in characters.by_ref() {
                if ('\x40'..='\x7e').contains(&character) {
                    return;
                }
            }
        }
        // Control strings: up to BEL or ESC \.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(character) = characters.next() {
                match character {
                    '\x07' => return,
                    '\x1b' => {
                        characters.next_if_eq(&'\\');
                        return;
                    }
                    _ => {}
                }
            }
        }
        // Two characters, or three where the second is an intermediate byte.
        Some('\x20'..='\x2f') => {
            characters.next();
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::visible;

    #[test]
    fn only_what_would_be_seen_remains() {
        for (line, seen) in [
            ("plain text", "plain text"),
            ("\x1b[1;31mred\x1b[0m", "red"),
            ("\x1b]0;title\x07after", "after"),
            ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("10%\r50%\r100%", "100%"),
            ("done\r\n", "done"),
            ("a\tb\x07\x08", "a    b"),
            ("\x1b(Bcharset", "charset"),
            ("\x1b", ""),
            ("\x1b[", ""),
            ("\u{202e}txt", "txt"),
        ] {
            assert_eq!(visible(line), seen, "{line:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_controls_a_terminal_remains(line in "[\\x00-\\x7f\u{80}-\u{ff}]{0,40}") {
            assert!(!visible(&line).chars().any(char::is_control));
        }
    }
}
