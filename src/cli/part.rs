//! `IMAGE` and `IMAGE:PARTITION` on the command line.

use std::path::PathBuf;

use super::Context;
use super::failure::Failure;
use crate::inspect::{self, ChooseError, Contents, Image, fs};

/// An image that is open, and the partition that was named.
#[derive(Debug)]
pub struct Opened {
    /// The image.
    pub image: Image,
    /// The path of its file.
    pub path: PathBuf,
    /// The same as the user named it.
    shown: PathBuf,
    /// A number, name or label.
    pub part: Option<String>,
}

/// Opens `IMAGE` or `IMAGE:PARTITION`. A file that has the whole text as its name
/// comes first, since names may have colons.
pub fn open(text: &str, context: &Context) -> Result<Opened, Failure> {
    let whole = context.caller.current_dir.join(text);
    let (shown, part) = match text.rsplit_once(':') {
        Some((file, part)) if !whole.exists() && !file.is_empty() && !part.is_empty() => {
            (file, Some(part.to_owned()))
        }
        _ => (text, None),
    };
    let path = context.caller.current_dir.join(shown);
    let shown = PathBuf::from(shown);
    let image = inspect::open(&path, None)
        .map_err(|error| error.of(&shown))
        .map_err(|error| Failure::from_error(&error).hint_if(error.hint()))?;
    Ok(Opened {
        image,
        path,
        shown,
        part,
    })
}

impl Opened {
    /// What is in the image.
    pub fn contents(&self) -> Result<Contents<'_>, Failure> {
        Contents::read(&self.image).map_err(|error| self.failure(&error, error.hint()))
    }

    /// The filesystem of the partition that was named, or of the root. Says so if
    /// the filesystem was not left cleanly.
    pub fn files<'a>(
        &self,
        contents: &Contents<'a>,
        context: &mut Context,
    ) -> Result<fs::FileSystem<'a>, Failure> {
        let files = contents
            .choose(self.part.as_deref())
            .map_err(|error: ChooseError| self.failure(&error, error.hint()))?;
        if files.is_dirty() {
            context.printer.note(
                "warning: the filesystem was not unmounted cleanly; what is only in its journal is not seen",
            );
        }
        Ok(files)
    }

    /// An error about this image.
    pub fn failure(
        &self,
        error: &(dyn std::error::Error + 'static),
        hint: Option<String>,
    ) -> Failure {
        let mut failure = Failure::from_error(error).hint_if(hint);
        failure.message = format!("{}: {}", self.shown.display(), failure.message);
        failure
    }
}

/// A name from an image as text: what is not printable is escaped, so that no
/// image can send commands to a terminal.
pub fn shown(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\\' => text.push_str("\\\\"),
                char if char.is_control() => text.extend(char.escape_default()),
                char => text.push(char),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_cannot_control_a_terminal() {
        for (name, text) in [
            (&b"plain name"[..], "plain name"),
            (b"\xc3\xa4", "ä"),
            (b"latin-\xe4", "latin-\\xe4"),
            (b"a\x1b[31m\n\\", "a\\u{1b}[31m\\n\\\\"),
        ] {
            assert_eq!(super::shown(name), text);
        }
    }
}
