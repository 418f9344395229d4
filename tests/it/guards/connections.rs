//! Connections: how slow, how long idle, and how they end.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use super::ask;
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
    let server = Server::start(&[
        ("RERANKER_HEADER_TIMEOUT_MS", "500"),
        ("RERANKER_IDLE_TIMEOUT_MS", "500"),
    ]);
    let limit = Duration::from_millis(500);
    // Nothing at all, the beginning of a request, a byte every 50 ms, and one request with nothing
    // after it.
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

/// One answer to a `GET` on a connection that stays open; the body is one flat object.
fn next_answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while answer.last() != Some(&b'}') {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.extend(byte);
    }
    String::from_utf8(answer).unwrap()
}

#[test]
fn an_idle_connection_has_a_time_of_its_own_and_is_told_how_long() {
    let server = Server::start(&[
        ("RERANKER_HEADER_TIMEOUT_MS", "100"),
        ("RERANKER_IDLE_TIMEOUT_MS", "60000"),
    ]);
    let mut stream = server.begin(GET, b"");
    assert!(next_answer(&mut stream).contains("keep-alive: timeout=58\r\n"));
    thread::sleep(Duration::from_millis(500));
    stream.write_all(GET.as_bytes()).unwrap();
    assert!(next_answer(&mut stream).starts_with("HTTP/1.1 200"));
    // From its first byte on a request has the shorter time.
    let began = Instant::now();
    stream.write_all(b"GET /he").unwrap();
    rest(stream);
    assert!(began.elapsed() < Duration::from_secs(50));

    let server = Server::start(&[("RERANKER_IDLE_TIMEOUT_MS", "2500")]);
    let mut stream = server.begin(GET, b"");
    assert!(!next_answer(&mut stream).contains("keep-alive"));
}

#[test]
fn a_request_that_has_come_before_an_idle_connection_ends_is_answered() {
    let server = Server::start(&[("RERANKER_IDLE_TIMEOUT_MS", "300")]);
    for _ in 0..5 {
        let mut stream = server.begin(GET, b"");
        next_answer(&mut stream);
        // The request comes in time, and the server is too busy to read it until the time is over.
        server.signal("STOP");
        stream.write_all(GET.as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(500));
        server.signal("CONT");
        assert!(next_answer(&mut stream).starts_with("HTTP/1.1 200"));
    }
}

#[test]
fn requests_at_the_end_of_the_idle_time_are_answered_or_not_read_at_all() {
    let server = Server::start(&[("RERANKER_IDLE_TIMEOUT_MS", "50")]);
    let (mut answered, mut closed) = (0, 0);
    for round in 0..60 {
        let mut stream = server.begin(GET, b"");
        next_answer(&mut stream);
        thread::sleep(Duration::from_micros(48_000 + 60 * round));
        let _ = stream.write_all(GET.as_bytes());
        let bytes = rest(stream);
        match &*bytes {
            [] => closed += 1,
            answer if answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"}") => {
                answered += 1;
            }
            other => panic!("{}", String::from_utf8_lossy(other)),
        }
    }
    assert_eq!(answered + closed, 60);
}

#[test]
fn a_request_may_take_longer_than_the_next_one_may_be_away() {
    let server = Server::start(&[
        ("RERANKER_HEADER_TIMEOUT_MS", "50"),
        ("RERANKER_IDLE_TIMEOUT_MS", "50"),
    ]);
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
    while ask(&server, "GET", "/info", &[]).status != 200 {
        thread::sleep(Duration::from_millis(20));
    }
    drop(stream);
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
    for (path, closes) in [("/rerank", false), ("/rerank/", false), ("/nothing", true)] {
        let answer = ask(path);
        assert_eq!(
            answer.contains("connection: close"),
            closes,
            "{path}: {answer}"
        );
    }
}
