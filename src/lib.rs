//! Rendez.
