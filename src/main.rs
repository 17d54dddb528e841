//! Picks the program by the name it was called by and returns its exit code.

fn main() -> std::process::ExitCode {
    kiln::cli::main(std::env::args_os())
}
