//! The data plane of Rendez: segments, rings, doorbells, transactions.
