//! The arguments of `rendez bench`.

use super::STANDARD_OUTPUT;
use clap::{Args, Subcommand};
use rendez_bench::report::Cores;
use std::path::PathBuf;

/// `rendez bench`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Bench {
    /// Something else than measuring
    #[command(subcommand)]
    pub action: Option<BenchAction>,
    /// What to find out; without names, what is usual. `--list` shows all
    #[arg(value_name = "EXPERIMENT")]
    pub experiments: Vec<String>,
    /// A first look: under 20 seconds, fewer sizes, wider spreads
    #[arg(long)]
    pub quick: bool,
    /// Show the experiments and mechanisms that there are, and measure nothing
    #[arg(long)]
    pub list: bool,
    /// Only these mechanisms, by name (rendez) or with the wait policy (rendez-spin)
    #[arg(long, value_delimiter = ',', num_args = 1.., value_name = "NAME")]
    pub only: Vec<String>,
    /// Only these payloads: 8, 256, 4KiB, 1MiB, …
    #[arg(long, value_delimiter = ',', num_args = 1.., value_name = "SIZE", value_parser = payload)]
    pub payload: Vec<usize>,
    /// Only on these cores: two (a core each), awake (the same, kept from halting), one (for both)
    #[arg(long, value_delimiter = ',', num_args = 1.., value_name = "CORES", value_parser = cores)]
    pub cores: Vec<Cores>,
    /// About how long all of it may take
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: Option<u32>,
    /// Write the report to FILE as JSON, beside the table; without FILE, to standard output instead
    #[arg(long, num_args = 0..=1, default_missing_value = STANDARD_OUTPUT, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report to FILE as a page with plots, which needs no network
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// What `rendez bench` can do besides measuring.
#[derive(Debug, Subcommand)]
pub enum BenchAction {
    /// What changed from one report to another
    Compare {
        /// The first report, as `bench --json FILE` wrote it
        first: PathBuf,
        /// The second one
        second: PathBuf,
        /// Write the changes to FILE as JSON, beside the table; without FILE, to standard output
        /// instead
        #[arg(long, num_args = 0..=1, default_missing_value = STANDARD_OUTPUT, value_name = "FILE")]
        json: Option<PathBuf>,
    },
}

/// A payload as people write it.
fn payload(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: usize = digits
        .trim()
        .parse()
        .map_err(|_| "a size is a number, as in 40, 4KiB or 1MiB".to_owned())?;
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        other => return Err(format!("{other:?} is no unit; take B, KiB or MiB")),
    };
    number.checked_mul(unit).ok_or_else(|| "that is too large".to_owned())
}

/// Cores by name.
fn cores(text: &str) -> Result<Cores, String> {
    match text {
        "1" => Ok(Cores::One),
        "2" => Ok(Cores::Two),
        name => Cores::ALL
            .into_iter()
            .find(|cores| cores.name() == name)
            .ok_or_else(|| "choose from: two, awake, one".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{cores, payload};
    use rendez_bench::report::Cores;

    #[test]
    fn payloads() {
        for (text, bytes) in
            [("8", 8), ("40B", 40), ("4KiB", 4096), ("4k", 4096), ("16MiB", 16 << 20)]
        {
            assert_eq!(payload(text), Ok(bytes), "{text}");
        }
        for text in
            ["", "KiB", "4GiB", "-8", "8.5", "ä", "99999999999999999999", "18446744073709551615k"]
        {
            assert!(payload(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cores_by_name_or_number() {
        for (text, expected) in
            [("two", Cores::Two), ("2", Cores::Two), ("awake", Cores::Awake), ("1", Cores::One)]
        {
            assert_eq!(cores(text), Ok(expected));
        }
        assert!(cores("three").is_err());
    }
}
