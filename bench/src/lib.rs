//! The IPC cost laboratory behind rendez bench.
