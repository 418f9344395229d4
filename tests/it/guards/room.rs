//! How many connections: who gets a place, and who makes way.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::Duration,
};

use super::{BODY, ask, detail, head, post};
use crate::support::{Server, read_answer};

const GET: &str = "GET /info HTTP/1.1\r\nHost: x\r\n\r\n";

/// A connection that keeps its place: its request has begun, and the rest of the body may follow.
fn busy(server: &Server) -> TcpStream {
    let mut stream = server.begin(
        &head("POST", "/rerank", &[("Expect", "100-continue")], BODY.len()),
        b"",
    );
    // Who is told to go on has a place.
    let mut line = [0; 25];
    stream.read_exact(&mut line).unwrap();
    assert!(line.starts_with(b"HTTP/1.1 100"));
    stream
}

#[test]
fn one_connection_past_the_limit_is_told_so_unless_it_is_a_probe() {
    let server = Server::start(&[("RERANKER_MAX_CONNECTIONS", "2")]);
    let [mut first, second] = [(); 2].map(|()| busy(&server));
    let refused = post(&server, &[], BODY.as_bytes());
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
    for (method, path, status) in [
        ("GET", "/health", 200),
        ("HEAD", "/health/", 200),
        ("GET", "/ping?x=1", 200),
        ("POST", "/health", 503),
        ("GET", "/healthy", 503),
        ("GET", "/", 503),
    ] {
        let answer = ask(&server, method, path, &[]);
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.header("connection"), Some("close"));
    }
    // The two at the limit work.
    first.write_all(BODY.as_bytes()).unwrap();
    assert_eq!(read_answer(first).status, 200);
    drop(second);
    while ask(&server, "GET", "/info", &[]).status != 200 {
        thread::yield_now();
    }
    let metrics = ask(&server, "GET", "/metrics", &[]).body;
    let series = r#"reranker_refused_total{reason="connections"} "#;
    let count = metrics.lines().find_map(|line| line.strip_prefix(series));
    // That post, and three that were no probes.
    assert!(count.unwrap().parse::<u32>().unwrap() >= 4, "{count:?}");
}

#[test]
fn far_past_the_limit_everyone_is_still_told() {
    let server = Server::start(&[("RERANKER_MAX_CONNECTIONS", "1")]);
    let _busy = busy(&server);
    let request = head("POST", "/rerank", &[], BODY.len());
    let all: Vec<TcpStream> = (0..600).map(|_| server.begin("", b"")).collect();
    for mut stream in &all {
        // Some have been told already.
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.write_all(BODY.as_bytes());
    }
    for stream in all {
        let mut answer = [0; 12];
        let mut stream = stream;
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 503");
    }
}

#[test]
fn the_silent_take_no_place_and_make_way_for_each_other() {
    let server = Server::start(&[("RERANKER_MAX_CONNECTIONS", "4")]);
    let mut silent: Vec<TcpStream> = Vec::new();
    for _ in 0..8 {
        silent.extend((0..75).map(|_| server.begin("", b"")));
        assert_eq!(post(&server, &[], BODY.as_bytes()).status, 200);
    }
    let mut first = String::new();
    silent[0].read_to_string(&mut first).unwrap();
    assert!(
        first.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
        "{first}"
    );
    let (headers, body) = first.split_once("\r\n\r\n").unwrap();
    assert!(
        headers.contains(&format!("Content-Length: {}", body.len())),
        "{first}"
    );
    assert_eq!(
        body,
        r#"{"detail":"there is no room for a connection; retry in 1 s"}"#
    );
}

#[test]
fn those_who_have_rested_make_way_for_those_who_ask() {
    let server = Server::start(&[("RERANKER_MAX_CONNECTIONS", "2")]);
    let [mut elder, mut younger] = [(); 2].map(|()| {
        let mut stream = server.begin(GET, b"");
        stream.read_exact(&mut [0; 12]).unwrap();
        stream
    });
    thread::sleep(Duration::from_millis(1200));
    assert_eq!(ask(&server, "GET", "/info", &[]).status, 200);
    // The one that has been idle for longest has gone, without a word and without a reset.
    elder.read_to_end(&mut Vec::new()).unwrap();
    younger
        .write_all(
            GET.replace("Host: x", "Host: x\r\nConnection: close")
                .as_bytes(),
        )
        .unwrap();
    let mut answers = String::new();
    younger.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 1, "{answers}");
}

#[test]
fn few_files_mean_fewer_connections_and_a_line_that_says_so() {
    let server = Server::start_under("ulimit -n 64", &[]);
    let files = server.open_files_limit();
    assert_eq!(files, 64);
    let _silent: Vec<TcpStream> = (0..200).map(|_| server.begin("", b"")).collect();
    for _ in 0..20 {
        assert_eq!(ask(&server, "GET", "/health", &[]).status, 200);
    }
    server.signal("TERM");
    let log = server.log_until_end();
    assert!(!log.contains("cannot accept connections"), "{log}");
}

#[test]
fn the_limit_on_files_is_raised_as_far_as_need_be() {
    let server = Server::start_under("ulimit -S -n 256", &[("RERANKER_MAX_CONNECTIONS", "300")]);
    assert_eq!(server.open_files_limit(), 300 + 256 + 64);
}
