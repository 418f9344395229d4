//! Connections: how many, how slow, and over HTTP/2.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use axum::{
    body::{Body, to_bytes},
    http::{Request, Version},
};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;

use super::{BODY, ask, detail};
use crate::support::{Server, read_answer};

const GET: &str = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";

/// What comes until the server ends the connection.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

#[test]
fn a_request_that_does_not_come_ends_the_connection() {
    let server = Server::start(&[("RERANKER_HEADER_TIMEOUT_MS", "500")]);
    let limit = Duration::from_millis(500);
    // Nothing at all, the beginning of a request, a byte every 50 ms, and one request with nothing after it.
    for (sent, trickle, answers) in [
        ("", "", false),
        ("GET /health HT", "", false),
        ("GET /health?", "aaaaaaaaaaaaaaaaaaaa", false),
        (GET, "", true),
    ] {
        let began = Instant::now();
        let mut stream = server.begin(sent, b"");
        for byte in trickle.bytes() {
            thread::sleep(Duration::from_millis(50));
            let _ = stream.write_all(&[byte]);
        }
        let bytes = rest(stream);
        assert!(began.elapsed() >= limit, "{sent:?}");
        assert_eq!(
            bytes.starts_with(b"HTTP/1.1 200"),
            answers,
            "{sent:?}: {bytes:?}"
        );
    }
    // Slow, but in time, twice on one connection.
    let mut stream = server.begin("GET /health HTTP/1.1\r\n", b"");
    thread::sleep(Duration::from_millis(200));
    stream.write_all(b"Host: x\r\n\r\n").unwrap();
    thread::sleep(Duration::from_millis(200));
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let bytes = String::from_utf8(rest(stream)).unwrap();
    assert_eq!(bytes.matches("HTTP/1.1 200").count(), 2, "{bytes}");
}

