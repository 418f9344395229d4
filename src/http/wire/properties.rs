//! What holds for any body, right or wrong.

use proptest::{collection::vec, prelude::*};
use serde_json::Value;

use super::tests::{ORIGINAL, read};
use super::*;

/// Any JSON value that looks like something clients send.
fn any_value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3..9i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "true|False|-?[0-9]{1,3}|left|Right".prop_map(Value::from),
        Just(serde_json::from_str(ORIGINAL).unwrap()),
    ];
    scalar.prop_recursive(3, 24, 5, |inner| {
        let keys = "text|content|type|title|chunk_id";
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec((keys, inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn any_route() -> impl Strategy<Value = Route> {
    prop::sample::select(vec![
        Route::Any,
        Route::Results,
        Route::Infinity,
        Route::Tei,
        Route::Score,
        Route::Nim,
        Route::HuggingFace,
        Route::Dashscope,
        Route::Predict,
    ])
}

/// Bodies made of the keys that mean something, with any values.
fn any_body() -> impl Strategy<Value = Value> {
    let keys = "query|documents|texts|top_k|top_n|model|rank_fields|return_documents|return_text|raw_scores|truncate|\
                truncation_direction|truncation_side|use_activation|max_chunks_per_doc|max_tokens_per_doc|\
                max_tokens_per_query|truncate_prompt_tokens|text_1|text_2|queries|items|data_1|data_2|\
                input|inputs|passages|property|parameters|truncation|return_input";
    let keys = prop::sample::select(keys.split('|').collect::<Vec<_>>());
    vec((keys, any_value()), 0..8)
        .prop_map(|members| {
            members
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect()
        })
        .prop_map(Value::Object)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The parser never panics; what it lets through is a job that the reranker can take; what it
    /// refuses is refused with a sentence, as the client's fault.
    #[test]
    fn any_body_is_a_job_or_the_clients_fault(route in any_route(), body in any_body()) {
        match read(route, &body) {
            Ok(request) => {
                let job = request.job();
                prop_assert!(!job.documents.is_empty());
                prop_assert!(job.queries.len() == 1 || job.queries.len() == job.documents.len());
            }
            Err(rejection) => {
                prop_assert!([400, 422].contains(&rejection.reason.status()));
                prop_assert!(!rejection.reason.sentence().is_empty());
            }
        }
    }

    #[test]
    fn any_bytes_are_the_clients_fault(route in any_route(), body in vec(any::<u8>(), 0..300)) {
        let rejection = parse(route, None, &body, 1000).unwrap_err();
        prop_assert!([400, 422].contains(&rejection.reason.status()));
    }
}
