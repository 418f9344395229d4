//! One line of the log and one count for every request, whatever became of it.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::support::{Answer, Server, read_answer};

const BODY: &str = r#"{"query":"a","documents":["b","c"]}"#;

fn send(server: &Server, request: &str, headers: &[&str], body: &str) -> Answer {
    let line = format!("{request} HTTP/1.1");
    let length = format!("Content-Length: {}", body.len());
    let fixed = ["Host: x", "Connection: close", &length, "", ""];
    let head = [&[&*line], headers, &fixed].concat();
    let head = head.join("\r\n");
    read_answer(server.begin(&head, body.as_bytes()))
}

fn has_all(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "`{word}` is not in: {line}");
    }
}

fn sample(server: &Server, name: &str) -> u64 {
    let metrics = send(server, "GET /metrics", &[KEY], "").body;
    let mut lines = metrics.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}

const KEY: &str = "X-API-Key: good-key";
const BLANK: &str = r#"{"query":" ","documents":[{"content":"b"}]}"#;
const MANY: &str = r#"{"query":"a","documents":["b","b","b"]}"#;

/// What is sent, and what the line must say of it: status, reason, path.
type Case = (
    &'static str,
    &'static [&'static str],
    &'static str,
    (u16, &'static str, &'static str),
);

const REFUSALS: [Case; 8] = [
    ("POST /rerank", &[KEY], BLANK, (400, "invalid", "/rerank")),
    ("POST /rerank", &[], BODY, (401, "unauthorized", "/rerank")),
    (
        "GET /a%20b?key=good-key",
        &[KEY],
        "",
        (404, "no_route", "/a%20b"),
    ),
    (
        "DELETE /v1/rerank",
        &[KEY],
        "",
        (405, "method", "/v1/rerank"),
    ),
    (
        "POST /v1/rerank",
        &[KEY],
        MANY,
        (413, "too_large", "/v1/rerank"),
    ),
    (
        "POST /v1/rerank",
        &[KEY, "Content-Encoding: secret-encoding"],
        BODY,
        (415, "encoding", "/v1/rerank"),
    ),
    ("POST /rerank", &[KEY], "{", (422, "invalid", "/rerank")),
    // Answered by the library that serves the pages.
    (
        "GET /docs/nothing",
        &[],
        "",
        (404, "no_route", "/docs/nothing"),
    ),
];

#[test]
fn every_refusal_has_a_line_and_is_counted_once() {
    let server = Server::start(&[
        ("RERANKER_API_KEY", "good-key"),
        ("RERANKER_MAX_DOCUMENTS", "2"),
        ("RERANKER_CORS_ORIGINS", "https://app.example"),
    ]);
    for (request, headers, body, (status, reason, path)) in REFUSALS {
        let counter = format!("reranker_refused_total{{reason=\"{reason}\"}}");
        let before = sample(&server, &counter);
        let id = format!("X-Request-Id: {reason}-{status}");
        let answer = send(&server, request, &[headers, &[&id]].concat(), body);
        assert_eq!(answer.status, status, "{request}");
        let line = server.wait_for_log("refused");
        let (method, _) = request.split_once(' ').unwrap();
        has_all(
            &line,
            &[
                &format!("request_id={reason}-{status}"),
                &format!("method={method} path={path} peer=127.0.0.1:"),
                &format!("status={status} reason=\"{reason}\""),
                &format!("received={}", body.len()),
                &format!("sent={}", answer.body.len()),
                "total_ms=",
                "why=\"",
            ],
        );
        for secret in ["good-key", "secret"] {
            assert!(!line.contains(secret), "{line}");
        }
        assert_eq!(sample(&server, &counter), before + 1, "{request}");
    }
}

