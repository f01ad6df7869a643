//! The laboratory by itself: client and partner in one small program.
//!
//! `cargo run --release -p rendez-bench --example lab -- [--quick] [--json] [--compare] [name…]`

use std::env;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use rendez_bench::{Options, PARTNER, Progress};

fn main() -> ExitCode {
    match lab() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn lab() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    if let Some((first, rest)) = args.split_first()
        && first == PARTNER
    {
        return Ok(rendez_bench::partner(rest)?);
    }
    let color = io::stdout().is_terminal();
    let exe = env::current_exe()?;
    if args.iter().any(|arg| arg == "--compare") {
        print!("{}", rendez_bench::quick_compare(&exe)?.table(color));
        return Ok(());
    }
    let mut options = Options::new(exe);
    options.quick = args.iter().any(|arg| arg == "--quick");
    let names = args.iter().filter(|arg| !arg.starts_with('-')).cloned();
    (options.experiments, options.only) =
        names.partition(|name| rendez_bench::experiment::find(name).is_some());
    let terminal = io::stderr().is_terminal();
    let mut shown = 0;
    let report = rendez_bench::run(&options, &mut |Progress { done, what, .. }| {
        let percent = (done * 100.0) as u32;
        if terminal && percent > shown {
            shown = percent;
            eprint!("\r{percent:3} % {what:<40}\r");
        }
    })?;
    if args.iter().any(|arg| arg == "--json") {
        println!("{}", report.to_json()?);
    } else {
        print!("{}", report.table(color));
    }
    Ok(())
}
