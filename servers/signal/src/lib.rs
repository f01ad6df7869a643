//! The signal server: named signals and groups, bridged to POSIX signals.
