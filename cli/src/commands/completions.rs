//! `rendez completions`: a script that completes this command in a shell.

use crate::arguments::Arguments;
use crate::failure::Failure;
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::{ErrorKind, Write};

/// Writes the script to standard output.
///
/// # Errors
/// If that cannot be written.
pub(super) fn run(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut visible(), "rendez", &mut script);
    match std::io::stdout().write_all(&script) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::system("writing standard output", error))
        }
        _ => Ok(()),
    }
}

/// The command without what is hidden, which nobody is to type.
fn visible() -> clap::Command {
    let all = Arguments::command();
    let (kept, bare) = (
        all.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect::<Vec<_>>(),
        clap::Command::new("rendez").args(all.get_arguments().cloned().collect::<Vec<_>>()),
    );
    bare.subcommands(kept)
}

#[cfg(test)]
mod tests {
    use super::visible;

    #[test]
    fn what_is_hidden_is_not_completed() {
        let names: Vec<_> =
            visible().get_subcommands().map(|it| it.get_name().to_owned()).collect();
        assert!(names.iter().any(|name| name == "up"));
        assert!(!names.iter().any(|name| name.starts_with("part-") || name == "bench-partner"));
    }
}