#[test]
fn answers_of_all_kinds_have_a_line_and_a_count_with_few_labels() {
    let server = Server::start(&[]);
    send(&server, "GET /", &["Accept: text/html"], "");
    has_all(
        &server.wait_for_log("answered"),
        &["INFO", "path=/ ", "status=303"],
    );
    send(
        &server,
        "POST /v1/rerank?token=secret",
        &["X-Request-Id: mine"],
        BODY,
    );
    let line = server.wait_for_log("reranked");
    has_all(
        &line,
        &[
            "request_id=mine method=POST path=/v1/rerank peer=127.0.0.1:",
            "documents=2",
            "status=200",
            "received=35",
            "sent=",
        ],
    );
    assert!(!line.contains("secret"), "{line}");
    for path in ["/x/1", "/x/2", "/v1/models/a", "/v1/models/b"] {
        server.get(path);
    }
    for (labels, expected) in [
        (r#"format="none",route="/",status="303""#, 1),
        (r#"format="results",route="/v1/rerank",status="200""#, 1),
        (r#"format="none",route="other",status="404""#, 2),
        (r#"format="none",route="/v1/models/{*id}",status="200""#, 2),
    ] {
        let name = format!("reranker_requests_total{{{labels}}}");
        assert_eq!(sample(&server, &name), expected, "{labels}");
    }
}

#[test]
fn probes_that_succeed_are_silent_and_those_that_fail_are_not() {
    // A hub that accepts connections and never answers.
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", hub.local_addr().unwrap());
    let loading = Server::start_loading(&[
        ("RERANKER_MODEL", "some/model"),
        ("HF_ENDPOINT", &endpoint),
        ("HF_HOME", "/nonexistent"),
    ]);
    assert_eq!(loading.get("/health").status, 503);
    has_all(
        &loading.wait_for_log("refused"),
        &["path=/health", "status=503 reason=\"loading\""],
    );
    let server = Server::start(&[]);
    for path in ["/health", "/ping", "/metrics", "/nothing"] {
        server.get(path);
    }
    server.signal("TERM");
    let log = server.log_until_end();
    assert!(log.contains("path=/nothing"), "{log}");
    for path in ["/health", "/ping", "/metrics"] {
        assert!(!log.contains(&format!("path={path}")), "{log}");
    }
    let server = Server::start(&[("LOG_LEVEL", "debug")]);
    server.get("/health");
    has_all(
        &server.wait_for_log("path=/health"),
        &["DEBUG", "answered status=200"],
    );
}

#[test]
fn a_client_that_hangs_up_leaves_a_line() {
    let server = Server::start(&[]);
    let long = "un serveur web rapide et léger pour les fichiers statiques ".repeat(25);
    let documents: Vec<String> = (0..100).map(|i| format!("{i} {long}")).collect();
    let body = json!({"query": "serveur", "documents": documents}).to_string();
    let head = format!(
        "POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let leaving = server.begin(&head, body.as_bytes());
    while sample(&server, "reranker_requests_in_progress") == 0 {}
    drop(leaving);
    has_all(
        &server.wait_for_log("refused"),
        &["path=/v1/rerank", "reason=\"hung_up\""],
    );
    assert_eq!(
        sample(&server, r#"reranker_refused_total{reason="hung_up"}"#),
        1
    );
}

#[test]
fn what_a_client_sends_is_repeated_in_part_only() {
    let server = Server::start(&[]);
    let long = "x".repeat(30_000);
    let encoding = format!("Content-Encoding: {long}");
    let answer = send(&server, "POST /v1/rerank", &[&encoding], BODY);
    assert_eq!(answer.status, 415);
    assert!(answer.body.len() < 1000, "{} bytes", answer.body.len());
    server.wait_for_log("refused");

    let request = format!("{} /{long}", "M".repeat(20_000));
    assert_eq!(send(&server, &request, &[], "").status, 404);
    let line = server.wait_for_log("refused");
    assert!(line.len() < 1000, "{line}");
    assert!(
        line.contains("method=MMMM") && line.contains("path=/xxx"),
        "{line}"
    );
}

/// The fields of a line in the text form, by the words before each `=`.
fn fields_of_text(line: &str) -> Vec<String> {
    let words = line
        .split_whitespace()
        .filter_map(|word| word.split_once('='));
    let mut names: Vec<String> = words.map(|(name, _)| name.to_owned()).collect();
    for name in &mut names {
        *name = name.rsplit('{').next().unwrap().to_owned();
    }
    names.sort_unstable();
    names
}

/// The fields of a line in JSON, those of the request with the others.
fn fields_of_json(line: &Value) -> Vec<String> {
    let members = line.as_object().unwrap().iter();
    let own = members
        .filter(|(name, _)| !["timestamp", "level", "message", "span"].contains(&name.as_str()));
    let span = line["span"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "name");
    let mut names: Vec<String> = own.chain(span).map(|(name, _)| name.clone()).collect();
    names.sort_unstable();
    names
}

#[test]
fn lines_in_json_have_the_fields_of_lines_for_people() {
    let (text, json) = (Server::start(&[]), Server::start(&[("LOG_FORMAT", "json")]));
    for server in [&text, &json] {
        assert_eq!(send(server, "POST /rerank", &[], "{").status, 422);
        assert_eq!(send(server, "POST /v2/rerank", &[], BODY).status, 200);
        assert_eq!(send(server, "GET /info", &[], "").status, 200);
    }
    for message in ["refused", "reranked", "answered"] {
        let for_people = text.wait_for_log(&format!(": {message} "));
        let line = json.wait_for_log(&format!("\"message\":\"{message}\""));
        let line: Value = serde_json::from_str(&line).unwrap();
        // The reason in words has spaces and signs of its own.
        let mut expected = fields_of_text(&for_people);
        expected.retain(|name| line[name].is_null() != line["span"][name].is_null());
        assert_eq!(fields_of_json(&line), expected, "{for_people}");
        assert!(
            line["status"].is_u64() && line["span"]["request_id"].is_string(),
            "{line}"
        );
    }
    json.signal("TERM");
    for line in json.log_until_end().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(
            line["timestamp"].is_string() && line["message"].is_string(),
            "{line}"
        );
    }
}

#[test]
fn why_the_program_ends_is_json_too() {
    let output = crate::support::program()
        .envs([("LOG_FORMAT", "json"), ("RERANKER_CACHE_TTL", "0")])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let line: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(line["level"], "ERROR");
    assert!(
        line["message"]
            .as_str()
            .unwrap()
            .contains("RERANKER_CACHE_TTL is 0"),
        "{line}"
    );
}
