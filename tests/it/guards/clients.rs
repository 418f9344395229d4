//! Clients that end their sending: those that wait for an answer, and those that are gone.

use std::{
    io::Read as _,
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use crate::support::{Server, request_head};

/// More than the machine does in a minute, or little.
fn begin(server: &Server, documents: usize, version: &str) -> TcpStream {
    let text = "un serveur web rapide et léger pour les fichiers statiques ".repeat(30);
    let document = |i| format!(r#""{i} {text}""#);
    let documents: Vec<String> = (0..documents).map(document).collect();
    let body = format!(r#"{{"query":"a","documents":[{}]}}"#, documents.join(","));
    let head = request_head("/v1/rerank", Some("application/json"), body.len());
    server.begin(&head.replace("HTTP/1.1", version), body.as_bytes())
}

fn in_progress(server: &Server) -> bool {
    let metrics = server.get("/metrics").body;
    !metrics.contains("\nreranker_requests_in_progress 0\n")
}

fn wait_until(limit: Duration, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < limit, "not within {limit:?}");
    }
}

#[test]
fn a_client_that_has_said_all_is_answered() {
    let server = Server::start(&[]);
    for (version, documents) in [("HTTP/1.1", 1), ("HTTP/1.1", 40), ("HTTP/1.0", 1)] {
        let mut stream = begin(&server, documents, version);
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        // The interim response comes at most once, before the answer, and never in HTTP/1.0.
        let interim = "HTTP/1.1 100 Continue\r\n\r\n";
        let answer = answer.strip_prefix(interim).unwrap_or(&answer);
        assert!(answer.starts_with(&format!("{version} 200 OK")), "{answer}");
        assert!(answer.ends_with('}'), "{answer}");
    }
}

#[test]
fn the_work_of_a_client_that_is_gone_ends() {
    let server = Server::start(&[("RERANKER_DEADLINE_MS", "3600000")]);
    for (version, half_first) in [("HTTP/1.1", false), ("HTTP/1.1", true), ("HTTP/1.0", false)] {
        let stream = begin(&server, 2000, version);
        wait_until(Duration::from_mins(1), || in_progress(&server));
        if half_first {
            stream.shutdown(Shutdown::Write).unwrap();
            std::thread::sleep(Duration::from_millis(300));
            assert!(in_progress(&server));
        }
        drop(stream);
        wait_until(Duration::from_secs(10), || !in_progress(&server));
    }
}
