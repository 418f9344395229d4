//! A reranking service: a query and documents go in, the documents come out ordered by how well
//! they answer.
//!
//! A suggested order of reading (`ARCHITECTURE.md` has the map and the rules):
//!
//! 1. [`rerank`]: the use case, in one file.
//! 2. [`scheduler`]: how concurrent requests share the model.
//! 3. [`model`] and [`ops`]: the network and the operations it is made of; [`tokenizer`]: what it
//!    reads.
//! 4. [`http`] and [`cli`]: the two ways in; [`config`]: every option.
//! 5. [`error`] and [`telemetry`]: what goes wrong and what is told.

mod allocator;
pub mod batch;
pub mod cli;
pub mod config;
pub mod deadline;
pub mod error;
pub mod http;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod ops;
pub mod queue;
pub mod rerank;
pub mod scheduler;
pub mod secret;
pub mod telemetry;
pub mod text_pool;
pub mod tokenizer;
