//! The cache of scores, as clients meet it: in memory here, shared through Redis in `redis`.

mod redis;

use std::{collections::BTreeMap, thread};

use serde_json::{Value, json};

use crate::support::{Answer, Server};

/// A request for this query and documents of its own numbers.
fn body(query: &str, documents: impl IntoIterator<Item = usize>) -> String {
    let documents: Vec<String> = documents
        .into_iter()
        .map(|number| format!("Document {number} tells how many people live in town {number}."))
        .collect();
    json!({"query": query, "documents": documents, "top_n": documents.len()}).to_string()
}

/// Sends a request; what comes back is a success.
fn rerank(server: &Server, body: &str) -> Answer {
    let answer = server.post("/v2/rerank", body);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

/// The indices and scores of an answer, as they were written.
fn results(answer: &Answer) -> Value {
    answer.json()["results"].clone()
}

/// How many pairs of the request were computed before.
fn cached(answer: &Answer) -> usize {
    answer.header("x-cached-pairs").unwrap().parse().unwrap()
}

/// Pairs so far, by where their logits came from.
fn pairs(server: &Server) -> BTreeMap<String, u64> {
    let metrics = server.get("/metrics").body;
    let lines = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix("reranker_cache_pairs_total{source=\"")?;
        let (source, count) = rest.split_once("\"} ")?;
        Some((source.to_owned(), count.parse().unwrap()))
    });
    lines.collect()
}

/// The value of a metric without labels, as it is written.
fn metric(server: &Server, name: &str) -> String {
    let metrics = server.get("/metrics").body;
    let prefix = format!("{name} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&prefix));
    line.unwrap().to_owned()
}

#[test]
fn a_repeated_request_is_not_computed_again() {
    let server = Server::start(&[]);
    let body = body("How many people live in town 3?", 0..5);
    let (first, second) = (rerank(&server, &body), rerank(&server, &body));
    assert_eq!((cached(&first), cached(&second)), (0, 5));
    assert_eq!(first.header("x-compute-pairs"), Some("5"));
    assert_eq!(results(&first), results(&second));
    assert!(server.wait_for_log("reranked").contains("pairs=5 cached=0"));
    assert!(server.wait_for_log("reranked").contains("pairs=5 cached=5"));
    let timing = second.header("server-timing").unwrap();
    assert!(timing.contains("cache;dur="), "{timing}");
    assert_eq!(
        pairs(&server),
        BTreeMap::from([("memory".into(), 5), ("model".into(), 5)])
    );
    assert_eq!(metric(&server, "reranker_cache_entries"), "5");
    assert_ne!(metric(&server, "reranker_cache_bytes"), "0");
    assert_ne!(metric(&server, "reranker_cache_saved_seconds_total"), "0");
}

#[test]
fn scores_are_those_of_a_server_without_a_cache() {
    let (with, without) = (
        Server::start(&[]),
        Server::start(&[("RERANKER_CACHE_MB", "0")]),
    );
    let query = "How many people live in town 3?";
    rerank(&with, &body(query, [1, 3, 5]));
    for documents in [vec![0, 1, 2, 3, 4, 5], vec![5, 4, 3], vec![3, 9, 3, 1]] {
        let body = body(query, documents);
        let (one, other) = (rerank(&with, &body), rerank(&without, &body));
        assert_eq!(results(&one), results(&other));
        assert!(cached(&one) >= 2, "{one:?}");
        assert_eq!(cached(&other), 0);
    }
    assert_eq!(pairs(&without).keys().collect::<Vec<_>>(), ["bypass"]);
}

#[test]
fn what_is_nearly_the_same_is_another_pair() {
    let server = Server::start(&[]);
    rerank(&server, &body("Article 6102", 0..2));
    for (query, documents) in [
        ("Article 6103", 0..2),
        ("article 6102", 0..2),
        ("Article 6102?", 0..2),
        ("Article 6102", 2..4),
    ] {
        let answer = rerank(&server, &body(query, documents));
        assert_eq!(cached(&answer), 0, "{query}");
    }
}

#[test]
fn a_request_can_ask_that_nothing_of_it_is_kept() {
    let server = Server::start(&[]);
    let body = body("a", 0..3);
    let private = |directives: &str| {
        let head = format!(
            "POST /v2/rerank HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCache-Control: {directives}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        crate::support::read_answer(server.begin(&head, body.as_bytes()))
    };
    assert_eq!(cached(&private("no-store")), 0);
    assert_eq!(metric(&server, "reranker_cache_entries"), "0");
    assert_eq!(cached(&rerank(&server, &body)), 0);
    assert_eq!(cached(&private("max-age=0, No-Store")), 0);
    assert_eq!(cached(&private("no-transform")), 3);
    assert_eq!(pairs(&server)["bypass"], 6);
}

#[test]
fn windows_and_truncated_documents_are_known_by_what_is_read_of_them() {
    let server = Server::start(&[("RERANKER_MAX_LENGTH", "64")]);
    let long = "All about towns and the people who live there. ".repeat(40);
    let body = |text: &str, chunks: usize| {
        json!({"query": "towns", "documents": [text], "max_chunks_per_doc": chunks}).to_string()
    };
    assert_eq!(cached(&rerank(&server, &body(&long, 1))), 0);
    // Only the end that is cut off differs.
    assert_eq!(
        cached(&rerank(&server, &body(&format!("{long}More."), 1))),
        1
    );
    let windows = rerank(&server, &body(&long, 4));
    assert_eq!(windows.header("x-compute-pairs"), Some("4"));
    assert_eq!(cached(&windows), 1);
    assert_eq!(cached(&rerank(&server, &body(&long, 4))), 4);
}

#[test]
fn equal_requests_at_once_are_computed_once() {
    const CLIENTS: usize = 8;
    const DOCUMENTS: usize = 60;
    let server = Server::start(&[]);
    let body = body("How many people live in town 3?", 0..DOCUMENTS);
    let answers: Vec<Answer> = thread::scope(|scope| {
        let clients = (0..CLIENTS).map(|_| scope.spawn(|| rerank(&server, &body)));
        let clients: Vec<_> = clients.collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    });
    assert!(
        answers
            .iter()
            .all(|answer| results(answer) == results(&answers[0]))
    );
    let pairs = pairs(&server);
    assert_eq!(pairs["model"], DOCUMENTS as u64, "{pairs:?}");
    assert_eq!(pairs.values().sum::<u64>(), (CLIENTS * DOCUMENTS) as u64);
}

#[test]
fn a_small_cache_stays_small() {
    let server = Server::start(&[("RERANKER_CACHE_MB", "1")]);
    for round in 0..24 {
        let words: Vec<String> = (0..500).map(|word| format!("{round} {word}")).collect();
        rerank(
            &server,
            &json!({"query": "q", "documents": words}).to_string(),
        );
    }
    assert_eq!(pairs(&server)["model"], 12_000);
    let bytes: u64 = metric(&server, "reranker_cache_bytes").parse().unwrap();
    assert!((300_000..=1_000_000).contains(&bytes), "{bytes}");
}

#[test]
fn options_that_cannot_be_used_are_told() {
    let output = crate::support::program()
        .env("RERANKER_REDIS_URL", "http://:hunter2@cache")
        .env("RERANKER_CACHE_TTL", "0")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("RERANKER_CACHE_TTL is 0; it must be from 1 to"),
        "{said}"
    );
    assert!(said.contains("RERANKER_REDIS_URL cannot be used"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    assert_eq!(output.status.code(), Some(1));
}
