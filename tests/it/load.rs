//! Many clients at once, clients that leave, and the end of the process.

use std::{
    net::TcpListener,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{Server, program, read_answer, request_head};

/// The model computes every pair, also those that come again.
const NO_CACHE: (&str, &str) = ("RERANKER_CACHE_MB", "0");

/// A request of its own for each client: between 1 and 12 documents of various lengths.
fn request(client: usize) -> String {
    let words = [
        "serveur", "web", "fichiers", "compress", "image", "réseau", "python", "library", "jeu",
        "editor",
    ];
    let text = |seed: usize, length: usize| -> String {
        (0..length)
            .map(|i| words[(seed * 7 + i * i * 3 + i) % words.len()])
            .collect::<Vec<_>>()
            .join(" ")
    };
    let documents: Vec<Value> = (0..=client % 12)
        .map(|i| json!({"content": text(client + i, 1 + (client * 5 + i * 11) % 90), "i": i}))
        .collect();
    json!({"query": text(client, 3), "documents": documents, "top_k": 100}).to_string()
}

fn documents(answer: &Value) -> &Value {
    &answer["documents"]
}

#[test]
fn two_hundred_at_once_get_what_each_gets_alone() {
    let server = Server::start(&[NO_CACHE]);
    let alone: Vec<Value> = (0..200)
        .map(|client| server.post("/rerank", &request(client)).json())
        .collect();
    let start = Barrier::new(200);
    let together: Vec<Value> = thread::scope(|scope| {
        let clients: Vec<_> = (0..200)
            .map(|client| {
                let (server, start) = (&server, &start);
                scope.spawn(move || {
                    let body = request(client);
                    start.wait();
                    let answer = server.post("/rerank", &body);
                    assert_eq!(answer.status, 200, "{answer:?}");
                    answer.json()
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    });
    for (client, (alone, together)) in alone.iter().zip(&together).enumerate() {
        assert_eq!(
            documents(together),
            documents(alone),
            "client {client}: scores are equal to the last bit"
        );
    }
}

/// Enough work to be still running when the next thing happens.
fn large_request() -> String {
    let long = "un serveur web rapide et léger pour les fichiers statiques ".repeat(25);
    let documents: Vec<Value> = (0..100)
        .map(|i| json!({"content": format!("{i} {long}")}))
        .collect();
    json!({"query": "serveur web", "documents": documents, "top_k": 1000}).to_string()
}

#[test]
fn sigterm_finishes_what_is_in_flight_and_exits_cleanly() {
    // Patience enough for a slow machine.
    let server = Server::start(&[
        NO_CACHE,
        ("RERANKER_DRAIN_TIMEOUT_MS", "600000"),
        ("RERANKER_DEADLINE_MS", "600000"),
    ]);
    let body = large_request();
    let in_flight = server.begin(
        &request_head("/rerank", Some("application/json"), body.len()),
        body.as_bytes(),
    );
    wait_until_queued(&server);
    server.signal("TERM");
    let answer = read_answer(in_flight);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["count"], 100);
    assert!(server.wait().success());
}

#[test]
fn a_drain_that_takes_too_long_is_cut_short() {
    let server = Server::start(&[NO_CACHE, ("RERANKER_DRAIN_TIMEOUT_MS", "1")]);
    let body = large_request();
    let _in_flight = server.begin(
        &request_head("/rerank", Some("application/json"), body.len()),
        body.as_bytes(),
    );
    wait_until_queued(&server);
    server.signal("TERM");
    server.wait_for_log("giving up requests in progress: they did not finish");
    assert!(server.wait().success());
}

#[test]
fn a_client_that_hangs_up_frees_its_place() {
    let server = Server::start(&[NO_CACHE]);
    let body = large_request();
    let leaving = server.begin(
        &request_head("/rerank", Some("application/json"), body.len()),
        body.as_bytes(),
    );
    wait_until_queued(&server);
    drop(leaving);
    // The queue empties at once, not after the seconds that the work would take.
    while queued(&server) > 0 {
        thread::yield_now();
    }
    let after = server.post("/rerank", &request(3));
    assert_eq!(after.status, 200);
    // The request that left never produced a log line: it was not computed to its end.
    let line = server.wait_for_log("reranked");
    assert!(line.contains("documents=4"), "{line}");
}

#[test]
fn past_the_deadline_the_answer_is_504_and_the_queue_is_free() {
    // The model waits for company that does not come.
    let server = Server::start(&[
        NO_CACHE,
        ("RERANKER_DEADLINE_MS", "300"),
        ("RERANKER_BATCH_WAIT_MS", "60000"),
    ]);
    let answer = server.post("/rerank", r#"{"query":"a","documents":[{"content":"b"}]}"#);
    assert_eq!(answer.status, 504, "{answer:?}");
    assert!(answer.json()["detail"].as_str().unwrap().contains("300 ms"));
    while queued(&server) > 0 {
        thread::yield_now();
    }
}

#[test]
fn what_takes_longer_than_its_deadline_even_alone_is_refused_at_once() {
    let server = Server::start(&[NO_CACHE, ("RERANKER_DEADLINE_MS", "300")]);
    let answer = server.post("/rerank", &large_request());
    assert_eq!(answer.status, 413, "{answer:?}");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains("alone") && detail.contains("RERANKER_DEADLINE_MS"),
        "{detail}"
    );
    assert_eq!(queued(&server), 0);
}

#[test]
fn overload_is_answered_at_once_and_costs_no_answers() {
    const DEADLINE: Duration = Duration::from_secs(5);
    let server = Server::start(&[NO_CACHE, ("RERANKER_DEADLINE_MS", "5000")]);
    let documents: Vec<Value> = (0..40)
        .map(|i| {
            json!(format!(
                "{i} un serveur web rapide et léger pour les fichiers statiques"
            ))
        })
        .collect();
    let body = json!({"query": "serveur web", "documents": documents}).to_string();
    let began = Instant::now();
    let answers: Vec<(u16, Option<u64>, Duration)> = thread::scope(|scope| {
        let clients: Vec<_> = (0..400)
            .map(|_| {
                scope.spawn(|| {
                    let answer = server.post("/v1/rerank", &body);
                    let retry_after = answer.header("retry-after").map(|s| s.parse().unwrap());
                    (answer.status, retry_after, began.elapsed())
                })
            })
            .collect();
        clients.into_iter().map(|c| c.join().unwrap()).collect()
    });
    let answered = answers.iter().filter(|answer| answer.0 == 200).count();
    assert!(answered > 0, "{answers:?}");
    for (status, retry_after, after) in answers {
        match status {
            200 => assert!(after < 2 * DEADLINE),
            429 => assert!(retry_after.is_some_and(|seconds| seconds > 0)),
            // A machine that is busy with other tests may stall.
            _ => assert_eq!(status, 504),
        }
    }
}

#[test]
fn a_full_queue_answers_429_at_once_with_retry_after() {
    let server = Server::start(&[
        NO_CACHE,
        ("RERANKER_MAX_QUEUE_PAIRS", "100"),
        ("RERANKER_MAX_DOCUMENTS", "100"),
    ]);
    let body = large_request();
    let _first = server.begin(
        &request_head("/rerank", Some("application/json"), body.len()),
        body.as_bytes(),
    );
    wait_until_queued(&server);
    let refused = server.post("/rerank", &body);
    assert_eq!(refused.status, 429, "{refused:?}");
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
    assert!(
        refused.json()["detail"]
            .as_str()
            .unwrap()
            .contains("queue of 100"),
        "{refused:?}"
    );
}

#[test]
fn a_small_request_overtakes_a_large_one() {
    let server = Server::start(&[NO_CACHE]);
    let body = large_request();
    let large = server.begin(
        &request_head("/rerank", Some("application/json"), body.len()),
        body.as_bytes(),
    );
    wait_until_queued(&server);
    let small = server.post("/rerank", &request(0));
    assert_eq!(small.status, 200);
    assert!(
        queued(&server) > 0,
        "the large request is still being worked on"
    );
    drop(large);
}

fn queued(server: &Server) -> u64 {
    server.get("/info").json()["queued_pairs"].as_u64().unwrap()
}

fn wait_until_queued(server: &Server) {
    while queued(server) == 0 {
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn while_the_model_loads_the_port_is_open_and_says_so() {
    // A hub that accepts connections and never answers.
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", hub.local_addr().unwrap());
    let home = tempfile::tempdir().unwrap();
    let server = Server::start_loading(&[
        ("RERANKER_MODEL", "some/model"),
        ("HF_ENDPOINT", &endpoint),
        ("HF_HOME", home.path().to_str().unwrap()),
    ]);
    let loading = json!({"detail": "Modèle non chargé"});
    for answer in [
        server.get("/health"),
        server.get("/info"),
        server.post("/rerank", &request(1)),
    ] {
        assert_eq!((answer.status, answer.json()), (503, loading.clone()));
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!(server.get("/").json()["status"], "loading");
    // A malformed request is told so even now, as the old service did.
    assert_eq!(server.post("/rerank", "{}").status, 422);
    assert_eq!(
        server
            .post("/rerank", r#"{"query":" ","documents":[]}"#)
            .status,
        503
    );
    let port = server.address.port().to_string();
    let check = program()
        .args(["healthcheck", "--port", &port])
        .output()
        .unwrap();
    assert_eq!(check.status.code(), Some(1));
    server.signal("TERM");
    assert!(server.wait().success());
}

#[test]
fn a_load_that_fails_ends_the_server_with_exit_code_1() {
    let server = Server::start_loading(&[("RERANKER_MODEL", "/no/such/model")]);
    let line = server.wait_for_log("error: ");
    assert!(line.contains("/no/such/model"), "{line}");
    assert_eq!(server.wait().code(), Some(1));
}
