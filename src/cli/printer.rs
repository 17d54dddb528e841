//! Where every byte of output goes through.
//!
//! Standard output carries data, standard error the rest. A reader that went
//! away (`kiln … | head`) is no failure: what is printed after that is dropped
//! and the command goes on to its own exit status. Output that is lost in another
//! way, such as on a full disk, makes the command fail. `print!` and its kin are not
//! used anywhere in kiln, since they panic there.

use std::borrow::Cow;
use std::env;
use std::fmt::{self, Display, Write as _};
use std::io::{self, IsTerminal as _, Write};

use serde::Serialize;

/// Whether escape sequences for colour are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Colour(bool);

/// What a piece of text means; colour only underlines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Something failed.
    Error,
    /// Something is unexpected.
    Warning,
    /// Something went well.
    Good,
    /// A name, a path or advice.
    Accent,
    /// Headings and totals.
    Strong,
    /// Secondary facts.
    Dim,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Self::Error => "1;31",
            Self::Warning => "1;33",
            Self::Good => "32",
            Self::Accent => "36",
            Self::Strong => "1",
            Self::Dim => "2",
        }
    }
}

impl Colour {
    /// Never writes escape sequences.
    pub const OFF: Self = Self(false);
    /// Always writes them.
    pub const ON: Self = Self(true);

    /// Colour on a terminal, unless `NO_COLOR` is set or the terminal is dumb.
    pub fn detect(terminal: bool) -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self(terminal && !refused && !terminal_is_dumb())
    }

    /// `text` in the colour of its meaning.
    pub fn paint(self, tone: Tone, text: impl Display) -> String {
        if self.0 {
            format!("\x1b[{}m{text}\x1b[0m", tone.code())
        } else {
            text.to_string()
        }
    }
}

/// Whether `TERM` says that the terminal cannot move its cursor.
pub fn terminal_is_dumb() -> bool {
    env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// `text` on one line and with its control characters escaped, as `kiln ls` shows names:
/// what comes from an archive, an image or an element can then neither send commands to a
/// terminal nor begin a line that looks like one of kiln's own.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Standard output and standard error of a command.
pub struct Printer {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    out_open: bool,
    /// Why output is missing, if its reader did not go away.
    lost: Option<io::Error>,
    /// Colour of standard output.
    pub out_colour: Colour,
    /// Colour of standard error.
    pub err_colour: Colour,
}

impl fmt::Debug for Printer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Printer")
            .field("out_open", &self.out_open)
            .field("out_colour", &self.out_colour)
            .field("err_colour", &self.err_colour)
            .finish_non_exhaustive()
    }
}

impl Printer {
    /// The streams of this process.
    pub fn standard() -> Self {
        Self {
            out_colour: Colour::detect(io::stdout().is_terminal()),
            err_colour: Colour::detect(io::stderr().is_terminal()),
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            out_open: true,
            lost: None,
        }
    }

    /// Two streams of the caller's, without colour.
    pub fn to(out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        Self {
            out,
            err,
            out_open: true,
            lost: None,
            out_colour: Colour::OFF,
            err_colour: Colour::OFF,
        }
    }

    /// Writes `text` to standard output as it is.
    pub fn data(&mut self, text: impl Display) {
        if self.out_open {
            let sent = write!(self.out, "{text}").and_then(|()| self.out.flush());
            self.note_end(sent);
        }
    }

    /// Writes a value to standard output as JSON of several lines.
    pub fn json(&mut self, value: &impl Serialize) -> serde_json::Result<()> {
        let text = serde_json::to_string_pretty(value)?;
        self.line(without_controls(&text));
        Ok(())
    }

    /// The same on one line.
    pub fn json_line(&mut self, value: &impl Serialize) -> serde_json::Result<()> {
        let text = serde_json::to_string(value)?;
        self.line(without_controls(&text));
        Ok(())
    }

    /// Writes bytes to standard output as they are; false if nobody reads them.
    pub fn bytes(&mut self, bytes: &[u8]) -> bool {
        if self.out_open {
            let sent = self.out.write_all(bytes).and_then(|()| self.out.flush());
            self.note_end(sent);
        }
        self.out_open
    }

    /// Ends standard output with the first error.
    fn note_end(&mut self, sent: io::Result<()>) {
        let Err(error) = sent else { return };
        self.out_open = false;
        if error.kind() != io::ErrorKind::BrokenPipe {
            self.lost = Some(error);
        }
    }

    /// Why a part of standard output is missing where somebody wanted it.
    pub fn take_lost(&mut self) -> Option<io::Error> {
        self.lost.take()
    }