#[test]
fn a_request_may_take_longer_than_the_next_one_may_be_away() {
    let server = Server::start(&[("RERANKER_HEADER_TIMEOUT_MS", "50")]);
    let content = "un serveur web rapide et léger pour les fichiers statiques ".repeat(25);
    let document = |i| format!(r#"{{"content":"{i} {content}"}}"#);
    let documents: Vec<String> = (0..60).map(document).collect();
    let body = format!(r#"{{"query":"a","documents":[{}]}}"#, documents.join(","));
    let answer = server.post("/rerank", &body);
    assert_eq!(answer.status, 200);
    assert!(answer.json()["processing_time"].as_f64().unwrap() > 0.05);
}

#[test]
fn an_answer_that_nobody_takes_ends_the_connection() {
    let server = Server::start(&[
        ("RERANKER_HEADER_TIMEOUT_MS", "300"),
        ("RERANKER_MAX_CONNECTIONS", "1"),
    ]);
    // More than the buffers of a connection hold.
    let note = "x".repeat(20_000_000);
    let body = format!(r#"{{"query":"a","documents":[{{"content":"b","note":"{note}"}}]}}"#);
    let stream = server.begin(
        &super::head("POST", "/rerank", &[], body.len()),
        body.as_bytes(),
    );
    server.wait_for_log("reranked");
    // Its place is free again although it still holds its end open.
    while ask(&server, "GET", "/health", &[]).status != 200 {
        thread::sleep(Duration::from_millis(20));
    }
    drop(stream);
}

#[test]
fn pings_do_not_keep_an_http2_connection() {
    let server = Server::start(&[
        ("RERANKER_HEADER_TIMEOUT_MS", "300"),
        ("RERANKER_BODY_TIMEOUT_MS", "500"),
    ]);
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let began = Instant::now();
    let mut stream = server.begin("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings);
    stream
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let mut bytes = [0; 1024];
    // Each ping is answered, and an answer taken counts, but no longer than the time of a body.
    while stream.write_all(&ping).is_ok() && !matches!(stream.read(&mut bytes), Ok(0)) {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(began.elapsed() >= Duration::from_millis(300 + 500));
}

#[test]
fn one_connection_past_the_limit_is_told_so() {
    let server = Server::start(&[("RERANKER_MAX_CONNECTIONS", "2")]);
    // Both have been let in once they are answered; the body is one flat object.
    let [mut first, second] = [(); 2].map(|()| {
        let mut stream = server.begin(GET, b"");
        let mut byte = [0];
        while byte != *b"}" {
            stream.read_exact(&mut byte).unwrap();
        }
        stream
    });
    let refused = ask(&server, "GET", "/health", &[]);
    assert_eq!(refused.status, 503);
    assert_eq!(
        (refused.header("retry-after"), refused.header("connection")),
        (Some("1"), Some("close"))
    );
    assert!(refused.header("x-request-id").is_some());
    assert_eq!(
        detail(&refused),
        "all 2 connections are taken; close idle ones, retry in 1 s, or raise RERANKER_MAX_CONNECTIONS"
    );
    // The two at the limit work.
    first
        .write_all(
            GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )
        .unwrap();
    assert_eq!(read_answer(first).status, 200);
    drop(second);
    while ask(&server, "GET", "/health", &[]).status != 200 {
        thread::yield_now();
    }
}

#[test]
fn far_past_the_limit_connections_are_closed_without_a_word() {
    let server = Server::start(&[("RERANKER_MAX_CONNECTIONS", "1")]);
    let mut first = server.begin(GET, b"");
    first.read_exact(&mut [0; 12]).unwrap();
    // On a machine that is very busy the first refusals may be over before the last begins.
    let closed_without_a_word = (0..20).any(|_| {
        let _refused: Vec<TcpStream> = (0..64).map(|_| server.begin("", b"")).collect();
        thread::sleep(Duration::from_millis(100));
        rest(server.begin(GET, b"")).is_empty()
    });
    assert!(closed_without_a_word);
}

#[test]
fn idle_connections_do_not_hold_up_the_end() {
    let server = Server::start(&[
        ("RERANKER_HEADER_TIMEOUT_MS", "100000"),
        ("RERANKER_DRAIN_TIMEOUT_MS", "100000"),
    ]);
    let mut idle = server.begin(GET, b"");
    let mut line = [0; 12];
    idle.read_exact(&mut line).unwrap();
    let _fresh = server.begin("", b"");
    server.signal("TERM");
    assert!(server.wait().success());
    let mut rest = Vec::new();
    let ended = idle.read_to_end(&mut rest);
    assert!(ended.is_ok() || ended.unwrap_err().kind() == ErrorKind::ConnectionReset);
}

#[test]
fn http2_without_tls_by_prior_knowledge() {
    let server = Server::start(&[]);
    let uri = format!("http://{}/rerank", server.address);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client: Client<_, Body> = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http();
        let ask = || async {
            let request = Request::post(&uri)
                .header("content-type", "application/json")
                .body(Body::from(BODY))
                .unwrap();
            let answer = client.request(request).await.unwrap();
            assert_eq!(
                (answer.status().as_u16(), answer.version()),
                (200, Version::HTTP_2)
            );
            assert!(answer.headers().contains_key("x-request-id"));
            let body = to_bytes(Body::new(answer.into_body()), 10_000)
                .await
                .unwrap();
            serde_json::from_slice::<Value>(&body).unwrap()["count"].clone()
        };
        let (one, other) = tokio::join!(ask(), ask());
        assert_eq!((one, other), (2.into(), 2.into()));
    });
}

#[test]
fn who_is_refused_in_the_middle_of_sending_sees_the_answer_and_not_a_reset() {
    let server = Server::start(&[
        ("RERANKER_API_KEY", "a-key"),
        ("RERANKER_MAX_BODY_BYTES", "1000"),
    ]);
    let body = vec![b' '; 5_000_000];
    for (key, status) in [("wrong-key", 401), ("a-key", 413)].repeat(5) {
        let mut stream = server.begin(
            &super::head("POST", "/rerank", &[("X-API-Key", key)], body.len()),
            b"",
        );
        stream.write_all(&body).unwrap();
        assert_eq!(read_answer(stream).status, status);
    }
}

#[test]
fn a_connection_whose_body_was_not_read_says_that_it_ends() {
    let server = Server::start(&[]);
    let body = r#"{"query":"q","texts":["a"]}"#;
    let ask = |path: &str| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = server.begin(&head, body.as_bytes());
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..length]).to_ascii_lowercase()
    };
    for (path, closes) in [("/rerank", false), ("/rerank/", true), ("/nothing", true)] {
        let answer = ask(path);
        assert_eq!(
            answer.contains("connection: close"),
            closes,
            "{path}: {answer}"
        );
    }
}
