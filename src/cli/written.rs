//! What `kiln convert` and `kiln pack` say while they write images, and of those that
//! they wrote.

use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};

use super::printer::printable;
use super::{Context, units};
use crate::sink::{Progress, Written};

/// Runs `work` with a bar on the terminal that it moves: step, bytes done, bytes in
/// all.
pub fn with_bar<T>(work: impl FnOnce(Progress<'_>) -> T) -> T {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}")
    {
        bar.set_style(style);
    }
    let result = work(&|step, done, total| {
        bar.set_message(printable(step));
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    result
}

/// Says what was written, by the names to show, and what became of older files.
pub fn report<'a>(
    written: impl IntoIterator<Item = (&'a Path, &'a Written)>,
    context: &mut Context,
) {
    for (shown, one) in written {
        if let Some(renamed) = &one.renamed {
            context.printer.note(format_args!(
                "kept the older image as `{}`",
                renamed.display()
            ));
        }
        context.printer.line(format_args!(
            "{}: {}, virtual {}, file {}, on disk {}",
            shown.display(),
            one.format,
            units::bytes(one.virtual_size),
            units::bytes(one.file_size),
            units::bytes(one.disk_size),
        ));
    }
}
