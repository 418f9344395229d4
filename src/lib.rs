//! A reranking service: a query and documents go in, the documents come out ordered by how well
//! they answer the query.
//!
//! A suggested order of reading (`ARCHITECTURE.md` has the map and the rules): `rerank` is the use
//! case, `scheduler` shares the model among requests, [`model`] and `ops` are the network and its
//! kernels, [`tokenizer`] makes tokens of texts, `http` and [`cli`] are the two ways in, `config`
//! has every option.
//!
//! The public modules are those that `main` and the tests use.

mod allocator;
pub mod batch;
mod cache;
pub mod cli;
mod config;
mod deadline;
pub mod error;
mod http;
mod memory;
mod metrics;
pub mod model;
mod ops;
mod queue;
mod rerank;
mod scheduler;
mod secret;
pub mod telemetry;
mod text_pool;
pub mod tokenizer;
