//! The formats of Voyage, Weaviate, Elasticsearch, NVIDIA, Mixedbread, DashScope and TEI's
//! `/predict`: what their clients send, and what they read of the answer.

use serde_json::{Value, json};

use crate::support::{Answer, Server};

const QUERY: &str = "How do I reset my password?";
const PASSAGES: [&str; 3] = [
    "Our office is closed on Sundays.",
    "Click on “Forgot password” on the login page to reset it.",
    "A password must have twelve characters.",
];

/// The places of the passages, best first, and their scores, from TEI's format.
fn expected(server: &Server) -> Vec<(u64, f64)> {
    let body = json!({"query": QUERY, "texts": PASSAGES});
    pairs(&ask(server, "/rerank", &body), "score")
}

fn ask(server: &Server, path: &str, body: &Value) -> Value {
    let answer = server.post(path, &body.to_string());
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

fn pairs(items: &Value, score: &str) -> Vec<(u64, f64)> {
    let items = items.as_array().unwrap().iter();
    items
        .map(|item| {
            (
                item["index"].as_u64().unwrap(),
                item[score].as_f64().unwrap(),
            )
        })
        .collect()
}

fn refused(server: &Server, path: &str, body: &Value) -> Answer {
    let answer = server.post(path, &body.to_string());
    assert_eq!(answer.status, 422, "{path}: {answer:?}");
    answer
}

#[test]
fn voyage_reads_data() {
    let server = Server::start(&[]);
    let body = json!({
        "query": QUERY, "documents": PASSAGES, "model": "rerank-2.5", "top_k": null,
        "truncation": true, "return_documents": true,
    });
    let answer = ask(&server, "/v1/rerank", &body);
    assert_eq!(pairs(&answer["data"], "relevance_score"), expected(&server));
    assert_eq!(answer["object"], "list");
    assert_eq!(answer["data"][0]["document"], PASSAGES[1]);
    assert!(answer["usage"]["total_tokens"].as_u64().unwrap() > 0);
    let two = json!({"query": QUERY, "documents": PASSAGES, "top_k": 2});
    let answer = ask(&server, "/v1/rerank", &two);
    assert_eq!(answer["data"].as_array().unwrap().len(), 2);
    assert_eq!(answer["results"].as_array().unwrap().len(), 2, "for others");
    assert!(answer["data"][0].get("document").is_none());
    let cohere = json!({"query": QUERY, "documents": PASSAGES, "top_n": 2});
    assert!(ask(&server, "/v1/rerank", &cohere).get("data").is_none());
}

#[test]
fn weaviate_reads_scores_beside_its_own_fields() {
    let server = Server::start(&[("RERANKER_API_KEY", "")]);
    assert_eq!(server.get("/.well-known/ready").status, 204);
    assert_eq!(server.get("/.well-known/live").status, 204);
    assert_eq!(server.get("/meta").status, 200);
    let body = json!({"query": QUERY, "documents": PASSAGES, "property": ""});
    let answer = ask(&server, "/rerank", &body);
    assert_eq!(answer["query"], QUERY);
    let scores = answer["scores"].as_array().unwrap();
    for (found, (index, score)) in scores.iter().zip(expected(&server)) {
        assert_eq!(found["document"], PASSAGES[usize::try_from(index).unwrap()]);
        assert_eq!(found["score"].as_f64(), Some(score));
    }
    assert_eq!(scores.len(), 3);
}

#[test]
fn elasticsearch_reads_a_bare_array_without_other_fields() {
    let server = Server::start(&[]);
    let path = "/hugging_face/rerank";
    let body = json!({"query": QUERY, "documents": PASSAGES});
    let answer = ask(&server, path, &body);
    assert_eq!(pairs(&answer, "score"), expected(&server));
    assert_eq!(answer[0].as_object().unwrap().len(), 2);
    let body = json!({
        "query": QUERY, "documents": PASSAGES, "return_documents": true, "top_n": 1,
    });
    let answer = ask(&server, path, &body);
    assert_eq!(answer.as_array().unwrap().len(), 1);
    assert_eq!(answer[0]["text"], PASSAGES[1]);
    let error = refused(&server, path, &json!({"documents": PASSAGES})).json();
    assert_eq!(error["error"], "query: Field required");
}

#[test]
fn nvidia_reads_rankings_with_logits() {
    let server = Server::start(&[]);
    let passages = PASSAGES.map(|text| json!({"text": text}));
    let body = json!({
        "model": "nvidia/llama-3.2-nv-rerankqa-1b-v2", "query": {"text": QUERY},
        "passages": passages, "truncate": "END",
    });
    let answer = ask(&server, "/v1/ranking", &body);
    for (found, (index, score)) in pairs(&answer["rankings"], "logit")
        .into_iter()
        .zip(expected(&server))
    {
        assert_eq!(found.0, index);
        assert!((1.0 / (1.0 + (-found.1).exp()) - score).abs() < 1e-6);
    }
    assert_eq!(answer["rankings"].as_array().unwrap().len(), 3);
    let long = [json!({"text": "word ".repeat(2000)})];
    let mut body = json!({"query": {"text": QUERY}, "passages": long});
    ask(&server, "/v1/ranking", &body);
    body["truncate"] = "NONE".into();
    refused(&server, "/v1/ranking", &body);
    body["truncate"] = "MIDDLE".into();
    let error = refused(&server, "/v1/ranking", &body).json();
    assert_eq!(
        error["message"],
        "truncate: Input should be 'NONE' or 'END'"
    );
}

#[test]
fn mixedbread_sends_input_and_reads_data() {
    let server = Server::start(&[]);
    let body = json!({
        "model": "mixedbread-ai/mxbai-rerank-large-v2", "query": QUERY, "input": PASSAGES,
        "top_k": 10, "return_input": true, "rank_fields": null,
    });
    for path in ["/v1/reranking", "/v1/rerank", "/reranking"] {
        let answer = ask(&server, path, &body);
        assert_eq!(pairs(&answer["data"], "score"), expected(&server), "{path}");
        assert_eq!(answer["data"][0]["input"], PASSAGES[1]);
    }
    let objects = PASSAGES.map(|text| json!({"title": text, "year": 2026}));
    let body = json!({
        "query": QUERY, "input": objects, "rank_fields": ["title"], "return_input": true,
    });
    let answer = ask(&server, "/v1/reranking", &body);
    assert_eq!(answer["data"][0]["input"]["year"], 2026);
    let llama_cpp = json!({"query": QUERY, "documents": PASSAGES});
    assert!(ask(&server, "/v1/reranking", &llama_cpp)["results"].is_array());
}

#[test]
fn dashscope_has_two_shapes() {
    let server = Server::start(&[]);
    let body = json!({
        "model": "qwen3-rerank", "query": QUERY, "documents": PASSAGES, "top_n": 3,
    });
    for path in ["/v1/reranks", "/reranks"] {
        let answer = ask(&server, path, &body);
        assert_eq!(
            pairs(&answer["results"], "relevance_score"),
            expected(&server),
            "{path}"
        );
    }
    let body = json!({
        "model": "gte-rerank-v2", "input": {"query": QUERY, "documents": PASSAGES},
        "parameters": {"top_n": 2, "return_documents": true},
    });
    for path in [
        "/api/v1/services/rerank/text-rerank/text-rerank",
        "/v1/reranks",
        "/v1/rerank",
    ] {
        let answer = ask(&server, path, &body);
        let results = &answer["output"]["results"];
        assert_eq!(pairs(results, "relevance_score"), expected(&server)[..2]);
        assert_eq!(results[0]["document"]["text"], PASSAGES[1]);
        assert!(answer["usage"]["total_tokens"].as_u64().unwrap() > 0);
        assert!(!answer["request_id"].as_str().unwrap().is_empty());
    }
}

#[test]
fn predict_scores_pairs_in_their_order() {
    let server = Server::start(&[]);
    let inputs = PASSAGES.map(|text| [QUERY, text]);
    let answer = ask(&server, "/predict", &json!({"inputs": inputs}));
    for (index, score) in expected(&server) {
        let of_pair = &answer[usize::try_from(index).unwrap()];
        assert_eq!(of_pair.as_array().unwrap().len(), 1);
        assert_eq!(of_pair[0], json!({"score": score, "label": "LABEL_0"}));
    }
    let one = ask(&server, "/predict", &json!({"inputs": inputs[1]}));
    assert_eq!(one[0], answer[1][0], "a single pair is not in a list");
    let body = json!({"inputs": inputs[1], "raw_scores": true});
    let logit = ask(&server, "/predict", &body)[0]["score"]
        .as_f64()
        .unwrap();
    assert!((1.0 / (1.0 + (-logit).exp()) - one[0]["score"].as_f64().unwrap()).abs() < 1e-12);
    for wrong in [json!("a text alone"), json!([["a"]]), json!([1, 2])] {
        refused(&server, "/predict", &json!({"inputs": wrong}));
    }
}

#[test]
fn tokenize_gives_the_librarys_tokens_and_where_they_stand() {
    let server = Server::start(&[]);
    let library = tokenizers::Tokenizer::from_file("models/demo/tokenizer.json").unwrap();
    let texts = [
        "How do I reset my password?",
        "  Où est « l'élève » ?\r\n\tLà-bas…",
        "密码 🔑 e\u{301}te",
        "",
    ];
    for (special, with) in [
        (json!({}), true),
        (json!({"add_special_tokens": true}), true),
        (json!({"add_special_tokens": false}), false),
    ] {
        let mut body = json!({"inputs": texts});
        body.as_object_mut()
            .unwrap()
            .extend(special.as_object().unwrap().clone());
        let answer = ask(&server, "/tokenize", &body);
        assert_eq!(answer.as_array().unwrap().len(), texts.len());
        for (text, tokens) in texts.iter().zip(answer.as_array().unwrap()) {
            let encoding = library.encode(*text, with).unwrap();
            let ids: Vec<u64> = encoding.get_ids().iter().map(|&id| id.into()).collect();
            let found = tokens.as_array().unwrap().iter();
            let found: Vec<u64> = found.map(|token| token["id"].as_u64().unwrap()).collect();
            assert_eq!(found, ids, "{text}");
            for token in tokens.as_array().unwrap() {
                check_token(text, token);
            }
        }
        let first = &answer[0][0];
        assert_eq!(first["special"], with);
    }
    let one = ask(&server, "/tokenize", &json!({"inputs": "a"}));
    assert_eq!(
        (one.as_array().unwrap().len(), &one[0][0]["text"]),
        (1, &json!("<s>"))
    );
}

/// A token stands for the part of the text that it says; a special one for none.
fn check_token(text: &str, token: &Value) {
    let keys: Vec<&String> = token.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["id", "special", "start", "stop", "text"]);
    if token["special"] == true {
        assert!(
            token["start"].is_null() && token["stop"].is_null(),
            "{token}"
        );
        return;
    }
    let place = |name: &str| usize::try_from(token[name].as_u64().unwrap()).unwrap();
    let part = &text.as_bytes()[place("start")..place("stop")];
    assert_eq!(token["text"], *String::from_utf8_lossy(part), "{token}");
}

#[test]
fn tokenize_refuses_as_tei_does() {
    let server = Server::start(&[
        ("RERANKER_MAX_DOCUMENTS", "3"),
        ("RERANKER_MAX_DOCUMENT_CHARS", "9"),
    ]);
    for (body, status) in [
        (json!({"inputs": []}), 400),
        (json!({}), 422),
        (json!({"inputs": 5}), 422),
        (json!({"inputs": ["a", 5]}), 422),
        (json!({"inputs": "a", "add_special_tokens": "perhaps"}), 422),
        (json!({"inputs": ["a", "b", "c", "d"]}), 413),
        (json!({"inputs": "more than nine"}), 413),
    ] {
        let answer = server.post("/tokenize", &body.to_string());
        assert_eq!(answer.status, status, "{body}: {answer:?}");
        let error = answer.json();
        assert!(
            error["error"].is_string() && error["error_type"].is_string(),
            "{error}"
        );
    }
    assert_eq!(server.get("/tokenize").status, 405);
}
