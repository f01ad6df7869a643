//! A glance at three mechanisms, for a demonstration.

use std::path::Path;

use crate::Error;
use crate::laboratory;
use crate::mechanism::{self, Mechanism};
use crate::options::{Options, Plan};
use crate::report::Row;
use crate::table;

/// What is compared, the first being what the others are compared with.
const COMPARED: [&str; 3] = ["rendez-adaptive", "unix-stream", "pipe"];

/// A few mechanisms beside each other.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// Their rows, the one that the others are compared with first.
    pub rows: Vec<Row>,
    /// What a reader has to know.
    pub notes: Vec<String>,
}

impl Comparison {
    /// As an aligned table: median, how many times the first row's, a bar.
    #[must_use]
    pub fn table(&self, color: bool) -> String {
        table::comparison(&self.rows, color)
    }
}

/// Compares `rendez` with a Unix stream socket and a pipe: 40 bytes each way, on two cores if there
/// are two. It takes a second or two. `exe` is as in [`Options::exe`].
///
/// # Errors
/// As for [`run`](crate::run).
pub fn quick_compare(exe: &Path) -> Result<Comparison, Error> {
    let mechanisms: Vec<&'static dyn Mechanism> =
        COMPARED.iter().filter_map(|label| mechanism::find(label)).collect();
    let mut options = Options::new(exe);
    options.quick = true;
    options.payloads = vec![40];
    options.cores = vec![laboratory::cores_available()];
    let report = laboratory::measure_all(&options, &mechanisms, Plan::COMPARE, &mut |_| {})?;
    Ok(Comparison { rows: report.rows, notes: report.notes })
}
