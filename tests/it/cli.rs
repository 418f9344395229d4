//! The command line, its exit codes and what it says when a model cannot be loaded.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Output, Stdio},
};

use serde_json::Value;

use crate::support::{Server, program, read_answer};

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
fn what_env_files_leave_around_a_value_is_not_part_of_it() {
    let output = program()
        .envs([
            ("RERANKER_MODEL", "\"demo\"\r"),
            ("DEVICE", "cpu\r"),
            ("RERANKER_MAX_LENGTH", " 256\r\n"),
            ("RERANKER_REQUIRE_GPU", "false\r"),
            ("RERANKER_API_KEY", "'one, two'\r"),
            ("RERANKER_PORT", "\"\"\r"),
            ("LOG_LEVEL", "'INFO'\r"),
            ("RUST_LOG", "warning\r"),
        ])
        .args(["rerank", "/no/such/file\r"])
        .output()
        .unwrap();
    assert_eq!(
        stderr(&output),
        "error: cannot read /no/such/file\r: No such file or directory (os error 2)\n"
    );
    let server = Server::start(&[("RERANKER_API_KEY", "first, second\r")]);
    for (key, status) in [("first", 200), ("second", 200), ("third", 401)] {
        let head = format!(
            "GET /info HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: {key}\r\n\r\n"
        );
        assert_eq!(
            read_answer(server.begin(&head, b"")).status,
            status,
            "{key}"
        );
    }
    let help = program()
        .env("RERANKER_API_KEY", "a-secret\r")
        .arg("--help")
        .output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    assert!(help.contains("RERANKER_TLS_CERT") && !help.contains("a-secret"));
}

#[test]
fn variables_that_kubernetes_sets_for_a_service_are_ignored_with_one_warning() {
    let link = ("RERANKER_PORT", "tcp://10.43.12.7:8002");
    let others = [
        ("RERANKER_SERVICE_HOST", "10.43.12.7"),
        ("RERANKER_SERVICE_PORT", "8002"),
        ("RERANKER_PORT_8002_TCP", "tcp://10.43.12.7:8002"),
        ("RERANKER_PORT_8002_TCP_ADDR", "10.43.12.7"),
        link,
    ];
    let mut command = program();
    command
        .envs(others)
        .args(["rerank", "tests/data/no-such-file"]);
    let said = stderr(&command.output().unwrap());
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(
        lines[0].contains(" WARN RERANKER_PORT is \"tcp://10.43.12.7:8002\"")
            && lines[0].contains("Kubernetes"),
        "{said}"
    );
    // The server reads the variable too; a flag still says where to listen.
    let mut process = program();
    process
        .env(link.0, link.1)
        .args(["--port=0", "--host=127.0.0.1"]);
    let mut process = process.stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("ready")));
    process.kill().unwrap();
    process.wait().unwrap();
    let check = program()
        .envs([link])
        .args(["healthcheck", "--timeout-ms=1"])
        .output();
    assert_ne!(check.unwrap().status.code(), Some(64));
}

#[test]
fn a_misspelt_variable_is_named_with_the_right_one() {
    let output = program()
        .env("RERANKER_MAX_DOCUMENT", "a value")
        .args(["rerank", "/no/such/file"])
        .output()
        .unwrap();
    let said = stderr(&output);
    assert!(
        said.contains("RERANKER_MAX_DOCUMENT (did you mean RERANKER_MAX_DOCUMENTS?)"),
        "{said}"
    );
    assert!(!said.contains("a value"), "{said}");
}

#[test]
fn a_log_level_that_cannot_be_read_is_a_sentence() {
    for (variable, code, says) in [
        ("LOG_LEVEL", 64, "expected trace, debug, info, warning"),
        (
            "RUST_LOG",
            1,
            "RUST_LOG is \"reranker=loud\", which cannot be read",
        ),
    ] {
        let output = program().env(variable, "reranker=loud").output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{variable}");
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    }
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

#[test]
fn healthcheck_finds_the_server_by_the_variables_that_say_where_it_listens() {
    let server = Server::start(&[("RERANKER_HOST", "localhost")]);
    assert!(server.address.ip().is_loopback());
    let port = server.address.port().to_string();
    let check = |host: &str, port: &str| {
        let mut check = program();
        check.arg("healthcheck");
        check.envs([("RERANKER_HOST", host), ("RERANKER_PORT", port)]);
        check.output().unwrap()
    };
    for host in [
        "0.0.0.0",
        "::",
        "[::]",
        "127.0.0.1",
        "localhost",
        "\"localhost\"\r",
    ] {
        let output = check(host, &port);
        assert!(output.status.success(), "{host}: {}", stderr(&output));
    }
    // Not there, and not that port.
    for (host, port) in [("127.0.0.2", port.as_str()), ("0.0.0.0", "1")] {
        let output = check(host, port);
        assert_eq!(output.status.code(), Some(1), "{host}");
        let said = stderr(&output);
        assert!(said.starts_with("error: no answer from 127.0.0."), "{said}");
    }
}

#[test]
fn a_host_without_an_address_is_a_sentence() {
    let run = |host: &str| program().env("RERANKER_HOST", host).output().unwrap();
    let output = run("no-such-host.invalid");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("RERANKER_HOST is \"no-such-host.invalid\""),
        "{}",
        stderr(&output)
    );
    let output = run("http://localhost:8002");
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("without a scheme"));
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
