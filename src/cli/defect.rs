//! What users read where kiln itself is at fault: a message as any other, and no panic.

use std::backtrace::Backtrace;
use std::io::Write as _;
use std::panic::PanicHookInfo;

use super::Failure;
use super::failure::render;
use super::printer::Printer;
use crate::sandbox::is_engine;

/// Has every panic printed as a failure that asks to be reported.
///
/// `RUST_BACKTRACE` adds a backtrace, but in the engine: hooks may have taken the memory that
/// it needs.
pub fn explain_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let text = render(&failure(panic), Printer::standard().err_colour);
        let mut err = std::io::stderr().lock();
        // There is nobody left to tell when standard error fails.
        let _ = writeln!(err, "{text}");
        if !is_engine() && std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            let _ = writeln!(err, "{}", Backtrace::force_capture());
        }
    }));
}

fn failure(panic: &PanicHookInfo<'_>) -> Failure {
    let place = panic.location().map_or_else(String::new, |location| {
        format!(" ({}:{})", location.file(), location.line())
    });
    Failure::new(format!(
        "kiln has a defect: {}{place}",
        panic.payload_as_str().unwrap_or("it ended early")
    ))
    .hint(format!(
        "this is no fault of yours: report it, with the command line and what was printed, to \
         who made this kiln {}",
        env!("CARGO_PKG_VERSION")
    ))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Set in the process that is to panic: what handles panics is there for all threads.
    const PANICS: &str = "KILN_TEST_PANICS";

    #[test]
    fn a_panic_reads_as_a_failure() {
        if std::env::var_os(PANICS).is_some() {
            explain_panics();
            std::panic::panic_any("the\tfirst");
        }
        let said = |backtrace: &str| {
            let output = Command::new(std::env::current_exe().expect("known"))
                .args(["a_panic_reads_as_a_failure", "--nocapture"])
                .env(PANICS, "1")
                .env("RUST_BACKTRACE", backtrace)
                .output()
                .expect("run");
            assert!(!output.status.success());
            String::from_utf8_lossy(&output.stderr).into_owned()
        };
        let plain = said("0");
        let mut lines = plain.lines();
        let first = lines.next().expect("a line");
        assert!(
            first.starts_with("error: kiln has a defect: the\\tfirst (src/cli/defect.rs:"),
            "{plain}"
        );
        let second = lines.next().expect("another one");
        assert!(
            second.starts_with("hint: this is no fault of yours"),
            "{plain}"
        );
        assert!(!plain.contains("panicked"), "{plain}");
        assert!(said("1").contains("a_panic_reads_as_a_failure"));
    }
}
