//! Every limit of the wire, named, in one place.
//!
//! Limits of one task's share of the kernel (quotas) are configured in the kernel; these are the
//! bounds beyond which a message is malformed.

/// Bytes in a line: one cache line of x86-64 and of most aarch64 machines.
pub const LINE_BYTES: usize = 64;
/// Bytes of header at the start of a message's line.
pub const HEADER_BYTES: usize = 24;
/// Payload bytes that cross within the start line itself.
pub const INLINE_BYTES: usize = LINE_BYTES - HEADER_BYTES;
/// The longest payload a header can announce, in bytes (24 bits).
pub const PAYLOAD_BYTES_MAX: usize = (1 << 24) - 1;
/// The most lines a ring may have.
pub const RING_LINES_MAX: u32 = 4096;
/// Lines of a ring when nobody says otherwise.
pub const RING_LINES_DEFAULT: u32 = 32;
/// The largest payload area of a segment, in bytes.
pub const AREA_BYTES_MAX: u32 = 4 << 20;
/// The payload area of a segment when nobody says otherwise, in bytes. A message
/// carries at most that much and [`INLINE_BYTES`] more.
pub const AREA_BYTES_DEFAULT: u32 = 8 << 10;

/// The highest priority of a message; 0 is the lowest, and what it is if nobody says otherwise.
pub const PRIORITY_MAX: u8 = 127;

/// The largest arena, in bytes.
pub const ARENA_BYTES_MAX: u32 = 1 << 30;
/// Arenas that a connection may have at a time, pairs counted once, those being attached included.
pub const ARENAS_MAX: usize = 8;
/// What the places of leases in an arena are multiples of, in bytes.
pub const ARENA_UNIT_BYTES: usize = 64;
/// Bytes at the start of a client's arena that hold release words and no lease.
pub const ARENA_HEAD_BYTES: usize = 4096;
/// Leases that all replies through one arena may have at a time: its release words.
pub const RELEASE_WORDS: usize = 256;
/// The most leases that one message carries.
pub const LEASES_MAX: usize = 8;

/// The largest region, in bytes.
pub const REGION_BYTES_MAX: u64 = 1 << 36;

/// The longest frame on a kernel socket, in bytes.
pub const FRAME_BYTES_MAX: usize = 64 << 10;
/// The most descriptors that travel with one frame.
pub const FRAME_DESCRIPTORS_MAX: usize = 4;

/// The longest name of a task, an interface or a given capability, in bytes.
pub const LABEL_BYTES_MAX: usize = 64;
/// The longest path in the name space or in a file server, in bytes.
pub const PATH_BYTES_MAX: usize = 4096;
/// The longest single component of a path, in bytes.
pub const COMPONENT_BYTES_MAX: usize = 255;
/// The most capabilities that one ticket carries.
pub const TICKET_CAPABILITIES_MAX: usize = 16;
/// The most capabilities that a task is given when it is created.
pub const GIVEN_CAPABILITIES_MAX: usize = 64;
/// The most rules that the front door has.
pub const DOOR_RULES_MAX: usize = 32;
/// Words in a task's status segment: word 0 is the task's own, each connection has one of the others.
pub const STATUS_WORDS: u32 = 16 << 10;

/// How many capabilities may be derived from one another in a row. What costs a step for each of
/// them is bounded by it.
pub const DERIVATION_DEPTH_MAX: usize = 256;
/// The most steps of a capability's way that the kernel tells.
pub const PROVENANCE_STEPS_MAX: usize = 64;
/// Steps of a capability's way that are remembered of capabilities that are gone, between it and the
/// one that it hangs below: the nearest.
pub const PROVENANCE_PAST_MAX: usize = 4;

/// How long servers have to acknowledge a revocation, in milliseconds, before they are named.
pub const REVOKE_GRACE_MS: u32 = 1_000;
/// The most servers that are named for not having acknowledged a revocation.
pub const UNACKNOWLEDGED_MAX: usize = 64;

/// The deadline of a send when nobody says otherwise, in milliseconds.
pub const DEADLINE_DEFAULT_MS: u64 = 10_000;
