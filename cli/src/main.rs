//! The `rendez` executable: everything is in the library.

fn main() -> std::process::ExitCode {
    rendez_cli::main()
}
