//! What stands between a stranger and the model, at each limit and one past it.

mod bodies;
mod browsers;
mod clients;
mod connections;
mod http2;
mod keys;
mod room;
mod signals;
mod strict;
mod tls;

use crate::support::{Answer, Server, read_answer};

/// A small request.
const BODY: &str = r#"{"query":"web server","documents":[{"content":"a fruit"},{"content":"a small web server"}]}"#;

fn head(method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> String {
    let mut lines: Vec<String> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    lines.push(format!("Content-Length: {length}\r\n\r\n"));
    format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{}",
        lines.concat()
    )
}

fn ask(server: &Server, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    read_answer(server.begin(&head(method, path, headers, 0), b""))
}

fn post(server: &Server, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    read_answer(server.begin(&head("POST", "/rerank", headers, body.len()), body))
}

fn detail(answer: &Answer) -> String {
    answer.json()["detail"].as_str().unwrap().to_owned()
}
