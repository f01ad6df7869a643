//! The rendez command.
