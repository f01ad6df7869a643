//! The kernel of Rendez: a pure state machine of tasks, endpoints and capabilities, and its shell.

pub mod effect;
pub mod input;
pub mod machine;
pub mod quota;
pub mod recording;
pub mod shell;
mod system;
pub mod waits;
