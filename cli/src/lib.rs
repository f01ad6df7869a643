//! The `rendez` command: it starts a system, and is a client of it like any other.
//!
//! - [`arguments`]: what can be said on the command line.
//! - [`system`]: starting and stopping a system: the front door, the kernel, the supervisor.
//! - [`parts`]: the hidden subcommands: this executable as the kernel, or as one of the servers.
//! - [`policy`]: whom the front door lets in.
//! - [`manifest`]: what a system is to consist of, read from a file.
//! - [`commands`]: one module a command; [`demo`] is the largest.
//! - [`failure`], [`output`]: how a command fails; how it says what it has to say.

#![forbid(unsafe_code)]

pub mod arguments;
pub mod commands;
pub mod demo;
pub mod failure;
pub mod manifest;
pub mod output;
pub mod parts;
pub mod policy;
pub mod system;

use clap::Parser;
use std::process::ExitCode;

/// The whole command: reads the arguments, does what they say, and answers the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match arguments::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let wrong = error.use_stderr();
            if wrong && std::env::args_os().any(|argument| argument == "--json") {
                let text = error.render().to_string();
                let failure = failure::Failure::new(failure::USAGE, text.trim());
                output::Output::new(true).failure(&failure);
            } else {
                let _ = error.print();
            }
            return ExitCode::from(if wrong { failure::USAGE } else { 0 });
        }
    };
    let output = output::Output::new(arguments.wants_json());
    if let (Some(file), false, false) =
        (&arguments.json, arguments.wants_json(), arguments.is_bench())
    {
        output.failure(&failure::Failure::new(
            failure::USAGE,
            format!(
                "only `bench` writes its JSON to a file; here, redirect standard output: --json > {}",
                file.display()
            ),
        ));
        return ExitCode::from(failure::USAGE);
    }
    match commands::run(arguments, &output).and_then(|code| output.finish().map(|()| code)) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.code())
        }
    }
}
