//! `rendez doctor`: what this machine has and lacks, and what that costs.
//!
//! Nothing is read off a version number where it can be tried. It works without a running system.

mod features;
mod limits;
mod system;
mod topology;

use crate::failure::FAILED;
use crate::output::{BAD, DIM, GOOD, HEAD, Output, WARN};
use rendez::runtime::Place;
use serde::Serialize;

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// There.
    Ok,
    /// Not there, or not enough: something costs more, or is weaker.
    Missing,
    /// Not there, and nothing works without it.
    Broken,
    /// Neither good nor bad.
    Note,
}

/// One finding.
#[derive(Debug, Serialize)]
struct Finding {
    group: &'static str,
    name: String,
    state: State,
    found: String,
    /// What it costs that it is missing; empty if it is not.
    cost: &'static str,
}

impl Finding {
    fn note(group: &'static str, name: impl Into<String>, found: impl Into<String>) -> Self {
        Self { group, name: name.into(), state: State::Note, found: found.into(), cost: "" }
    }

    /// Something that is there, or costs something.
    fn check(
        group: &'static str,
        name: impl Into<String>,
        there: bool,
        found: impl Into<String>,
        cost: &'static str,
    ) -> Self {
        let (state, cost) = if there { (State::Ok, "") } else { (State::Missing, cost) };
        Self { group, name: name.into(), state, found: found.into(), cost }
    }

    /// The same, of something without which nothing works.
    fn needed(self) -> Self {
        let state = if self.state == State::Missing { State::Broken } else { self.state };
        Self { state, ..self }
    }
}

/// Says what was found. The exit code says whether Rendez can run here.
pub(super) fn run(place: &Place, output: &Output) -> u8 {
    let mut findings = features::find();
    findings.extend(limits::find());
    findings.extend(topology::find());
    findings.extend(system::find(place));
    let works = !findings.iter().any(|finding| finding.state == State::Broken);
    output.value(&serde_json::json!({ "works": works, "findings": findings }));
    let widest = findings.iter().map(|finding| finding.name.chars().count()).max().unwrap_or(0);
    let mut group = "";
    for finding in &findings {
        if finding.group != group {
            let gap = if group.is_empty() { "" } else { "\n" };
            group = finding.group;
            output.line(format_args!("{gap}{HEAD}{group}{HEAD:#}"));
        }
        let (style, word) = match finding.state {
            State::Ok => (GOOD, "ok"),
            State::Missing => (WARN, "missing"),
            State::Broken => (BAD, "BROKEN"),
            State::Note => (DIM, "-"),
        };
        let Finding { name, found, cost, .. } = finding;
        output.line(format_args!("  {style}{word:<7}{style:#}  {name:<widest$}  {found}"));
        if !cost.is_empty() {
            output
                .line(format_args!("  {:<7}  {:<widest$}  {style}costs:{style:#} {cost}", "", ""));
        }
    }
    let verdict = if works {
        format!("\n{GOOD}Rendez runs here.{GOOD:#}")
    } else {
        format!("\n{BAD}Rendez cannot run here:{BAD:#} what is called BROKEN is needed.")
    };
    output.line(verdict);
    if works { 0 } else { FAILED }
}

/// A file of one line, as under `/proc` and `/sys`.
fn line(path: impl AsRef<std::path::Path>) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}
