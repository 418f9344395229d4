//! The HTTP server: routes, what it knows while the model loads, and how it stops.
//!
//! Only this module and its children know axum. A wire format is a file of types in `wire`; the
//! work is `Reranker::rerank` for all of them.

mod access;
mod activity;
mod app;
mod auth;
mod body;
mod connection;
mod departure;
mod descriptors;
mod error;
mod gate;
mod host;
mod intake;
mod keys;
mod layers;
mod listen;
mod openapi;
mod origin;
mod outcome;
mod pages;
mod path;
mod probes;
mod quote;
mod reload;
mod request_id;
mod rerank;
mod room;
mod router;
mod scoring;
mod service;
mod settings;
mod status;
mod strict;
mod tls;
mod tokenize;
mod unread;
pub(crate) mod wire;

pub(crate) use self::{
    app::{App, Shared},
    host::Host,
    listen::{Listener, serve},
    origin::Origin,
    settings::{AccessSettings, KeySettings, Settings, TlsFiles},
};
