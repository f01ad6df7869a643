//! The file server: a directory or a memory file system, never anything outside it.
