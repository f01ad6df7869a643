//! The name server: a hierarchical name space of capabilities.
