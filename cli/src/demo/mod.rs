//! `rendez demo`: the main job, on real input, with what can go wrong going wrong.
//!
//! The demonstration starts a system of its own in a temporary directory and is an ordinary client
//! of it. What it shows is done by further processes, started from this executable as tasks, each
//! with the capabilities it needs: it conducts, looks, and compares.
//!
//! - `stage`: the system, and how a process is started; `guard`: nothing stays behind.
//! - `show`: a line a step; `talk`: what the processes say to each other.
//! - `tree`: the real input and its hashes; `transfer`, `kill`: in, out, and interrupted;
//!   `copier`: the process that copies.
//! - `signals`, `rights`: a step each, and the processes that belong to it.

mod copier;
mod guard;
mod kill;
mod rights;
mod show;
mod signals;
mod stage;
mod talk;
mod transfer;
mod tree;

use crate::arguments::Demo;
use crate::failure::{FAILED, Failure, USAGE};
use crate::output::Output;
use guard::Guard;
use rendez::Task;
use serde_json::json;
use show::{Outcome, Show, count, size};
use stage::Stage;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use talk::{Said, say};
use tree::Tree;

/// After this long, the demonstration has failed: nothing in it may hang.
const LIMIT: Duration = Duration::from_secs(60);
/// How long processes of a system that has been stopped may be seen.
const GONE_AFTER: Duration = Duration::from_secs(2);

/// Shows everything; the exit code.
///
/// # Errors
/// If there is no tree to copy, or no place to work in.
pub fn run(demo: &Demo, output: &Output) -> Result<u8, Failure> {
    if let Some(dir) = demo.dir.as_deref().filter(|dir| !dir.is_dir()) {
        let text = format!("--dir {}: there is no such directory", dir.display());
        return Err(Failure::new(USAGE, text));
    }
    let guard = Guard::start(LIMIT, *output)?;
    let directory = Stage::make_directory(&guard)?;
    let mut show = Show::new(*output, guard.clone());
    let Some(stage) = show.step("boot", |_| boot(&guard, &directory)) else {
        return Ok(show.end());
    };
    let tree = show.step("tree", |_| find_tree(demo.dir.as_deref(), &directory));
    match &tree {
        Some(tree) => {
            let copied =
                show.step("copy in", |bar| Ok(((), transfer::copy_in(&stage, tree, bar)?)));
            match copied {
                Some(()) => {
                    show.step("copy out", |bar| Ok(((), transfer::copy_out(&stage, tree, bar)?)));
                }
                None => show.leave_out("copy out"),
            }
        }
        None => ["copy in", "copy out"].into_iter().for_each(|name| show.leave_out(name)),
    }
    show.step("signals", |bar| Ok(((), signals::show(&stage, bar)?)));
    show.step("rights", |bar| Ok(((), rights::show(&stage, bar)?)));
    let half = tree.as_ref().and_then(|tree| {
        show.step("kill", |bar| kill::interrupt(&stage, tree, bar)).map(|half| (tree, half))
    });
    match half {
        Some((tree, half)) => {
            show.step("finish", |bar| Ok(((), kill::finish(&stage, tree, half, bar)?)));
        }
        None => {
            if tree.is_none() {
                show.leave_out("kill");
            }
            show.leave_out("finish");
        }
    }
    show.step("cost", |_| cost(&stage.executable));
    let pids = all_pids(&stage);
    drop(stage);
    show.step("end", |_| end(&guard, &directory, &pids));
    Ok(show.end())
}

fn boot(guard: &Guard, directory: &Path) -> Result<(Stage, Outcome), Failure> {
    let stage = Stage::boot(guard, directory)?;
    let [kernel, supervisor] = stage.pids;
    let mut processes = vec![format!("kernel {kernel}"), format!("supervisor {supervisor}")];
    for server in stage.servers()? {
        let pid = server.pid.map_or("-".into(), |pid| pid.to_string());
        processes.push(format!("{} {pid}", server.name));
    }
    let text = format!("{} processes: {}", processes.len(), processes.join(", "));
    let figures = json!({ "processes": processes });
    Ok((stage, Outcome { text, figures, ..Outcome::default() }))
}

