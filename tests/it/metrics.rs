//! What `/metrics` counts, against what was done to the server.

use std::{collections::BTreeMap, fs};

use serde_json::json;

use crate::support::Server;

/// Sample lines by name and labels.
fn scrape(server: &Server) -> BTreeMap<String, String> {
    let answer = server.get("/metrics");
    assert_eq!(answer.status, 200);
    let content_type = answer.header("content-type").unwrap();
    assert!(
        content_type.starts_with("text/plain; version=0.0.4"),
        "{content_type}"
    );
    let samples = answer.body.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

#[test]
fn requests_batches_and_refusals_are_counted() {
    let server = Server::start(&[("RERANKER_MAX_DOCUMENTS", "3"), ("RERANKER_CACHE_MB", "0")]);
    let before = scrape(&server);
    assert_eq!(before["reranker_ready"], "1");
    let documents = json!({"query": "a", "documents": ["b", "c", "b"]}).to_string();
    assert_eq!(server.post("/v2/rerank", &documents).status, 200);
    let texts = json!({"query": "a", "texts": ["b"]}).to_string();
    assert_eq!(server.post("/rerank", &texts).status, 200);
    let many = json!({"query": "a", "texts": ["b", "b", "b", "b"]}).to_string();
    assert_eq!(server.post("/rerank", &many).status, 413);
    assert_eq!(server.post("/rerank", "{").status, 422);

    let after = scrape(&server);
    for (sample, expected) in [
        (
            r#"reranker_requests_total{format="results",route="/v2/rerank",status="200"}"#,
            "1",
        ),
        (
            r#"reranker_requests_total{format="tei",route="/rerank",status="200"}"#,
            "1",
        ),
        (
            r#"reranker_requests_total{format="tei",route="/rerank",status="413"}"#,
            "1",
        ),
        (
            r#"reranker_requests_total{format="unknown",route="/rerank",status="422"}"#,
            "1",
        ),
        (r#"reranker_refused_total{reason="too_large"}"#, "1"),
        (r#"reranker_refused_total{reason="invalid"}"#, "1"),
        (r#"reranker_request_seconds_count{format="results"}"#, "1"),
        (r#"reranker_stage_seconds_count{stage="parse"}"#, "2"),
        (r#"reranker_stage_seconds_count{stage="tokenize"}"#, "2"),
        (r#"reranker_stage_seconds_count{stage="queue"}"#, "2"),
        (r#"reranker_stage_seconds_count{stage="compute"}"#, "2"),
        ("reranker_request_documents_sum", "4"),
        ("reranker_batch_pairs_sum", "3"), // of the three documents two are the same
        ("reranker_batch_seconds_count", "2"),
        ("reranker_non_finite_scores_total", "0"),
        ("reranker_requests_in_progress", "0"),
        ("reranker_queue_pairs", "0"),
        (r#"reranker_refused_total{reason="overloaded"}"#, "0"),
    ] {
        assert_eq!(
            after.get(sample).map(String::as_str),
            Some(expected),
            "{sample} in {after:#?}"
        );
    }
    assert_eq!(
        after["reranker_tokens_total"],
        after["reranker_batch_tokens_sum"]
    );
    let seconds = |name: &str| after[name].parse::<f64>().unwrap();
    let operations = ["projection", "attention", "norm"].map(|operation| {
        seconds(&format!(
            r#"reranker_operation_seconds_total{{operation="{operation}"}}"#
        ))
    });
    assert!(operations.iter().all(|&seconds| seconds > 0.0));
    assert!(operations.iter().sum::<f64>() < seconds("reranker_batch_seconds_sum"));
    let padding: f64 = after["reranker_padding_tokens_total"].parse().unwrap();
    assert!(
        padding < 16.0,
        "two batches are padded to whole tiles and no more: {padding}"
    );
    assert!(after["process_resident_memory_bytes"].len() > 6);
}

#[test]
fn every_metric_is_documented() {
    let server = Server::start(&[]);
    server.post("/rerank", r#"{"query":"a","texts":["b"]}"#);
    server.post("/rerank", "{");
    let answer = server.get("/metrics");
    let mut names: Vec<(&str, &str)> = Vec::new();
    let documentation = fs::read_to_string("docs/metrics.md").unwrap();
    for line in answer
        .body
        .lines()
        .filter(|line| line.starts_with("# TYPE reranker_"))
    {
        let [_, _, name, kind] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        names.push((name, kind));
    }
    assert!(names.len() >= 15);
    let reasons: Vec<&str> = answer
        .body
        .lines()
        .filter_map(|line| {
            line.strip_prefix("reranker_refused_total{reason=\"")?
                .split('"')
                .next()
        })
        .collect();
    assert!(reasons.len() >= 15, "all are there before they happen");
    for reason in reasons {
        let row = format!("| `{reason}` |");
        assert!(documentation.contains(&row), "docs/metrics.md lacks {row}");
    }
    for (name, kind) in names {
        let row = format!("| `{name}` | {kind} |");
        assert!(documentation.contains(&row), "docs/metrics.md lacks {row}");
    }
}
