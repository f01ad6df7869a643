//! What lies where in a segment. Generic over the platform; on the host the offsets below are
//! asserted at compile time, and `docs/reference/memory-layout.md` is their account.
//!
//! Words that different sides read, or that are written at different times, lie 128 bytes apart:
//! two cache lines, because processors fetch lines in pairs.

use crate::platform::{Atomic, Body, Host, Platform};
use rendez_protocol::kernel::SEGMENT_HEADER_BYTES;
use rendez_protocol::limit::LINE_BYTES;

/// Two cache lines of its own.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Apart<T>(pub(crate) T);

/// What the reader waits on, and when it was last rung. Written by the segment's owner as the
/// writer of its ring, only when the reader is asleep.
#[derive(Debug)]
#[repr(C)]
pub struct DoorbellWords<P: Platform> {
    pub(crate) doorbell: P::U32,
    pub(crate) rang_at: P::U64,
}

/// What the owner says of itself as the reader of the *other* segment's ring, when it goes to
/// sleep: read by the peer after each message that it publishes.
#[derive(Debug)]
#[repr(C)]
pub struct SleepWords<P: Platform> {
    /// Bit 0: asleep. Bit 1: asleep for want of room too. Above: how often it slept.
    pub(crate) asleep: P::U32,
    /// The processor that it last ran on, plus one.
    pub(crate) cpu: P::U32,
}

/// How far the owner has come as the reader of the other segment's ring.
#[derive(Debug)]
#[repr(C)]
pub struct ProgressWords<P: Platform> {
    /// Messages that its handler has begun with, or that it has passed over.
    pub(crate) taken: P::U64,
    /// Messages whose lines and payload it no longer needs.
    pub(crate) freed: P::U64,
}

/// The header of a segment.
#[derive(Debug)]
#[repr(C)]
pub struct Head<P: Platform> {
    pub(crate) doorbell: Apart<DoorbellWords<P>>,
    pub(crate) sleep: Apart<SleepWords<P>>,
    pub(crate) progress: Apart<ProgressWords<P>>,
    /// Notification bits: pending ones differ from the reader's acknowledged ones.
    pub(crate) posted: Apart<P::U64>,
    /// The peer's notification bits as the owner last acknowledged them.
    pub(crate) acknowledged: Apart<P::U64>,
}

impl<P: Platform> Head<P> {
    /// A header of a segment that nobody has used, for memory that is not mapped.
    #[must_use]
    pub fn new() -> Self {
        Self {
            doorbell: Apart(DoorbellWords { doorbell: P::U32::new(0), rang_at: P::U64::new(0) }),
            sleep: Apart(SleepWords { asleep: P::U32::new(0), cpu: P::U32::new(0) }),
            progress: Apart(ProgressWords { taken: P::U64::new(0), freed: P::U64::new(0) }),
            posted: Apart(P::U64::new(0)),
            acknowledged: Apart(P::U64::new(0)),
        }
    }
}

impl<P: Platform> Default for Head<P> {
    fn default() -> Self {
        Self::new()
    }
}

/// A line of a ring: where a message starts.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Line<P: Platform> {
    /// The lap on which the message was published, from 1; 0 before the first.
    pub(crate) turn: P::U32,
    /// The turn of the message that its sender has withdrawn.
    pub(crate) mark: P::U32,
    pub(crate) body: P::Body,
}

impl<P: Platform> Line<P> {
    /// A line that was never used, for memory that is not mapped.
    #[must_use]
    pub fn new() -> Self {
        Self { turn: P::U32::new(0), mark: P::U32::new(0), body: P::Body::new() }
    }
}

impl<P: Platform> Default for Line<P> {
    fn default() -> Self {
        Self::new()
    }
}

const _: () = {
    use core::mem::{align_of, offset_of, size_of};
    assert!(size_of::<Line<Host>>() == LINE_BYTES && align_of::<Line<Host>>() == LINE_BYTES);
    assert!(offset_of!(Line<Host>, mark) == 4 && offset_of!(Line<Host>, body) == 8);
    assert!(size_of::<Head<Host>>() == 640 && size_of::<Head<Host>>() <= SEGMENT_HEADER_BYTES);
    assert!(SEGMENT_HEADER_BYTES.is_multiple_of(LINE_BYTES));
    assert!(offset_of!(Head<Host>, doorbell) == 0);
    assert!(offset_of!(Head<Host>, sleep) == 128);
    assert!(offset_of!(Head<Host>, progress) == 256);
    assert!(offset_of!(Head<Host>, posted) == 384);
    assert!(offset_of!(Head<Host>, acknowledged) == 512);
    assert!(offset_of!(DoorbellWords<Host>, rang_at) == 8);
    assert!(offset_of!(SleepWords<Host>, cpu) == 4);
    assert!(offset_of!(ProgressWords<Host>, freed) == 8);
};
