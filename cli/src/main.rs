//! The `rendez` executable: everything is in the library.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    rendez_cli::main()
}
