//! What a run found, and its form in JSON.

use serde::{Deserialize, Serialize};

use crate::Machine;
use crate::mechanism::Wait;
use crate::table;

/// What a run of the laboratory found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where it was measured.
    pub machine: Machine,
    /// Whether blocks were few and short.
    pub quick: bool,
    /// One row per mechanism and setting.
    pub rows: Vec<Row>,
    /// What a reader has to know: settings left out, partners that could not be pinned, and the like.
    pub notes: Vec<String>,
}

/// One mechanism in one setting. Times are in nanoseconds, for a whole round trip.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `floor`, `futex`, `pipe`, `unix-stream`, `unix-seqpacket`, `rendez`.
    pub mechanism: String,
    /// The wait policy, for a mechanism with a choice.
    pub wait: Option<Wait>,
    /// Bytes of each request and of each answer.
    pub payload_bytes: usize,
    /// 2 if client and partner had a core each, 1 if they shared one.
    pub cores: usize,
    /// Median over the blocks of each block's median, from batches.
    pub p50_ns: u64,
    /// 99 of 100 round trips took no longer, from round trips timed one by one.
    pub p99_ns: u64,
    /// 999 of 1000 round trips took no longer.
    pub p999_ns: u64,
    /// Median over the blocks of the ratio to the floor beside the block. The floor always takes two
    /// cores; null if the machine has only one.
    pub ratio_to_floor: Option<f64>,
    /// First and third quartile of the blocks' ratios to the floor.
    pub ratio_spread: Option<[f64; 2]>,
    /// Median over the rounds of the ratio to the bare futex in the same round and setting; null
    /// where that was not measured.
    pub ratio_to_futex: Option<f64>,
    /// Blocks that count.
    pub blocks_kept: u32,
    /// Times that a disturbed block was measured again.
    pub blocks_repeated: u32,
    /// Blocks given up since every repetition was disturbed too.
    pub blocks_dropped: u32,
}

impl Row {
    /// Name and wait policy, if any: `rendez-spin`.
    #[must_use]
    pub fn label(&self) -> String {
        match self.wait {
            None => self.mechanism.clone(),
            Some(wait) => format!("{}-{wait}", self.mechanism),
        }
    }
}

impl Report {
    /// The report as an aligned table for a terminal, with bars.
    #[must_use]
    pub fn table(&self, color: bool) -> String {
        table::report(self, color)
    }

    /// The report as JSON, indented.
    ///
    /// # Errors
    /// None that is known; a report holds nothing that JSON cannot express.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::{Report, Row};
    use crate::Machine;
    use crate::mechanism::Wait;

    pub(crate) fn sample() -> Report {
        let row = |mechanism: &str, wait, cores, p50_ns, ratio: Option<f64>| Row {
            mechanism: mechanism.into(),
            wait,
            payload_bytes: 40,
            cores,
            p50_ns,
            p99_ns: p50_ns * 2,
            p999_ns: p50_ns * 20,
            ratio_to_floor: ratio,
            ratio_spread: ratio.map(|ratio| [ratio * 0.9, ratio * 1.1]),
            ratio_to_futex: (cores == 1).then_some(1.5),
            blocks_kept: 200,
            blocks_repeated: 3,
            blocks_dropped: 1,
        };
        Report {
            machine: Machine {
                linux: "6.18.0 #1 SMP".into(),
                architecture: "x86_64".into(),
                cpu_model: "Model".into(),
                cores_online: 2,
                cores_used: vec![0, 1],
                topology: vec!["a note".into()],
                clock_cost_ns: 25,
                mitigations: BTreeMap::from([("meltdown".into(), "Not affected".into())]),
            },
            quick: true,
            rows: vec![
                row("floor", None, 2, 310, Some(1.0)),
                row("rendez", Some(Wait::Spin), 2, 370, Some(1.2)),
                row("pipe", None, 2, 59_000, Some(190.0)),
                row("rendez", Some(Wait::Block), 1, 4_600, None),
            ],
            notes: vec!["something to know".into()],
        }
    }

    #[test]
    fn json_and_back() {
        let report = sample();
        let text = report.to_json().expect("plain data");
        let again: Report = serde_json::from_str(&text).expect("what we wrote");
        assert_eq!(again, report);
    }

    #[test]
    fn shape_of_the_json() {
        let value = serde_json::to_value(sample()).expect("plain data");
        for key in ["linux", "cpu_model", "cores_online", "topology", "mitigations"] {
            assert!(value["machine"].get(key).is_some(), "machine.{key}");
        }
        let row = &value["rows"][1];
        assert_eq!(row["mechanism"], "rendez");
        assert_eq!(row["wait"], "spin");
        assert_eq!(row["payload_bytes"], 40);
        assert_eq!(row["cores"], 2);
        for key in ["p50_ns", "p99_ns", "p999_ns", "blocks_kept", "blocks_repeated"] {
            assert!(row[key].is_u64(), "{key}");
        }
        assert!(row["ratio_to_floor"].is_f64());
        assert_eq!(row["ratio_spread"].as_array().map(Vec::len), Some(2));
        assert!(row["ratio_to_futex"].is_null());
        assert!(value["rows"][0]["wait"].is_null());
        assert!(value["rows"][3]["ratio_to_floor"].is_null());
    }
}
