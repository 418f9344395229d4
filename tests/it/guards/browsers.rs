//! Headers that browsers, proxies and people look at: CORS, request ids, HEAD and OPTIONS.

use super::{BODY, ask, post};
use crate::support::{Answer, Server};

const PAGE: &str = "https://app.example";

fn preflight(server: &Server, origin: &str) -> Answer {
    let headers = [
        ("Origin", origin),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "content-type,x-api-key"),
    ];
    ask(server, "OPTIONS", "/rerank", &headers)
}

fn allowed(answer: &Answer) -> Option<&str> {
    answer.header("access-control-allow-origin")
}

#[test]
fn without_the_option_no_page_may_call() {
    let server = Server::start(&[]);
    let answer = post(&server, &[("Origin", PAGE)], BODY.as_bytes());
    assert_eq!((answer.status, allowed(&answer)), (200, None));
    let answer = preflight(&server, PAGE);
    assert_eq!((answer.status, allowed(&answer)), (405, None));
}

#[test]
fn named_origins_may_call_and_read_even_a_refusal() {
    let server = Server::start(&[
        (
            "RERANKER_CORS_ORIGINS",
            "http://localhost:3000,https://app.example",
        ),
        ("RERANKER_API_KEY", "a-key"),
    ]);
    for origin in [PAGE, "http://localhost:3000"] {
        let answer = preflight(&server, origin);
        assert_eq!((answer.status, allowed(&answer)), (200, Some(origin)));
        let headers = answer.header("access-control-allow-headers").unwrap();
        for header in ["authorization", "content-type", "x-api-key", "x-request-id"] {
            assert!(headers.contains(header), "{header}: {headers}");
        }
        let methods = answer.header("access-control-allow-methods").unwrap();
        assert!(
            methods.contains("POST") && methods.contains("GET"),
            "{methods}"
        );
    }
    for origin in [
        "https://evil.example",
        "https://app.example:8443",
        "http://app.example",
        "null",
    ] {
        assert_eq!(allowed(&preflight(&server, origin)), None, "{origin}");
    }
    let refused = post(&server, &[("Origin", PAGE)], BODY.as_bytes());
    assert_eq!((refused.status, allowed(&refused)), (401, Some(PAGE)));
    let answer = post(
        &server,
        &[("Origin", PAGE), ("X-API-Key", "a-key")],
        BODY.as_bytes(),
    );
    assert_eq!((answer.status, allowed(&answer)), (200, Some(PAGE)));
    let exposed = answer.header("access-control-expose-headers").unwrap();
    for header in [
        "x-request-id",
        "retry-after",
        "x-total-time",
        "x-compute-tokens",
    ] {
        assert!(exposed.contains(header), "{header}: {exposed}");
    }
}

#[test]
fn a_star_lets_every_page_call() {
    let server = Server::start(&[("RERANKER_CORS_ORIGINS", "*")]);
    assert_eq!(allowed(&preflight(&server, PAGE)), Some("*"));
    assert_eq!(
        allowed(&post(&server, &[("Origin", "null")], BODY.as_bytes())),
        Some("*")
    );
}

#[test]
fn every_answer_has_a_request_id() {
    let server = Server::start(&[("RERANKER_MAX_BODY_BYTES", "200")]);
    let id = |answer: &Answer| answer.header("x-request-id").unwrap().to_owned();
    let longest = "~".repeat(128);
    for sent in ["a", "3f2c-77", &longest] {
        assert_eq!(
            id(&post(&server, &[("X-Request-Id", sent)], BODY.as_bytes())),
            sent
        );
        let line = server.wait_for_log("reranked");
        assert!(
            line.contains(&format!("request_id={sent}")) && line.contains("documents=2"),
            "{line}"
        );
    }
    let too_long = "~".repeat(129);
    for sent in ["two words", &too_long, "é", ""] {
        let given = id(&post(&server, &[("X-Request-Id", sent)], BODY.as_bytes()));
        assert_ne!(given, sent);
        assert_eq!(given.len(), 36, "a UUID: {given}");
    }
    let large = " ".repeat(201);
    let answers = [
        ask(&server, "GET", "/nothing", &[]),
        ask(&server, "GET", "/rerank", &[]),
        post(&server, &[], b"{"),
        post(&server, &[], large.as_bytes()),
    ];
    let mut ids: Vec<String> = answers.iter().map(id).collect();
    assert_eq!(answers.map(|answer| answer.status), [404, 405, 422, 413]);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

#[test]
fn an_id_stands_on_the_line_of_a_refusal() {
    let server = Server::start_loading(&[("RUST_LOG", "info"), ("RERANKER_MAX_BODY_BYTES", "10")]);
    post(&server, &[("X-Request-Id", "mine")], BODY.as_bytes());
    let line = server.wait_for_log("limit of 10 bytes");
    assert!(
        line.contains("WARN") && line.contains("request_id=mine"),
        "{line}"
    );
}

#[test]
fn head_and_options_behave() {
    let server = Server::start(&[]);
    let get = ask(&server, "GET", "/health", &[]);
    let head = ask(&server, "HEAD", "/health", &[]);
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-length"), get.header("content-length"));
    assert_eq!(head.header("content-type"), Some("application/json"));
    let options = ask(&server, "OPTIONS", "/rerank", &[]);
    assert_eq!(
        (options.status, options.header("allow")),
        (405, Some("POST"))
    );
    let head = ask(&server, "HEAD", "/rerank", &[]);
    assert_eq!((head.status, head.body.as_str()), (405, ""));
}
