//! Which body is read as what, and what comes back.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::{
    rerank::{Ranking, Score},
    tokenizer::{Side, Truncation},
};

pub(super) const ORIGINAL: &str = r#"{"chunk_id":"c","document_id":"d","document_title":"t","document_source":"s","content":"x","chunk_index":0,"similarity":0.5}"#;

pub(super) fn read(route: Route, body: &Value) -> Result<Request, Rejection> {
    parse(route, None, body.to_string().as_bytes(), 1000)
}

/// The format that a body of `/rerank` is read as, or the family and status of its refusal.
fn outcome(body: &str) -> Result<&'static str, (Family, u16)> {
    match parse(Route::Any, None, body.as_bytes(), 1000) {
        Ok(request) => Ok(request.format()),
        Err(rejection) => Err((rejection.family, rejection.reason.status())),
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "it is a table")]
fn every_row_of_the_rules() {
    use Family::{Ragfab, Results, Tei, Unknown};
    let rows = [
        // 2: both
        (
            r#"{"query":"q","texts":["a"],"documents":["a"]}"#,
            Ok("results"),
        ),
        (
            r#"{"query":"q","texts":true,"documents":["a"]}"#,
            Ok("results"),
        ),
        (
            r#"{"query":"q","texts":["a"],"documents":[{"content":"a"}]}"#,
            Ok("results"),
        ),
        (r#"{"query":"q","texts":["a"],"documents":[]}"#, Ok("tei")),
        (
            r#"{"query":"q","texts":[],"documents":[]}"#,
            Err((Tei, 400)),
        ),
        (
            r#"{"query":"q","texts":null,"documents":["a"]}"#,
            Ok("results"),
        ),
        (r#"{"query":"q","texts":["a"],"documents":null}"#, Ok("tei")),
        // 1: texts
        (r#"{"query":"q","texts":["a","b"]}"#, Ok("tei")),
        (r#"{"query":"","texts":["a",null]}"#, Ok("tei")),
        (r#"{"query":"q","texts":[]}"#, Err((Tei, 400))),
        (r#"{"query":"q","texts":[1]}"#, Err((Tei, 422))),
        (r#"{"texts":["a"]}"#, Err((Tei, 422))),
        // 3: an empty list
        (r#"{"query":"q","documents":[]}"#, Err((Ragfab, 400))),
        (r#"{"query":"q","documents":[ ]}"#, Err((Ragfab, 400))),
        (
            r#"{"query":"q","documents":[],"model":"m"}"#,
            Err((Results, 400)),
        ),
        // 5: objects with content
        (
            r#"{"query":"q","documents":[{"content":"x"}]}"#,
            Ok("ragfab"),
        ),
        (
            r#"{"query":"q","documents":[{"content":"x","metadata":{}}],"top_k":3}"#,
            Ok("ragfab"),
        ),
        (
            r#"{"query":"q","documents":[{"chunk_id":"1"}]}"#,
            Err((Ragfab, 422)),
        ),
        (
            r#"{"query":"q","documents":[{"content":3}]}"#,
            Err((Ragfab, 422)),
        ),
        (
            r#"{"query":"q","documents":[{"content":"x"},"y"]}"#,
            Err((Ragfab, 422)),
        ),
        (
            r#"{"query":" ","documents":[{"content":"x"}]}"#,
            Err((Ragfab, 400)),
        ),
        (r#"{"documents":[{"content":"x"}]}"#, Err((Ragfab, 422))),
        // 6: everything else with documents
        (r#"{"query":"q","documents":["a"]}"#, Ok("results")),
        (
            r#"{"query":"q","documents":["a",{"text":"b"}]}"#,
            Ok("results"),
        ),
        (r#"{"query":"q","documents":"a"}"#, Ok("results")),
        (
            r#"{"query":"q","documents":{"content":[{"type":"text","text":"a"}]}}"#,
            Ok("results"),
        ),
        (r#"{"query":"q","documents":[{"text":"b"}]}"#, Ok("results")),
        (
            r#"{"query":"q","documents":[{"text":"b","content":"c"}]}"#,
            Ok("results"),
        ),
        (
            r#"{"query":"q","documents":[{"content":"x"}],"model":"m"}"#,
            Ok("results"),
        ),
        (
            r#"{"query":"q","documents":[{"content":"x"}],"top_n":1}"#,
            Ok("results"),
        ),
        (
            r#"{"query":"q","documents":[{"content":"x"}],"rank_fields":["content"]}"#,
            Ok("results"),
        ),
        (
            r#"{"query":"q","documents":[{"content":[{"type":"text","text":"a"}]}]}"#,
            Ok("results"),
        ),
        (
            r#"{"query":"q","documents":[{"content":[{"type":"image_url","image_url":{}}]}]}"#,
            Err((Results, 422)),
        ),
        (
            r#"{"query":"q","documents":[{"a":"x"}],"model":"m"}"#,
            Err((Results, 422)),
        ),
        (r#"{"query":" ","documents":["a"]}"#, Err((Results, 400))),
        (
            r#"{"query":"q","documents":["a"],"top_n":-1}"#,
            Err((Results, 422)),
        ),
        // Weaviate's property
        (
            r#"{"query":"q","documents":["a"],"property":""}"#,
            Ok("weaviate"),
        ),
        (
            r#"{"query":"q","documents":[3],"property":""}"#,
            Err((Tei, 422)),
        ),
        // 7: anything else
        (r#"{"query":"q","documents":[3]}"#, Err((Unknown, 422))),
        (r#"{"query":"q","documents":3}"#, Err((Unknown, 422))),
        (r#"{"query":"q"}"#, Err((Unknown, 422))),
        (r"[]", Err((Unknown, 422))),
        (r"{", Err((Unknown, 422))),
        ("", Err((Unknown, 422))),
        ("null", Err((Unknown, 422))),
    ];
    for (body, expected) in rows {
        assert_eq!(outcome(body), expected, "{body}");
    }
    // 3: all seven fields, whatever the top level says; a missing one of them makes rule 4 count.
    let original = |extra: &str| format!(r#"{{"query":"q","documents":[{ORIGINAL}]{extra}}}"#);
    assert_eq!(outcome(&original("")), Ok("ragfab"));
    assert_eq!(
        outcome(&original(r#","model":"m","top_n":1"#)),
        Ok("ragfab")
    );
    let six = original(r#","model":"m""#).replace(r#""chunk_id":"c","#, "");
    assert_eq!(outcome(&six), Ok("results"));
}

#[test]
fn a_null_among_documents_is_an_empty_text() {
    for documents in [
        json!([null, "a"]),
        json!([null]),
        json!([{"text": "a"}, null]),
    ] {
        let request = read(Route::Any, &json!({"query": "q", "documents": documents})).unwrap();
        assert_eq!(request.format(), "results");
        let texts = request.job().documents;
        assert_eq!(texts.len(), documents.as_array().unwrap().len());
        assert!(texts.iter().any(|text| text.is_empty()));
    }
}

#[test]
fn paths_decide_before_bodies() {
    let content = json!({"query": "q", "documents": [{"content": "x"}]});
    let texts = json!({"query": "q", "texts": ["x"]});
    let format = |route, body: &Value| read(route, body).map(|request| request.format());
    assert_eq!(format(Route::Results, &content).unwrap(), "results");
    assert_eq!(format(Route::Results, &texts).unwrap(), "tei");
    assert_eq!(format(Route::Infinity, &content).unwrap(), "results");
    assert_eq!(format(Route::Tei, &texts).unwrap(), "tei");
    assert_eq!(
        format(Route::Tei, &content).unwrap_err().family,
        Family::Tei
    );
    assert_eq!(
        format(Route::Score, &content).unwrap_err().family,
        Family::Results
    );
    for (route, body, name) in [
        (
            Route::Results,
            json!({"query": "q", "documents": ["x"], "truncation": true}),
            "voyage",
        ),
        (
            Route::Results,
            json!({"query": "q", "documents": ["x"], "top_k": 1, "top_n": 1}),
            "results",
        ),
        (
            Route::Any,
            json!({"query": "q", "documents": ["x"], "top_k": 1, "model": "m"}),
            "results",
        ),
        (
            Route::Results,
            json!({"query": "q", "input": ["x"]}),
            "mixedbread",
        ),
        (
            Route::Results,
            json!({"input": {"query": "q", "documents": ["x"]}}),
            "dashscope",
        ),
        (
            Route::Dashscope,
            json!({"query": "q", "documents": ["x"]}),
            "results",
        ),
        (
            Route::Nim,
            json!({"query": {"text": "q"}, "passages": [{"text": "x"}]}),
            "nim",
        ),
        (Route::HuggingFace, content.clone(), "none"),
        (Route::Predict, json!({"inputs": ["q", "x"]}), "predict"),
    ] {
        let found = format(route, &body).unwrap_or("none");
        assert_eq!(found, name, "{body}");
    }
    let broken = parse(Route::Results, None, b"{", 1000).unwrap_err();
    assert_eq!(broken.family, Family::Results);
}

#[test]
fn a_document_is_read_where_its_text_is() {
    for (document, extra, text) in [
        (json!("a"), json!({}), "a"),
        (json!({"text": "a", "title": "t"}), json!({}), "a"),
        (json!({"content": "a"}), json!({"model": "m"}), "a"),
        (
            json!({"text": null, "content": "a"}),
            json!({"model": "m"}),
            "a",
        ),
        (
            json!({"content": [{"type": "text", "text": "a"}, {"text": "b"}]}),
            json!({}),
            "a\nb",
        ),
        (
            json!({"title": "t", "text": "a", "n": 1.50}),
            json!({"rank_fields": ["n", "title", "none"]}),
            "n: 1.5\ntitle: t",
        ),
        (json!({"text": "a"}), json!({"rank_fields": ["none"]}), "a"),
    ] {
        let mut body = json!({"query": "q", "documents": [document]});
        body.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        let job = read(Route::Any, &body).unwrap().job();
        assert_eq!(job.documents, [std::sync::Arc::<str>::from(text)], "{body}");
    }
    let query = json!({"query": {"content": [{"type": "text", "text": "q"}]}, "documents": ["a"]});
    assert_eq!(
        read(Route::Any, &query).unwrap().job().queries,
        [std::sync::Arc::<str>::from("q")]
    );
}

#[test]
fn clients_that_speak_python_are_understood() {
    let body = json!({
        "query": "q", "documents": ["a", "b"], "model": null, "top_n": "1", "return_documents": "True",
        "raw_scores": 0, "rank_fields": null, "max_chunks_per_doc": null, "max_tokens_per_doc": 4096.0,
        "return_len": "true", "kwargs": "{}", "truncate_prompt_tokens": -1, "truncation_side": null,
    });
    let request = read(Route::Any, &body).unwrap();
    assert_eq!(request.format(), "results");
    assert_eq!(request.returned(&ranking()), 1);
    assert_eq!(
        request.job().truncation,
        Truncation {
            document_tokens: Some(4096),
            ..Truncation::default()
        }
    );
    for (field, value, message) in [
        ("top_n", json!([]), "top_n: Input should be a valid integer"),
        (
            "top_n",
            json!(1.5),
            "top_n: Input should be a valid integer, got a number with a fractional part",
        ),
        (
            "return_documents",
            json!("maybe"),
            "return_documents: Input should be a valid boolean, unable to interpret input",
        ),
        (
            "truncation_side",
            json!("up"),
            "truncation_side: Input should be 'left' or 'right'",
        ),
        (
            "rank_fields",
            json!("a"),
            "rank_fields: Input should be a valid list",
        ),
    ] {
        let mut body = json!({"query": "q", "documents": ["a"]});
        body[field] = value;
        let rejection = read(Route::Any, &body).unwrap_err();
        assert_eq!(rejection.reason.sentence(), message);
    }
}

#[test]
fn lengths_reach_the_tokenizer() {
    let body = json!({
        "query": "q", "documents": ["a"], "max_chunks_per_doc": 4, "max_tokens_per_doc": 0,
        "max_tokens_per_query": 9, "truncate_prompt_tokens": 100, "truncation_side": "Left",
    });
    let truncation = Truncation {
        max_length: Some(100),
        query_tokens: Some(9),
        document_tokens: None,
        side: Side::Left,
        chunks: Some(4),
        refuse: false,
    };
    assert_eq!(
        read(Route::Any, &body).unwrap().job().truncation,
        truncation
    );
    let tei =
        json!({"query": "q", "texts": ["a"], "truncate": false, "truncation_direction": "Left"});
    let truncation = read(Route::Any, &tei).unwrap().job().truncation;
    assert!(truncation.refuse && truncation.side == Side::Left);
}

#[test]
fn scores_of_pairs_one_to_one_one_to_many_and_pair_by_pair() {
    for (first, second) in [
        ("text_1", "text_2"),
        ("data_1", "data_2"),
        ("queries", "documents"),
        ("queries", "items"),
    ] {
        for (left, right, queries, documents) in [
            (json!("a"), json!("x"), 1, Some(1)),
            (json!("a"), json!(["x", {"text": "y"}]), 1, Some(2)),
            (json!(["a"]), json!(["x", "y", "z"]), 1, Some(3)),
            (json!(["a", "b"]), json!(["x", "y"]), 2, Some(2)),
            (json!(["a", "b"]), json!(["x"]), 2, None),
            (json!([]), json!(["x"]), 0, None),
            (json!(["a"]), json!([]), 1, None),
            (json!(3), json!(["x"]), 1, None),
        ] {
            let body = json!({first: left, second: right});
            match (read(Route::Score, &body), documents) {
                (Ok(request), Some(documents)) => {
                    let job = request.job();
                    assert_eq!(
                        (job.queries.len(), job.documents.len()),
                        (queries, documents),
                        "{body}"
                    );
                }
                (Err(rejection), None) => assert_eq!(rejection.reason.status(), 422),
                (outcome, _) => panic!("{body}: {outcome:?}"),
            }
        }
    }
    let one_sided = read(Route::Score, &json!({"text_1": "a"})).unwrap_err();
    assert!(
        one_sided
            .reason
            .sentence()
            .contains("`text_1` and `text_2`")
    );
}

fn ranking() -> Ranking {
    let score = |index, logit: f32| Score {
        index,
        logit,
        sigmoid: f64::from(logit) / 10.0,
    };
    Ranking {
        scores: vec![score(1, 5.0), score(2, 2.5), score(0, 0.0)],
        tokens: 30,
        ..Ranking::default()
    }
}

fn answer(route: Route, body: &Value) -> Value {
    let ranking = ranking();
    let served = Served {
        ranking: &ranking,
        model: "m",
        id: "i",
        elapsed: Duration::ZERO,
    };
    let bytes = read(route, body).unwrap().answer(&served).unwrap();
    let mut answer: Value = serde_json::from_slice(&bytes).unwrap();
    if let Some(created) = answer.get_mut("created") {
        assert!(created.take().as_u64().unwrap() > 1_700_000_000);
    }
    answer
}

#[test]
fn each_format_answers_as_its_clients_expect() {
    let documents = json!(["a", {"text": "b", "n": 1}, {"content": "c"}]);
    let body = |extra: Value| {
        let mut body = json!({"query": "q", "documents": documents, "model": "x"});
        body.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        body
    };
    let usage = json!({"prompt_tokens": 30, "completion_tokens": 0, "total_tokens": 30});
    let meta = json!({
        "api_version": {"version": "2"},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": 30, "output_tokens": 0},
    });
    assert_eq!(
        answer(Route::Any, &body(json!({}))),
        json!({"id": "i", "object": "rerank", "created": null, "model": "m", "usage": usage, "results": [
            {"index": 1, "relevance_score": 0.5},
            {"index": 2, "relevance_score": 0.25},
            {"index": 0, "relevance_score": 0.0},
        ], "meta": meta})
    );
    let echoed = body(json!({"return_documents": true, "top_n": 2, "raw_scores": true}));
    assert_eq!(
        answer(Route::Any, &echoed)["results"],
        json!([
            {"index": 1, "relevance_score": 5.0, "document": {"text": "b", "n": 1}},
            {"index": 2, "relevance_score": 2.5, "document": {"content": "c", "text": "c"}},
        ])
    );
    assert_eq!(
        answer(Route::Infinity, &echoed)["results"][0]["document"],
        json!("b")
    );
    assert_eq!(
        answer(Route::Any, &body(json!({"use_activation": false})))["results"][0]["relevance_score"],
        json!(5.0)
    );
    let tei = json!({"query": "q", "texts": ["a", "b", "c"], "return_text": true});
    assert_eq!(
        answer(Route::Any, &tei),
        json!([
            {"index": 1, "text": "b", "score": 0.5},
            {"index": 2, "text": "c", "score": 0.25},
            {"index": 0, "text": "a", "score": 0.0},
        ])
    );
    let score = json!({"text_1": "q", "text_2": ["a", "b", "c"]});
    assert_eq!(
        answer(Route::Score, &score),
        json!({"id": "i", "object": "list", "created": null, "model": "m", "data": [
            {"index": 0, "object": "score", "score": 0.0},
            {"index": 1, "object": "score", "score": 0.5},
            {"index": 2, "object": "score", "score": 0.25},
        ], "usage": usage})
    );
}

#[test]
fn no_limit_and_a_limit_of_zero_mean_all() {
    for (top_n, count) in [
        (json!(null), 3),
        (json!(0), 3),
        (json!(1), 1),
        (json!(99), 3),
    ] {
        let results = json!({"query": "q", "documents": ["a", "b", "c"], "top_n": top_n});
        let answered = answer(Route::Any, &results);
        assert_eq!(
            answered["results"].as_array().unwrap().len(),
            count,
            "{top_n}"
        );
        let tei = json!({"query": "q", "texts": ["a", "b", "c"], "top_n": top_n});
        assert_eq!(
            answer(Route::Any, &tei).as_array().unwrap().len(),
            count,
            "{top_n}"
        );
    }
    let alias = json!({"query": "q", "documents": ["a", "b", "c"], "top_k": 2});
    assert_eq!(
        answer(Route::Any, &alias)["results"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}
