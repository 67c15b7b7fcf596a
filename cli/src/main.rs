//! The `wsguard` binary: everything is in the library.

fn main() -> std::process::ExitCode {
    wsguard::run(std::env::args_os())
}
