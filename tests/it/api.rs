//! The contract with RAGFab, byte for byte where a client could notice.

use serde_json::{Value, json};

use crate::support::Server;

/// The curl of the migration guide.
const GUIDE: &str = r#"{
    "query": "Comment résoudre erreur fusappel 6102?",
    "documents": [
      {"content": "Erreur fusappel 6102: vérifier configuration", "metadata": {}},
      {"content": "Documentation fusappel", "metadata": {}}
    ]
  }"#;

fn rerank(server: &Server, body: &Value) -> Value {
    let answer = server.post("/rerank", &body.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn contents(answer: &Value) -> Vec<&str> {
    answer["documents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["content"].as_str().unwrap())
        .collect()
}

#[test]
fn the_guides_curl_answers_in_a_sensible_order() {
    let server = Server::start(&[]);
    let answer = server.post("/rerank", GUIDE);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let answer = answer.json();
    assert_eq!(
        contents(&answer),
        [
            "Erreur fusappel 6102: vérifier configuration",
            "Documentation fusappel"
        ]
    );
    assert_eq!(answer["count"], 2);
    assert_eq!(answer["model"], "demo");
    assert!(answer["processing_time"].as_f64().unwrap() > 0.0);
    assert_eq!(
        answer.as_object().unwrap().len(),
        4,
        "exactly the four keys of the old service"
    );
    for document in answer["documents"].as_array().unwrap() {
        assert_eq!(document["metadata"], json!({}));
        assert!((0.0..=1.0).contains(&document["rerank_score"].as_f64().unwrap()));
    }
}

#[test]
fn the_seven_fields_and_unknown_ones_come_back_unchanged() {
    let server = Server::start(&[]);
    let document = json!({
        "chunk_id": "c-1", "document_id": "d-1", "document_title": "Titre", "document_source": "a/b.pdf",
        "content": "Le serveur web est lent", "chunk_index": 7, "similarity": 0.5,
        "metadata": {"page": 3, "tags": ["é", null]}, "extra": "1.0"
    });
    let answer = rerank(
        &server,
        &json!({"query": "serveur lent", "documents": [document]}),
    );
    let mut echoed = answer["documents"][0].clone();
    echoed
        .as_object_mut()
        .unwrap()
        .remove("rerank_score")
        .unwrap();
    assert_eq!(echoed, document);
}

#[test]
fn numbers_come_back_as_they_were_written() {
    let server = Server::start(&[]);
    let body = r#"{"query":"a","documents":[{"content":"b","x":1.0,"y":1e5,"z":12345678901234567890123,"w":-0.0}]}"#;
    let answer = server.post("/rerank", body);
    for field in [
        r#""x":1.0"#,
        r#""y":1e5"#,
        r#""z":12345678901234567890123"#,
        r#""w":-0.0"#,
    ] {
        assert!(answer.body.contains(field), "{field}: {}", answer.body);
    }
}

#[test]
fn top_k_defaults_to_five_and_may_be_anything_sensible() {
    let server = Server::start(&[]);
    let documents: Vec<Value> = (0..8)
        .map(|i| json!({"content": format!("document {i}")}))
        .collect();
    for (top_k, count) in [
        (None, 5),
        (Some(json!(null)), 5),
        (Some(json!(0)), 0),
        (Some(json!(3)), 3),
        (Some(json!("2")), 2),
        (Some(json!(100)), 8),
    ] {
        let mut body = json!({"query": "document", "documents": documents});
        if let Some(top_k) = &top_k {
            body["top_k"] = top_k.clone();
        }
        let answer = rerank(&server, &body);
        assert_eq!(answer["count"], count, "top_k {top_k:?}");
        assert_eq!(
            answer["documents"].as_array().unwrap().len(),
            count,
            "top_k {top_k:?}"
        );
    }
}

#[test]
fn equal_documents_tie_in_the_order_of_the_request() {
    let server = Server::start(&[]);
    let documents: Vec<Value> =
        (0..6).map(|i| json!({"content": if i % 2 == 0 { "the same text" } else { " the same text\n" }, "i": i})).collect();
    let answer = rerank(
        &server,
        &json!({"query": "text", "documents": documents, "top_k": 6}),
    );
    let order: Vec<i64> = answer["documents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["i"].as_i64().unwrap())
        .collect();
    assert_eq!(order, [0, 1, 2, 3, 4, 5]);
    let score = &answer["documents"][0]["rerank_score"];
    assert!(
        answer["documents"]
            .as_array()
            .unwrap()
            .iter()
            .all(|d| &d["rerank_score"] == score)
    );
}

#[test]
fn the_old_services_errors_word_for_word() {
    let server = Server::start(&[]);
    for (body, status, detail) in [
        (
            json!({"query": "  \n", "documents": [{"content": "a"}]}),
            400,
            json!("La query ne peut pas être vide"),
        ),
        (
            json!({"query": "a", "documents": []}),
            400,
            json!("La liste de documents ne peut pas être vide"),
        ),
        (
            json!({"documents": [{"content": "a"}]}),
            422,
            json!([{"type": "missing", "loc": ["body", "query"], "msg": "Field required",
                    "input": {"documents": [{"content": "a"}]}}]),
        ),
        (
            json!({"query": "a", "documents": [{"title": "b"}]}),
            422,
            json!([{"type": "missing", "loc": ["body", "documents", 0, "content"], "msg": "Field required",
                    "input": {"title": "b"}}]),
        ),
    ] {
        let answer = server.post("/rerank", &body.to_string());
        assert_eq!(
            (answer.status, answer.json()),
            (status, json!({"detail": detail})),
            "{body}"
        );
    }
    let negative = server.post(
        "/rerank",
        r#"{"query":"a","documents":[{"content":"b"}],"top_k":-1}"#,
    );
    assert_eq!(negative.status, 422);
}

#[test]
fn a_missing_content_type_is_accepted_and_a_wrong_one_is_not() {
    let server = Server::start(&[]);
    assert_eq!(
        server.post_as("/rerank", None, GUIDE.as_bytes()).status,
        200
    );
    assert_eq!(
        server
            .post_as(
                "/rerank",
                Some("application/json; charset=utf-8"),
                GUIDE.as_bytes()
            )
            .status,
        200
    );
    assert_eq!(
        server
            .post_as("/rerank", Some("text/plain"), GUIDE.as_bytes())
            .status,
        422
    );
}

#[test]
fn the_other_routes_answer_as_before() {
    let server = Server::start(&[]);
    assert_eq!(
        server.get("/health").json(),
        json!({"status": "healthy", "device": "cpu", "model": "demo"})
    );
    let root = server.get("/").json();
    assert_eq!(
        (&root["service"], &root["status"]),
        (&json!("Serveur de reranking"), &json!("ready"))
    );
    let info = server.get("/info").json();
    assert_eq!(
        (&info["model_name"], &info["max_length"]),
        (&json!("demo"), &json!(512))
    );
    assert!(info["description"].is_string());
    let unknown = server.get("/nothing");
    assert_eq!(
        (unknown.status, unknown.json()),
        (404, json!({"detail": "Not Found"}))
    );
    let wrong_method = server.get("/rerank");
    assert_eq!(
        (wrong_method.status, wrong_method.json()),
        (405, json!({"detail": "Method Not Allowed"}))
    );
    // The old service sent a redirect, which some clients do not follow.
    assert_eq!(server.post("/rerank/", GUIDE).json()["count"], 2);
}

#[test]
fn limits_hold_at_the_limit_and_one_past_it() {
    let server = Server::start(&[
        ("RERANKER_MAX_DOCUMENTS", "3"),
        ("RERANKER_MAX_BODY_BYTES", "500"),
    ]);
    let request =
        |n: usize| json!({"query": "a", "documents": vec![json!({"content": "b"}); n]}).to_string();
    assert_eq!(server.post("/rerank", &request(3)).status, 200);
    let refused = server.post("/rerank", &request(4));
    assert_eq!(refused.status, 413);
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains("4 documents") && detail.contains("limit of 3"),
        "{detail}"
    );

    let body = request(1);
    let padded = |length: usize| format!("{body}{}", " ".repeat(length - body.len()));
    assert_eq!(server.post("/rerank", &padded(500)).status, 200);
    let refused = server.post("/rerank", &padded(501));
    assert_eq!(refused.status, 413);
    assert!(
        refused.json()["detail"]
            .as_str()
            .unwrap()
            .contains("limit of 500 bytes"),
        "{refused:?}"
    );
}

#[test]
fn one_log_line_per_request_says_what_it_cost() {
    let server = Server::start(&[]);
    server.post("/rerank", GUIDE);
    let line = server.wait_for_log("reranked");
    for field in [
        "device=cpu",
        "documents=2",
        "returned=2",
        "tokens=",
        "queue_ms=",
        "compute_ms=",
        "total_ms=",
    ] {
        assert!(line.contains(field), "{field}: {line}");
    }
}