/// The tree that is named; else the current directory; else, where that is empty, a generated one.
fn find_tree(named: Option<&Path>, directory: &Path) -> Result<(Tree, Outcome), Failure> {
    // What is copied lies there up to three times.
    let room = rustix::fs::statvfs(directory)
        .map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize))
        .map_err(|error| Failure::system("asking for the room on the disk", error))?;
    let most = tree::BYTES_MAX.min(room / 4);
    let root = match named {
        Some(named) => named.to_path_buf(),
        None => std::env::current_dir()
            .map_err(|error| Failure::system("finding the current directory", error))?,
    };
    let mut tree = Tree::walk(&root, most, directory)?;
    let mut what = tree.root.display().to_string();
    if tree.files.is_empty() {
        what = format!("{what} has nothing to copy; a generated tree");
        tree = Tree::generate(&directory.join("generated"))?;
    }
    let mut text = format!("{what}: {}, {}", count(tree.files.len(), "file"), size(tree.bytes));
    if tree.cut {
        text = format!("{text} (there is more than {})", size(most));
    }
    if tree.skipped > 0 {
        let skipped = tree.skipped;
        text = format!("{text} (left out: {skipped} links, special, unreadable files)");
    }
    let figures = json!({
        "root": tree.root.display().to_string(),
        "files": tree.files.len(),
        "bytes": tree.bytes,
        "skipped": tree.skipped,
        "cut": tree.cut,
    });
    Ok((tree, Outcome { text, figures, ..Outcome::default() }))
}

/// What a send costs here, against a Unix socket and a pipe.
fn cost(executable: &Path) -> Result<((), Outcome), Failure> {
    let compared = rendez_bench::quick_compare(executable)
        .map_err(|error| Failure::system("measuring", error))?;
    let Some(ours) = compared.rows.iter().find(|row| row.mechanism == "rendez") else {
        return Err(Failure::new(FAILED, "Rendez itself was not measured"));
    };
    let color = std::io::stdout().is_terminal();
    let mut details: Vec<String> =
        compared.table(color).trim_end().lines().map(str::to_owned).collect();
    details.extend(compared.notes.iter().map(|note| format!("note: {note}")));
    let text = format!(
        "send, receive, reply with {} B each way, between two processes: {} ns (median)",
        ours.payload_bytes, ours.p50_ns
    );
    Ok(((), Outcome { text, details, figures: json!({ "rows": compared.rows }) }))
}

/// Every process of the system.
fn all_pids(stage: &Stage) -> Vec<u32> {
    let servers = stage.servers().unwrap_or_default();
    stage.pids.into_iter().chain(servers.into_iter().filter_map(|server| server.pid)).collect()
}

/// Stops the system; nothing may be left of it.
fn end(guard: &Guard, directory: &Path, pids: &[u32]) -> Result<((), Outcome), Failure> {
    guard.clean();
    let late = Instant::now() + GONE_AFTER;
    let mut left: Vec<u32> = pids.to_vec();
    loop {
        left.retain(|pid| lives(*pid));
        if left.is_empty() || Instant::now() >= late {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    if !left.is_empty() || directory.exists() {
        let text = format!("left behind: processes {left:?}, {}", directory.display());
        return Err(Failure::new(FAILED, text));
    }
    let text = "system stopped; no process, socket or file of it is left".to_owned();
    Ok(((), Outcome { text, ..Outcome::default() }))
}

/// Whether a process has not ended. One that nobody has waited for has.
fn lives(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The state stands after the name, which is in parentheses and may itself contain some.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, Some('Z' | 'X'))
}

/// This executable as one of the processes that the demonstration starts.
///
/// # Errors
/// If it was started by hand.
pub fn part(name: &str, arguments: &[PathBuf]) -> Result<u8, Failure> {
    let by_hand = || Failure::new(USAGE, "demo-part is started by `rendez demo`, not by hand");
    if name == "listen" {
        signals::block_posix()?;
    }
    let argument = arguments.first().map(PathBuf::as_path);
    if let ("cleaner", Some(directory)) = (name, argument) {
        return guard::clean_part(directory).map(|()| 0);
    }
    let task = Task::inherited()?.ok_or_else(by_hand)?;
    let done = match (name, argument) {
        ("copy", Some(plan)) => std::fs::read(plan)
            .and_then(|text| Ok(serde_json::from_slice(&text)?))
            .map_err(|error| Failure::system(format!("reading {}", plan.display()), error))
            .and_then(|plan| copier::run(&task, &plan)),
        ("raise", Some(signal)) => signals::raise_part(&task, &signal.to_string_lossy()),
        ("listen", None) => signals::listen_part(&task),
        ("trespass", None) => rights::trespass_part(&task),
        _ => return Err(by_hand()),
    };
    match done {
        Ok(()) => Ok(0),
        Err(failure) => {
            say(&Said::Failed { why: failure.to_string() });
            Ok(FAILED)
        }
    }
}

/// Waits until the demonstration says to go on, or is no more.
fn wait_to_go_on() {
    let _ = std::io::stdin().read_line(&mut String::new());
}
