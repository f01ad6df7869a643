//! The manifest: which tasks a system consists of, what each may do, and what becomes of it when it
//! ends. TOML; `docs/guide/manifest.md` is its reference.
//!
//! - This file: what can be written, as it is written.
//! - [`values`]: times, sizes, rights.
//! - `check`: whether it makes sense; what is written becomes a [`Plan`].
//! - `problem`: what is wrong, with a picture of where.
//! - [`explain`]: what a plan means, for people.
//!
//! [`standard`] is the manifest of the name, file and signal servers, which a system without a
//! manifest of its own consists of, and to which others are added unless they say otherwise.

mod check;
pub mod explain;
mod plan;
mod problem;
pub mod values;

pub use plan::{Getting, Plan, Planned, Program, Readiness, Serving, Source, Stuck};
pub use problem::Problems;

use crate::machine::GiveUp;
use crate::policy::Policy;
use crate::restart::When;
use crate::sandbox::Sandbox;
use crate::stuck::Then;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;
use toml::Spanned;
use values::{Letters, Origin, Period, Size};

/// The servers that this executable is.
pub const BUILT_IN: [&str; 3] = ["name", "file", "signal"];
/// The most tasks of a manifest.
pub const TASKS_MAX: usize = 256;
/// The longest manifest, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 1 << 20;
/// The name server is whoever serves this path.
pub const NAME_SERVER_PATH: &str = "/name";
/// The supervisor registers itself under this path.
pub const SUPERVISOR_PATH: &str = "/supervisor";
/// The label under which a task that says itself when it is ready finds the capability to say so.
pub const READY_LABEL: &str = rendez_protocol::supervisor::READY_LABEL;

/// The text of the standard manifest.
pub const STANDARD: &str = include_str!("standard.toml");
/// What its picture says it is called.
pub const STANDARD_NAME: &str = "standard";

/// A manifest, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    #[serde(default = "yes")]
    standard: bool,
    policy: Option<Front>,
    #[serde(default)]
    task: BTreeMap<Spanned<String>, Spanned<WrittenTask>>,
}

/// Whom the front door lets in: the name of a built-in policy, or rules.
#[derive(Debug)]
struct Front(Policy);

impl<'de> Deserialize<'de> for Front {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrRules;
        impl<'de> serde::de::Visitor<'de> for NameOrRules {
            type Value = Front;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"little\", \"operator\", or a table of rules")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Front, E> {
                match name {
                    "little" => Ok(Front(Policy::little())),
                    "operator" => Ok(Front(Policy::operator())),
                    _ => Err(E::unknown_variant(name, &["little", "operator"])),
                }
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Front, A::Error> {
                let rules = serde::de::value::MapAccessDeserializer::new(map);
                Policy::deserialize(rules).map(Front)
            }
        }
        deserializer.deserialize_any(NameOrRules)
    }
}

/// A task, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenTask {
    program: Option<Spanned<String>>,
    built_in: Option<Spanned<String>>,
    #[serde(default)]
    arguments: Vec<Spanned<String>>,
    #[serde(default)]
    environment: BTreeMap<Spanned<String>, Spanned<String>>,
    inherit: Option<Vec<Spanned<String>>>,
    directory: Option<Spanned<String>>,
    #[serde(default)]
    serves: BTreeMap<Spanned<String>, WrittenServing>,
    #[serde(default)]
    gets: BTreeMap<Spanned<String>, WrittenGetting>,
    ready: Option<Spanned<Readiness>>,
    ready_within: Option<Spanned<Period>>,
    #[serde(default)]
    after: Vec<Spanned<String>>,
    #[serde(default = "yes")]
    required: bool,
    #[serde(default)]
    restart: WrittenRestart,
    stuck: Option<Spanned<WrittenStuck>>,
    #[serde(default)]
    limits: WrittenLimits,
    #[serde(default)]
    quotas: BTreeMap<Spanned<String>, u64>,
    #[serde(default)]
    sandbox: Sandbox,
}

/// An endpoint of a task, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenServing {
    path: Option<Spanned<String>>,
    rights: Option<Spanned<Letters>>,
    hold: Option<WrittenHold>,
}

/// What becomes of connects to an endpoint that is not served, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenHold {
    connects: Option<u32>,
    within: Option<Period>,
}

/// A capability that a task gets, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenGetting {
    from: Spanned<Origin>,
    rights: Spanned<Letters>,
    badge: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenRestart {
    when: Option<Spanned<When>>,
    back_off: Option<Period>,
    cap: Option<Spanned<Period>>,
    reset_after: Option<Period>,
    budget: Option<WrittenBudget>,
    give_up: Option<GiveUp>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenBudget {
    restarts: u32,
    within: Spanned<Period>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenStuck {
    after: Spanned<Period>,
    then: Then,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenLimits {
    memory: Option<Size>,
    descriptors: Option<NonZeroU32>,
    processes: Option<NonZeroU32>,
    cpu: Option<Spanned<Period>>,
    core: Option<Size>,
    file_size: Option<Size>,
}

const fn yes() -> bool {
    true
}

/// The plan of a system without a manifest of its own.
///
/// # Errors
/// None: the standard manifest is right, as a test shows.
pub fn standard() -> Result<Plan, Problems> {
    check::check(STANDARD, STANDARD_NAME, Path::new("/"))
}

/// Reads the manifest `text`, called `name` in what is said of it. Programs and directories that it
/// names are found from `base`. The standard servers are added unless it says otherwise, or
/// has tasks of their names.
///
/// # Errors
/// What is wrong with it.
pub fn read(text: &str, name: &str, base: &Path) -> Result<Plan, Problems> {
    check::check(text, name, base)
}
