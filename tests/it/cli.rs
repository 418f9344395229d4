//! The command line, its exit codes and what it says when a model cannot be loaded.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Output, Stdio},
};

use serde_json::Value;

use crate::support::{Server, program};

fn run(args: &[&str], stdin: &str) -> Output {
    let mut process = program()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program may end without reading it.
    let _ = process.stdin.take().unwrap().write_all(stdin.as_bytes());
    process.wait_with_output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const REQUEST: &str = r#"{"query":"web server","documents":[{"content":"a fruit"},{"content":"a small web server","id":2}]}"#;

#[test]
fn rerank_prints_the_response_for_a_file_and_for_standard_input() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, REQUEST).unwrap();
    for output in [
        run(&["rerank", file.path().to_str().unwrap()], ""),
        run(&["rerank"], REQUEST),
        run(&["rerank", "-"], REQUEST),
    ] {
        assert!(output.status.success(), "{}", stderr(&output));
        let response: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(response["documents"][0]["id"], 2);
        assert_eq!(response["count"], 2);
    }
}

#[test]
fn rerank_says_what_is_wrong_with_a_request() {
    let output = run(&["rerank"], r#"{"query":"a"}"#);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("documents"), "{}", stderr(&output));
}

#[test]
fn help_and_version_are_for_people() {
    let help = run(&["--help"], "");
    assert!(help.status.success());
    let text = String::from_utf8(help.stdout).unwrap();
    for word in [
        "serve",
        "rerank",
        "healthcheck",
        "--model",
        "RERANKER_MODEL",
        "demo",
    ] {
        assert!(text.contains(word), "{word}");
    }
    let version = String::from_utf8(run(&["--version"], "").stdout).unwrap();
    assert_eq!(
        version.trim(),
        format!("reranker {}", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn misuse_exits_with_64_and_a_failed_start_with_1() {
    assert_eq!(run(&["--no-such-option"], "").status.code(), Some(64));
    assert_eq!(run(&["--device", "tpu"], "").status.code(), Some(64));
    let output = run(&["rerank", "--require-gpu"], REQUEST);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("RERANKER_REQUIRE_GPU"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let empty = [
        "DEVICE",
        "RERANKER_REQUIRE_GPU",
        "RERANKER_MAX_LENGTH",
        "HF_TOKEN",
        "HF_HUB_OFFLINE",
        "LOG_LEVEL",
    ];
    let output = program()
        .envs(empty.map(|name| (name, "")))
        .args(["rerank", "/no/such/file"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("cannot read /no/such/file"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn cuda_without_a_gpu_warns_once_and_goes_on() {
    let output = run(&["rerank", "--device", "cuda"], REQUEST);
    assert!(output.status.success());
    assert_eq!(
        stderr(&output).matches("WARN").count(),
        1,
        "{}",
        stderr(&output)
    );
}

#[test]
fn healthcheck_tells_ready_from_absent() {
    let server = Server::start(&[]);
    let port = server.address.port().to_string();
    let output = run(&["healthcheck", "--port", &port], "");
    assert!(output.status.success(), "{}", stderr(&output));
    drop(server);
    let output = run(&["healthcheck", "--port", &port], "");
    assert_eq!(output.status.code(), Some(1));
}

/// A directory with a working model, which a test then breaks.
fn model_directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(Path::new("models/demo").join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn with_config(dir: &tempfile::TempDir, change: impl FnOnce(&mut Value)) {
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn a_local_directory_scores_like_the_embedded_model() {
    let dir = model_directory();
    let scores = |model: &str| {
        let output = run(&["rerank", "--model", model], REQUEST);
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["documents"].clone()
    };
    assert_eq!(scores(dir.path().to_str().unwrap()), scores("demo"));
}

#[test]
fn a_broken_model_is_one_sentence_and_exit_code_1() {
    type Break = fn(&tempfile::TempDir);
    let cases: [(Break, &[&str]); 8] = [
        (
            |d| fs::remove_file(d.path().join("config.json")).unwrap(),
            &["config.json"],
        ),
        (
            |d| fs::remove_file(d.path().join("tokenizer.json")).unwrap(),
            &["tokenizer.json"],
        ),
        (
            |d| fs::remove_file(d.path().join("model.safetensors")).unwrap(),
            &["model.safetensors"],
        ),
        (
            |d| {
                let path = d.path().join("model.safetensors");
                let bytes = fs::read(&path).unwrap();
                fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            },
            &["model.safetensors"],
        ),
        (
            |d| fs::write(d.path().join("tokenizer.json"), "{}").unwrap(),
            &["tokenizer.json"],
        ),
        (
            |d| with_config(d, |c| c["hidden_act"] = "relu".into()),
            &["config.json", "hidden_act", "relu"],
        ),
        (
            |d| with_config(d, |c| c["num_hidden_layers"] = 5.into()),
            &[
                "model.safetensors",
                "roberta.encoder.layer.4.attention.self.query.weight",
                "missing",
            ],
        ),
        (
            |d| with_config(d, |c| c["intermediate_size"] = 512.into()),
            &["model.safetensors", "intermediate.dense", "512"],
        ),
    ];
    for (break_it, says) in cases {
        let dir = model_directory();
        break_it(&dir);
        let output = run(
            &["rerank", "--model", dir.path().to_str().unwrap()],
            REQUEST,
        );
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(!text.contains("panicked"), "{text}");
        let error = text
            .lines()
            .find(|line| line.starts_with("error: "))
            .unwrap_or_else(|| panic!("{text}"));
        for word in says {
            assert!(error.contains(word), "`{word}` is not in: {error}");
        }
    }
}
