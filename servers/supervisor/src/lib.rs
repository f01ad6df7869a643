//! The supervisor: starts the other servers and restarts them on request.
