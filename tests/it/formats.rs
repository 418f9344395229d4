//! The formats of everyone else, over the wire: one order for all of them, one scale, errors that
//! their clients read. `src/http/wire/tests.rs` has the rules one by one; `tests/clients` the real
//! SDKs.

use serde_json::{Value, json};

use crate::support::{Answer, Server};

const QUERY: &str = "How do I reset my password?";
const PASSAGES: [&str; 4] = [
    "Our office is closed on Sundays.",
    "Click on “Forgot password” on the login page to reset it.",
    "A password must have twelve characters.",
    "Le mot de passe se change dans les paramètres.",
];

/// The order and the scores of the old service's own format.
fn native(server: &Server) -> Vec<(usize, f64)> {
    let documents: Vec<Value> = PASSAGES
        .iter()
        .enumerate()
        .map(|(index, passage)| json!({"content": passage, "index": index}))
        .collect();
    let body = json!({"query": QUERY, "documents": documents});
    let answer = server.post("/rerank", &body.to_string()).json();
    let ranked = answer["documents"].as_array().unwrap().iter();
    ranked
        .map(|d| (index(&d["index"]), d["rerank_score"].as_f64().unwrap()))
        .collect()
}

fn index(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

/// Index and score of each item of a list.
fn pairs(items: &Value, score: &str) -> Vec<(usize, f64)> {
    let items = items.as_array().unwrap().iter();
    items
        .map(|item| (index(&item["index"]), item[score].as_f64().unwrap()))
        .collect()
}

fn ok(answer: Answer) -> Answer {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

#[test]
fn every_path_gives_the_order_and_the_scores_of_the_native_one() {
    let server = Server::start(&[]);
    let native = native(&server);
    let results = json!({"query": QUERY, "documents": PASSAGES, "model": "any"}).to_string();
    for path in [
        "/rerank",
        "/v1/rerank",
        "/v2/rerank",
        "/v1/v1/rerank",
        "/reranking",
        "/v1/reranking",
        "/infinity/rerank",
    ] {
        let answer = ok(server.post(path, &results)).json();
        assert_eq!(
            pairs(&answer["results"], "relevance_score"),
            native,
            "{path}"
        );
    }
    let texts = json!({"query": QUERY, "texts": PASSAGES}).to_string();
    for path in ["/rerank", "/", "/invocations", "/v1/rerank", "/reranking"] {
        let answer = ok(server.post(path, &texts)).json();
        assert_eq!(pairs(&answer, "score"), native, "{path}");
    }
    let one_to_many = json!({"text_1": QUERY, "text_2": PASSAGES}).to_string();
    let pair_by_pair = json!({"queries": vec![QUERY; 4], "documents": PASSAGES}).to_string();
    for (path, body) in [("/score", &one_to_many), ("/v1/score", &pair_by_pair)] {
        let answer = ok(server.post(path, body)).json();
        let mut by_score = pairs(&answer["data"], "score");
        by_score.sort_by(|a, b| b.1.total_cmp(&a.1));
        assert_eq!(by_score, native, "{path}");
    }
}

#[test]
fn several_queries_are_scored_in_one_request() {
    let server = Server::start(&[]);
    let queries = ["password", "opening hours"];
    let body = json!({"text_1": queries, "text_2": [PASSAGES[1], PASSAGES[0]]});
    let together = ok(server.post("/score", &body.to_string())).json();
    for (n, (query, passage)) in queries.iter().zip([PASSAGES[1], PASSAGES[0]]).enumerate() {
        let body = json!({"text_1": query, "text_2": passage}).to_string();
        let alone = ok(server.post("/score", &body)).json();
        assert_eq!(together["data"][n]["score"], alone["data"][0]["score"]);
    }
}

#[test]
fn raw_scores_are_the_logits_of_the_scores() {
    let server = Server::start(&[]);
    for (path, body, list, score) in [
        (
            "/rerank",
            json!({"query": QUERY, "texts": PASSAGES}),
            "",
            "score",
        ),
        (
            "/rerank",
            json!({"query": QUERY, "documents": PASSAGES}),
            "/results",
            "relevance_score",
        ),
        (
            "/score",
            json!({"text_1": QUERY, "text_2": PASSAGES}),
            "/data",
            "score",
        ),
    ] {
        let scores = ok(server.post(path, &body.to_string())).json();
        let mut raw = body.clone();
        raw["raw_scores"] = true.into();
        let logits = ok(server.post(path, &raw.to_string())).json();
        let scores = pairs(scores.pointer(list).unwrap(), score);
        let logits = pairs(logits.pointer(list).unwrap(), score);
        for ((i, score), (j, logit)) in scores.into_iter().zip(logits) {
            assert_eq!(i, j);
            assert!(
                (score - 1.0 / (1.0 + (-logit).exp())).abs() < 1e-12,
                "{score} {logit}"
            );
        }
    }
}

#[test]
fn a_long_document_is_read_in_windows_when_asked_to() {
    let filler = "The committee discussed the annual report at length. ".repeat(120);
    let long = format!("{filler}{}{filler}", PASSAGES[1]);
    let body = |extra: &[(&str, Value)]| {
        let mut body = json!({"query": QUERY, "documents": [long, PASSAGES[0]]});
        for (key, value) in extra {
            body[*key] = value.clone();
        }
        body.to_string()
    };
    let server = Server::start(&[]);
    let score = |server: &Server, extra: &[(&str, Value)]| {
        let answer = ok(server.post("/v1/rerank", &body(extra))).json();
        let results = pairs(&answer["results"], "relevance_score");
        let tokens = answer["usage"]["total_tokens"].as_u64().unwrap();
        (results.iter().find(|(i, _)| *i == 0).unwrap().1, tokens)
    };
    let (truncated, few) = score(&server, &[]);
    let (chunked, many) = score(&server, &[("max_chunks_per_doc", json!(20))]);
    let (one, same) = score(&server, &[("max_chunks_per_doc", json!(1))]);
    assert_eq!((truncated, few), (one, same));
    assert!(
        chunked > truncated + 0.2 && many > 4 * few,
        "{truncated} {chunked} {few} {many}"
    );
    let generous = Server::start(&[("RERANKER_MAX_CHUNKS_PER_DOC", "20")]);
    assert_eq!(score(&generous, &[]), (chunked, many));
    assert_eq!(
        score(&generous, &[("max_chunks_per_doc", json!(1))]),
        (truncated, few)
    );
}

#[test]
fn what_can_never_fit_the_queue_is_not_worth_a_retry() {
    let server = Server::start(&[
        ("RERANKER_MAX_DOCUMENTS", "8"),
        ("RERANKER_MAX_QUEUE_PAIRS", "8"),
    ]);
    let long = "word ".repeat(1500);
    let request = |documents: usize| {
        let body = json!({"query": "q", "documents": vec![long.clone(); documents], "max_chunks_per_doc": 3});
        server.post("/v1/rerank", &body.to_string())
    };
    assert_eq!(request(8).status, 200, "the same document is read once");
    let different: Vec<String> = (0..3).map(|n| format!("{n} {long}")).collect();
    let body = json!({"query": "q", "documents": different, "max_chunks_per_doc": 3});
    let refused = server.post("/v1/rerank", &body.to_string());
    assert_eq!((refused.status, refused.header("retry-after")), (413, None));
    let message = refused.json()["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("9 pairs") && message.contains("queue of 8"),
        "{message}"
    );
}

#[test]
fn truncation_follows_the_request() {
    let server = Server::start(&[]);
    let long = "word ".repeat(2000) + PASSAGES[1];
    let tei = |extra: Value| {
        let mut body = json!({"query": QUERY, "texts": [long], "raw_scores": true});
        body.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        server.post("/rerank", &body.to_string())
    };
    let right = ok(tei(json!({}))).json()[0]["score"].as_f64().unwrap();
    let left = ok(tei(json!({"truncation_direction": "Left"}))).json()[0]["score"]
        .as_f64()
        .unwrap();
    assert!(
        left > right + 1.0,
        "the answer is at the end: {left} {right}"
    );
    let refused = tei(json!({"truncate": false}));
    assert_eq!(
        (refused.status, &refused.json()["error_type"]),
        (422, &json!("Validation"))
    );
    assert!(
        refused.json()["error"]
            .as_str()
            .unwrap()
            .contains("limit of 512")
    );
    let usage = |extra: Value| {
        let mut body = json!({"query": QUERY, "documents": [long]});
        body.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        let answer = ok(server.post("/v1/rerank", &body.to_string())).json();
        answer["usage"]["total_tokens"].as_u64().unwrap()
    };
    assert_eq!(usage(json!({})), 512);
    assert_eq!(usage(json!({"truncate_prompt_tokens": 100})), 100);
    assert_eq!(usage(json!({"truncate_prompt_tokens": -1})), 512);
    assert!(usage(json!({"max_tokens_per_doc": 10})) < 40);
}

#[test]
fn errors_are_readable_by_the_clients_of_the_results_format() {
    let server = Server::start(&[
        ("RERANKER_MAX_QUERY_CHARS", "20"),
        ("RERANKER_MAX_DOCUMENT_CHARS", "10"),
    ]);
    for (path, body, status) in [
        ("/v2/rerank", r#"{"query":"q","documents":[1]}"#, 422),
        ("/v1/rerank", r#"{"query":" ","documents":["a"]}"#, 400),
        ("/score", r#"{"text_1":["a","b"],"text_2":["c"]}"#, 422),
        ("/v2/rerank", "{", 422),
        (
            "/v1/rerank",
            r#"{"query":"123456789012345678901","documents":["a"]}"#,
            413,
        ),
        (
            "/v1/rerank",
            r#"{"query":"q","documents":["a","12345678901"]}"#,
            413,
        ),
    ] {
        let answer = server.post(path, body);
        assert_eq!(answer.status, status, "{body}");
        let error = answer.json();
        let message = error["message"].as_str().unwrap();
        assert!(!message.is_empty());
        assert_eq!(error["error"]["message"], message);
        assert_eq!(error["error"]["code"], status);
        assert_eq!(error["detail"].is_array(), status == 422, "{error}");
    }
}

#[test]
fn errors_are_readable_by_the_clients_of_tei_and_of_nobody_in_particular() {
    let server = Server::start(&[("RERANKER_MAX_DOCUMENT_CHARS", "10")]);
    for (path, body, status, kind) in [
        ("/rerank", r#"{"query":"q","texts":[]}"#, 400, "Empty"),
        ("/rerank", r#"{"query":"q","texts":[1]}"#, 422, "Validation"),
        ("/rerank", "{", 422, "Validation"),
        ("/", "{}", 422, "Validation"),
        (
            "/rerank",
            r#"{"query":"q","texts":["12345678901"]}"#,
            413,
            "Validation",
        ),
    ] {
        let answer = server.post(path, body);
        assert_eq!(answer.status, status, "{body}");
        let error = answer.json();
        assert_eq!(error["error_type"], kind, "{body}");
        assert_eq!(error["error"], error["message"]);
        assert!(error["error"].is_string() && !error["detail"].is_null());
    }
}

#[test]
fn characters_are_counted_at_the_limit_and_one_past_it() {
    let server = Server::start(&[
        ("RERANKER_MAX_QUERY_CHARS", "20"),
        ("RERANKER_MAX_DOCUMENT_CHARS", "10"),
    ]);
    let at_the_limits = r#"{"query":"12345678901234567890","documents":["éé34567890"]}"#;
    assert_eq!(server.post("/v1/rerank", at_the_limits).status, 200);
    let named = server
        .post(
            "/v1/rerank",
            r#"{"query":"q","documents":["a","12345678901"]}"#,
        )
        .json();
    let message = named["message"].as_str().unwrap();
    for part in [
        "document 1",
        "11 characters",
        "limit of 10",
        "RERANKER_MAX_DOCUMENT_CHARS",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn a_large_list_is_split_not_refused() {
    let server = Server::start(&[("RERANKER_MAX_BATCH_PAIRS", "7")]);
    let texts: Vec<String> = (0..500).map(|i| format!("passage number {i}")).collect();
    let answer = ok(server.post(
        "/rerank",
        &json!({"query": "number 77", "texts": texts}).to_string(),
    ));
    assert_eq!(answer.json().as_array().unwrap().len(), 500);
}

#[test]
fn timing_and_tokens_are_in_the_headers() {
    let server = Server::start(&[]);
    let answer = ok(server.post(
        "/rerank",
        &json!({"query": "abc", "texts": ["de", "é"]}).to_string(),
    ));
    assert_eq!(answer.header("x-compute-type"), Some("cpu"));
    assert_eq!(answer.header("x-compute-characters"), Some("6"));
    for header in [
        "x-compute-time",
        "x-compute-tokens",
        "x-total-time",
        "x-tokenization-time",
        "x-queue-time",
        "x-inference-time",
    ] {
        let value = answer.header(header).unwrap_or_else(|| panic!("{header}"));
        assert!(value.parse::<u64>().is_ok(), "{header}: {value}");
    }
    let timing = answer.header("server-timing").unwrap();
    assert!(
        timing.contains("compute;dur=") && timing.contains("total;dur="),
        "{timing}"
    );
}

#[test]
fn the_server_describes_itself_to_everyone() {
    let server = Server::start(&[]);
    let info = server.get("/info").json();
    for key in ["model_name", "max_length", "description"] {
        assert!(!info[key].is_null(), "RAGFab: {key}");
    }
    for key in [
        "model_id",
        "model_dtype",
        "served_model_name",
        "max_concurrent_requests",
        "max_input_length",
        "max_batch_tokens",
        "max_client_batch_size",
        "auto_truncate",
        "tokenization_workers",
        "version",
    ] {
        assert!(!info[key].is_null(), "TEI: {key}");
    }
    let kinds: Vec<&String> = info["model_type"].as_object().unwrap().keys().collect();
    assert_eq!(kinds, ["reranker"], "Dify reads the first key");
    assert_eq!(server.get("/ping").status, 200);
    for path in ["/v1/models", "/models"] {
        let models = server.get(path).json();
        assert_eq!(
            (&models["object"], &models["data"][0]["id"]),
            (&json!("list"), &json!("demo"))
        );
    }
    let model = server.get("/v1/models/BAAI/bge-reranker-v2-m3").json();
    assert_eq!(
        (&model["id"], &model["model_type"]),
        (&json!("BAAI/bge-reranker-v2-m3"), &json!("rerank"))
    );
    assert_eq!(
        server.get("/v1/cluster/auth").status,
        404,
        "Xinference's clients take that for: no login"
    );
}

#[test]
fn pages_and_the_description_are_in_the_binary() {
    let server = Server::start(&[]);
    let root = |accept: &str| {
        let head =
            format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: {accept}\r\n\r\n");
        crate::support::read_answer(server.begin(&head, b""))
    };
    assert_eq!(root("*/*").json()["service"], "Serveur de reranking");
    let browser = root("text/html,application/xhtml+xml,*/*;q=0.8");
    assert_eq!(
        (browser.status, browser.header("location")),
        (303, Some("ui"))
    );
    for (path, kind) in [
        ("/ui", "text/html"),
        ("/ui/style.css", "text/css"),
        ("/ui/ui.js", "text/javascript"),
    ] {
        let page = ok(server.get(path));
        assert!(
            page.header("content-type").unwrap().starts_with(kind),
            "{path}"
        );
        assert!(
            page.header("content-security-policy")
                .unwrap()
                .starts_with("default-src 'self'")
        );
        assert!(
            !page.body.contains("https://"),
            "{path} must not load anything from elsewhere"
        );
    }
    let description = server.get("/openapi.json").json();
    assert_eq!(description["openapi"], "3.1.0");
    for path in [
        "/rerank",
        "/v1/rerank",
        "/v2/rerank",
        "/score",
        "/info",
        "/metrics",
        "/",
        "/v1/models/{id}",
    ] {
        assert!(description["paths"][path].is_object(), "{path}");
    }
    for reference in strings_named("$ref", &description) {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(
            description.pointer(pointer).is_some(),
            "{reference} leads nowhere"
        );
    }
}

/// A schema's `\S` is not Python's idea of white space: U+0085 is blank in Python only, U+FEFF in
/// JavaScript only.
#[test]
fn the_description_calls_the_same_queries_blank_as_the_service() {
    let description = Server::start(&[]).get("/openapi.json").json();
    let mut patterns = strings_named("pattern", &description);
    // The rest are of numbers and of the type of a part.
    patterns.retain(|pattern| !pattern.starts_with('^'));
    patterns.sort_unstable();
    patterns.dedup();
    assert!(!patterns.is_empty());
    for pattern in patterns {
        let not_blank = regex::Regex::new(&pattern).unwrap();
        for character in '\0'..=char::MAX {
            let text = character.to_string();
            assert_eq!(
                not_blank.is_match(&text),
                !reranker::tokenizer::strip(&text).is_empty(),
                "{character:?} and {pattern}"
            );
        }
    }
}

/// Every string with this name, anywhere in a document.
fn strings_named(name: &str, value: &Value) -> Vec<String> {
    match value {
        Value::Object(members) => members
            .iter()
            .flat_map(|(key, value)| match value {
                Value::String(text) if key == name => vec![text.clone()],
                _ => strings_named(name, value),
            })
            .collect(),
        Value::Array(items) => items
            .iter()
            .flat_map(|item| strings_named(name, item))
            .collect(),
        _ => Vec::new(),
    }
}