    /// Writes `text` and a newline to standard output.
    pub fn line(&mut self, text: impl Display) {
        self.data(format_args!("{text}\n"));
    }

    /// Writes `text` and a newline to standard error.
    pub fn note(&mut self, text: impl Display) {
        // Nobody is left to tell when standard error is gone.
        let _ = writeln!(self.err, "{text}");
    }
}

/// The same for text of several lines, whose line ends and tabs stay.
pub fn printable_lines(text: &str) -> String {
    text.split_inclusive(['\n', '\t'])
        .map(|part| {
            let end = part.len() - usize::from(part.ends_with(['\n', '\t']));
            let (words, end) = part.split_at(end);
            printable(words) + end
        })
        .collect()
}

/// A table of left-aligned columns, without trailing blanks. Its cells are [`printable`].
///
/// The last column is never padded; a row may have fewer cells than others.
pub fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| printable(cell)).collect())
        .collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// JSON with escapes for what a terminal may take as a command of its own: delete and the control
/// characters of ISO 6429 beyond ASCII, which JSON itself leaves as they are (RFC 8259, section 7).
/// They stand in strings alone.
fn without_controls(json: &str) -> Cow<'_, str> {
    let is_left = |letter: char| letter.is_control() && letter > ' ';
    if !json.contains(is_left) {
        return json.into();
    }
    let mut escaped = String::with_capacity(json.len());
    for letter in json.chars() {
        if is_left(letter) {
            let _ = write!(escaped, "\\u{:04x}", u32::from(letter));
        } else {
            escaped.push(letter);
        }
    }
    escaped.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_no_control_characters_but_means_the_same() {
        let text = "a\u{1b}\u{7f}\u{80}\u{9b}31m\u{9f}\u{a0}\u{e9}\n";
        let json = serde_json::to_string(text).expect("a string");
        let escaped = without_controls(&json);
        assert_eq!(
            escaped,
            "\"a\\u001b\\u007f\\u0080\\u009b31m\\u009f\u{a0}\u{e9}\\n\""
        );
        let read: String = serde_json::from_str(&escaped).expect("it is JSON");
        assert_eq!(read, text);
        assert!(matches!(without_controls("{\n}"), Cow::Borrowed(_)));
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from(io::ErrorKind::BrokenPipe))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_drops_the_rest_silently() {
        let mut printer = Printer::to(Box::new(Closed), Box::new(Closed));
        printer.line("one");
        printer.line("two");
        printer.note("three");
        assert!(!printer.out_open);
        assert!(printer.take_lost().is_none());
    }

    #[test]
    fn output_that_is_lost_on_a_full_disk_is_remembered() {
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("every Linux has it");
        let mut printer = Printer::to(Box::new(full), Box::new(Closed));
        assert!(!printer.bytes(b"one"));
        printer.line("two");
        let lost = printer.take_lost().expect("an error");
        assert_eq!(lost.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn control_characters_are_shown_and_not_sent() {
        for (text, shown) in [
            ("plain `ä` \\ text", "plain `ä` \\ text"),
            ("a\x1b]0;X\x07\nerror: b", "a\\u{1b}]0;X\\u{7}\\nerror: b"),
            ("\x7f\u{9b}\r\t", "\\u{7f}\\u{9b}\\r\\t"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }

    #[test]
    fn lines_and_tabs_of_a_text_stay_and_nothing_else_is_sent() {
        for (text, shown) in [
            ("a\n\n\tb\n", "a\n\n\tb\n"),
            ("a\x1b[2J\r\nb\x07", "a\\u{1b}[2J\\r\nb\\u{7}"),
            ("", ""),
        ] {
            assert_eq!(printable_lines(text), shown);
        }
        let rows = [vec!["\x1b[1m".to_owned(), "b\n".to_owned()]];
        assert_eq!(table(&rows), "\\u{1b}[1m  b\\n\n");
    }

    #[test]
    fn colour_off_leaves_text_alone() {
        assert_eq!(Colour::OFF.paint(Tone::Error, "x"), "x");
        assert_eq!(Colour::ON.paint(Tone::Strong, "x"), "\x1b[1mx\x1b[0m");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![
            vec!["a".to_owned(), "é".to_owned(), "end".to_owned()],
            vec!["long".to_owned(), String::new()],
            vec!["b".to_owned(), "mid".to_owned(), "x".to_owned()],
        ];
        assert_eq!(table(&rows), "a     é    end\nlong\nb     mid  x\n");
    }
}
