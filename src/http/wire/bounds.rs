//! What is bounded: the tokens that a request asks for, its size, and the size of a refusal.

use serde_json::json;

use super::tests::read;
use super::*;
use crate::{error::Error, tokenizer::Truncation};

#[test]
fn no_limit_on_tokens_is_spelt_zero_or_minus_one() {
    for field in [
        "truncate_prompt_tokens",
        "max_tokens_per_doc",
        "max_tokens_per_query",
        "max_chunks_per_doc",
    ] {
        for value in [json!(0), json!("0"), json!(null)] {
            let body = json!({"query": "q", "documents": ["a"], field: value});
            let truncation = read(Route::Any, &body).unwrap().job().truncation;
            assert_eq!(truncation, Truncation::default(), "{body}");
        }
    }
    let with = |tokens: i32| {
        let body = json!({"query": "q", "documents": ["a"], "truncate_prompt_tokens": tokens});
        read(Route::Any, &body).map(|request| request.job().truncation.max_length)
    };
    assert_eq!(with(-1).unwrap(), None);
    assert_eq!(with(8).unwrap(), Some(8));
    for useless in [1, 7] {
        let reason = with(useless).unwrap_err().reason;
        assert!(
            reason.sentence().contains("at least 8"),
            "{}",
            reason.sentence()
        );
    }
}

#[test]
fn what_is_too_much_is_counted_and_not_kept() {
    let parse = |route, body: &str| parse(route, None, body.as_bytes(), 2).map(drop);
    for (route, key) in [
        (Route::Any, "documents"),
        (Route::Results, "documents"),
        (Route::Tei, "texts"),
        (Route::Score, "text_1\": \"a\", \"text_2"),
    ] {
        let of = |list: &str| format!(r#"{{"query": "q", "{key}": {list}}}"#);
        parse(route, &of(r#"["a", "b"]"#)).unwrap();
        let reason = parse(route, &of(r#"["a", "b", 3]"#)).unwrap_err().reason;
        let want = Error::TooManyDocuments {
            actual: 3,
            limit: 2,
        };
        assert!(
            matches!(&reason, Reason::TooLarge(error) if *error == want),
            "{reason:?}"
        );
    }
    let many: Vec<String> = (0..10_001).map(|n| format!(r#","{n}":0"#)).collect();
    let many = many.concat();
    let names: Vec<u32> = (0..10_001).collect();
    for body in [
        format!(r#"{{"query": "q", "documents": ["a"]{many}}}"#),
        format!(r#"{{"query": "q", "documents": [{{"content": "a"{many}}}]}}"#),
        json!({"query": "q", "documents": ["a"], "rank_fields": names}).to_string(),
    ] {
        let reason = parse(Route::Any, &body).unwrap_err().reason;
        assert!(
            reason.sentence().contains("at most 10000"),
            "{}",
            reason.sentence()
        );
    }
}

#[test]
fn a_refusal_is_small_whatever_it_refuses() {
    let large = "x".repeat(1_000_000);
    for body in [
        json!({"query": [large], "documents": ["a"]}),
        json!({"query": "q", "documents": vec![json!({"note": "x".repeat(10_000)}); 1000]}),
        json!([large]),
    ] {
        let reason = read(Route::Any, &body).unwrap_err().reason;
        assert!(reason.detail().to_string().len() < 500_000);
    }
    let sent_as_text = parse(Route::Any, Some("text/plain"), large.as_bytes(), 1000);
    assert!(sent_as_text.unwrap_err().reason.detail().to_string().len() < 1000);
}
