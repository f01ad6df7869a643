//! Where the values lie: percentiles for the table, logarithmic buckets for the plots.

use hdrhistogram::Histogram;

use crate::Error;
use crate::report::Summary;
use crate::statistics::rounded;

/// A value above counts as this one: a minute, in nanoseconds.
const LONGEST_NS: u64 = 60_000_000_000;

/// Buckets of a report's histogram per factor of two: each about 9% wide.
const PER_OCTAVE: f64 = 8.0;

/// Single times, in nanoseconds.
#[derive(Debug, Clone)]
pub(crate) struct Distribution(Histogram<u64>);

impl Distribution {
    /// An empty one.
    pub(crate) fn new() -> Result<Self, Error> {
        Histogram::new_with_bounds(1, LONGEST_NS, 3)
            .map(Self)
            .map_err(|error| Error::io("making a histogram", std::io::Error::other(error)))
    }

    /// Counts one value.
    pub(crate) fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Counts all that the other has counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.0 += &other.0;
    }

    /// How many values were counted.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The value that this part (0 to 1) of all values does not exceed.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        self.0.value_at_quantile(part) as f64
    }

    /// All of it in a few numbers. The median comes from here too; where there is a better one, from
    /// batches, replace it.
    pub(crate) fn summary(&self) -> Summary {
        Summary {
            p50: self.quantile(0.5),
            p90: Some(self.quantile(0.9)),
            p99: Some(self.quantile(0.99)),
            p999: Some(self.quantile(0.999)),
            mean: rounded(self.0.mean()),
            count: self.count(),
        }
    }

    /// In buckets, as a report has it.
    pub(crate) fn buckets(&self) -> Vec<(f64, u64)> {
        let mut buckets: Vec<(f64, u64)> = Vec::new();
        for value in self.0.iter_recorded() {
            let ns = (value.value_iterated_to() as f64).max(1.0);
            let bound = rounded(((ns.log2() * PER_OCTAVE).ceil() / PER_OCTAVE).exp2());
            let count = value.count_at_value();
            match buckets.last_mut() {
                Some(last) if last.0 >= bound => last.1 += count,
                _ => buckets.push((bound, count)),
            }
        }
        buckets
    }
}

#[cfg(test)]
mod tests {
    use super::Distribution;

    #[test]
    fn long_and_short_are_kept_apart() {
        let mut distribution = Distribution::new().expect("fixed bounds");
        for ms in 1..=1000 {
            distribution.record(ms * 1_000_000);
        }
        distribution.record(0);
        let tail = distribution.summary().p99.expect("values");
        assert!((980_000_000.0..=1_000_000_000.0).contains(&tail), "{tail}");
        assert_eq!(distribution.count(), 1001);
    }

    #[test]
    fn buckets_are_ascending_hold_everything_and_bound_it_from_above() {
        let mut distribution = Distribution::new().expect("fixed bounds");
        for ns in [100, 101, 250, 90_000, 90_001, 120_000] {
            distribution.record(ns);
        }
        let mut other = Distribution::new().expect("fixed bounds");
        other.record(1 << 40);
        distribution.merge(&other);
        let buckets = distribution.buckets();
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), 7);
        assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0), "{buckets:?}");
        let (first, count) = buckets[0];
        assert!((101.0..112.0).contains(&first), "{first}");
        assert_eq!(count, 2, "100 and 101 share a bucket");
    }
}
