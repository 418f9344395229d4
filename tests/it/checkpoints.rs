//! Directories with a model whose tensors have other names, and with files that are not what they
//! should be or that want to do harm.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::support::program;

const WEIGHTS: &str = "model.safetensors";

/// A copy of the demo model.
fn demo() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", WEIGHTS] {
        fs::copy(Path::new("models/demo").join(name), dir.path().join(name)).unwrap();
    }
    dir
}

/// Ranks two documents by the model in a directory.
fn rerank(dir: &Path, backend: &str) -> Output {
    let request = dir.join("request.json");
    let body = json!({"query": "boiler fault", "texts": ["reset the boiler", "the canteen"], "raw_scores": true});
    fs::write(&request, body.to_string()).unwrap();
    program()
        .arg("rerank")
        .arg(request)
        .env("RERANKER_MODEL", dir)
        .env("RERANKER_BACKEND", backend)
        .output()
        .unwrap()
}

/// The scores of a model that works.
fn scores(dir: &Path, backend: &str) -> String {
    let output = rerank(dir, backend);
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    String::from_utf8(output.stdout).unwrap()
}

/// What is said of a model that does not: one sentence and the exit code for it, no panic.
fn refusal(dir: &Path) -> String {
    let output = rerank(dir, "native");
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(
        log.contains("error: ") && !log.contains("panicked"),
        "{log}"
    );
    log
}

fn edit(dir: &Path, name: &str, change: impl FnOnce(&mut Value)) {
    let path = dir.join(name);
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Gives every tensor another name.
fn rename(dir: &Path, name: impl Fn(&str) -> String) {
    let path = dir.join(WEIGHTS);
    let bytes = fs::read(&path).unwrap();
    let (length, rest) = bytes.split_first_chunk().unwrap();
    let (header, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
    let tensors: Map<String, Value> = serde_json::from_slice(header).unwrap();
    let renamed: Map<String, Value> = tensors
        .into_iter()
        .map(|(old, tensor)| {
            (
                if old == "__metadata__" {
                    old
                } else {
                    name(&old)
                },
                tensor,
            )
        })
        .collect();
    let header = Value::from(renamed).to_string();
    let length = (header.len() as u64).to_le_bytes();
    fs::write(path, [&length, header.as_bytes(), data].concat()).unwrap();
}

#[test]
fn names_of_tensors_that_tools_change_make_no_difference() {
    let plain = demo();
    for backend in ["native", "reference"] {
        let expected = scores(plain.path(), backend);
        let names: [fn(&str) -> String; 3] = [
            |name| format!("model.{name}"),
            |name| format!("module._orig_mod.{name}"),
            |name| name.trim_start_matches("roberta.").to_owned(),
        ];
        for name in names {
            let other = demo();
            rename(other.path(), name);
            assert_eq!(scores(other.path(), backend), expected);
        }
    }
}

#[test]
fn names_of_another_network_are_told_with_those_expected() {
    let dir = demo();
    rename(dir.path(), |name| name.replace("roberta.", "transformer."));
    let message = refusal(dir.path());
    for part in ["`transformer.`", "`roberta.`", "save_pretrained"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_tokenizer_that_makes_texts_long_is_refused() {
    let dir = demo();
    edit(dir.path(), "tokenizer.json", |tokenizer| {
        tokenizer["normalizer"] = json!({"type": "Prepend", "prepend": "x".repeat(10_000_000)});
    });
    let message = refusal(dir.path());
    assert!(message.contains("tokenizer.json: 10000000 bytes are put before a text"));
}

#[test]
fn sizes_that_no_network_has_are_refused() {
    for (field, value) in [
        ("num_hidden_layers", 1_000_000_u64),
        ("hidden_size", 1 << 24),
        ("vocab_size", 1 << 40),
        ("max_position_embeddings", 1 << 40),
        ("intermediate_size", 1 << 30),
    ] {
        let dir = demo();
        edit(dir.path(), "config.json", |config| {
            config[field] = value.into();
        });
        let message = refusal(dir.path());
        assert!(
            message.contains(&format!("`{field}` is {value}")),
            "{message}"
        );
    }
    // Sizes that are possible and not those of the tensors.
    let dir = demo();
    edit(dir.path(), "config.json", |config| {
        config["vocab_size"] = (1 << 24).into();
    });
    assert!(refusal(dir.path()).contains("has shape"));
}

#[test]
fn pointers_of_git_lfs_are_told() {
    for name in ["config.json", "tokenizer.json", WEIGHTS] {
        let dir = demo();
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
        fs::write(dir.path().join(name), pointer).unwrap();
        let message = refusal(dir.path());
        assert!(
            message.contains(name) && message.contains("git lfs pull"),
            "{message}"
        );
    }
}
