//! One integration binary: the program as its users meet it. See `support.rs` for the server the
//! tests start.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod api;
mod cache;
mod checkpoints;
mod cli;
mod doctor;
mod documents;
mod formats;
#[cfg(feature = "cuda")]
mod gpu;
mod guards;
mod hub;
mod imports;
mod load;
mod memory;
mod metrics;
mod parity;
mod streams;
mod support;
mod tidy;
mod translations;
mod vendors;
