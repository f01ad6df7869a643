//! A histogram of times: logarithmic, of few buckets, each of which can be counted in by itself.

/// Buckets of a histogram.
pub const BUCKETS: usize = 40;
/// The lowest time that has a bucket of its own, as a power of two: 64 ns.
const FIRST_POWER: u32 = 6;
/// The power of two from which on a bucket is a whole one wide: 2^20 ns, a millisecond.
const WHOLE_POWER: u32 = 20;
/// Where the buckets begin that are a whole power wide.
const WHOLE: u32 = 1 + 2 * (WHOLE_POWER - FIRST_POWER);

/// The bucket of a time in ns: below 64 ns; then two to each power of two, `2^k` and `1.5 × 2^k`, up
/// to 2^20; then one to each, up to what is above 2^30.
#[must_use]
pub const fn bucket(ns: u64) -> usize {
    if ns < 1 << FIRST_POWER {
        return 0;
    }
    let power = ns.ilog2();
    let bucket = if power < WHOLE_POWER {
        1 + 2 * (power - FIRST_POWER) + (ns >> (power - 1) & 1) as u32
    } else {
        WHOLE + (power - WHOLE_POWER)
    };
    if (bucket as usize) < BUCKETS { bucket as usize } else { BUCKETS - 1 }
}

/// The lowest time in ns that belongs to a bucket; the next one's is the first that does not.
#[must_use]
pub const fn bucket_start(bucket: usize) -> u64 {
    let place = bucket as u32;
    if place == 0 {
        return 0;
    }
    if place < WHOLE {
        let (power, half) = (FIRST_POWER + (place - 1) / 2, (place - 1) % 2);
        return (1 << power) + ((half as u64) << (power - 1));
    }
    let power = WHOLE_POWER + (place - WHOLE);
    if power < 63 { 1 << power } else { u64::MAX }
}

/// A histogram of times, as it was read.
pub type Histogram = [u64; BUCKETS];

/// How many times a histogram holds, at most `u64::MAX`.
#[must_use]
pub fn total(histogram: &Histogram) -> u64 {
    histogram.iter().fold(0, |sum: u64, count| sum.saturating_add(*count))
}

/// The time in ns below which the part `quantile` (0 to 1) of a histogram's times lies, as far as
/// its buckets tell: within one, times are taken to be spread evenly. `None` if it is empty.
#[must_use]
pub fn quantile(histogram: &Histogram, quantile: f64) -> Option<f64> {
    let total = total(histogram);
    if total == 0 {
        return None;
    }
    let wanted = quantile.clamp(0.0, 1.0) * total as f64;
    let mut below = 0.0;
    for (place, count) in histogram.iter().enumerate().filter(|(_, count)| **count > 0) {
        let count = *count as f64;
        if below + count >= wanted {
            let start = bucket_start(place) as f64;
            if place + 1 == BUCKETS {
                // It has no end.
                return Some(start);
            }
            let wide = bucket_start(place + 1) as f64 - start;
            return Some(start + wide * ((wanted - below) / count).clamp(0.0, 1.0));
        }
        below += count;
    }
    // What a liar makes of it: counts that do not add up.
    Some(bucket_start(BUCKETS - 1) as f64)
}
