//! Who gets in.

use std::fs;

use super::{BODY, ask, detail, post};
use crate::support::{Answer, Server, program};

fn with_key(server: &Server, key: &str) -> u16 {
    let header = format!("Bearer {key}");
    post(server, &[("Authorization", &header)], BODY.as_bytes()).status
}

fn refused(answer: &Answer) {
    assert_eq!(answer.status, 401, "{answer:?}");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    assert_eq!(
        detail(answer),
        "a valid API key is needed; send it in the header Authorization after the word Bearer, or in the header X-API-Key"
    );
}

#[test]
fn a_key_opens_what_is_closed_without_one() {
    let server = Server::start(&[("RERANKER_API_KEY", "first-key, second-key,")]);
    for (header, value) in [
        ("Authorization", "Bearer first-key"),
        ("authorization", "bearer second-key"),
        ("Authorization", "first-key"),
        ("X-API-Key", "second-key"),
    ] {
        let answer = post(&server, &[(header, value)], BODY.as_bytes());
        assert_eq!(answer.status, 200, "{header}: {value}: {answer:?}");
    }
    for (header, value) in [
        ("Authorization", "Bearer wrong-key"),
        ("Authorization", "Bearer "),
        ("Authorization", "Bearer first-key2"),
        ("Authorization", "Basic first-key"),
        ("X-API-Key", ""),
        ("X-API-Key", "first-key, second-key,"),
        ("Cookie", "first-key"),
    ] {
        refused(&post(&server, &[(header, value)], BODY.as_bytes()));
    }
    for (method, path) in [
        ("POST", "/rerank"),
        ("POST", "/rerank/"),
        ("GET", "/info"),
        ("HEAD", "/info"),
        ("GET", "/metrics"),
        ("GET", "/nothing"),
        ("POST", "/health"),
        ("DELETE", "/"),
        ("OPTIONS", "/rerank"),
    ] {
        assert_eq!(
            ask(&server, method, path, &[]).status,
            401,
            "{method} {path}"
        );
    }
    assert_eq!(
        ask(&server, "GET", "/nothing", &[("X-API-Key", "first-key")]).status,
        404
    );
    for path in ["/", "/health"] {
        assert_eq!(ask(&server, "GET", path, &[]).status, 200, "{path}");
    }
    // Open, though there may be nothing there.
    for path in ["/ui", "/docs", "/openapi.json", "/ping"] {
        assert_ne!(ask(&server, "GET", path, &[]).status, 401, "{path}");
    }
    let preflight = [
        ("Origin", "http://a"),
        ("Access-Control-Request-Method", "POST"),
    ];
    assert_eq!(ask(&server, "OPTIONS", "/rerank", &preflight).status, 405);
}

#[test]
fn no_key_reaches_the_log() {
    let server = Server::start(&[("RERANKER_API_KEY", "first-key"), ("LOG_LEVEL", "trace")]);
    assert_eq!(with_key(&server, "first-key"), 200);
    assert_eq!(with_key(&server, "wrong-key"), 401);
    server.signal("TERM");
    let log = server.log_until_end();
    assert!(log.contains("reranked"), "{log}");
    assert!(!log.contains("-key"), "{log}");
}

#[test]
fn keys_of_a_file_are_read_again_on_a_signal_and_when_the_file_changes() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "# two people\nalice-key\r\n\n  bob-key  \n").unwrap();
    let path = file.path().to_str().unwrap();
    let server = Server::start(&[
        ("RERANKER_API_KEY_FILE", path),
        ("RERANKER_API_KEY", "own-key"),
    ]);
    for key in ["alice-key", "bob-key", "own-key"] {
        assert_eq!(with_key(&server, key), 200, "{key}");
    }
    for key in ["", "#", "# two people", "carol-key"] {
        assert_eq!(with_key(&server, key), 401, "{key}");
    }
    fs::write(file.path(), "carol-key\n").unwrap();
    server.signal("HUP");
    let line = server.wait_for_log("keys read again");
    assert!(line.contains("2 open"), "{line}");
    assert_eq!(
        [
            with_key(&server, "alice-key"),
            with_key(&server, "carol-key"),
            with_key(&server, "own-key")
        ],
        [401, 200, 200]
    );

    // No signal: the file is looked at.
    fs::write(file.path(), "carol-key\ndave-key\n").unwrap();
    server.wait_for_log("3 open");
    assert_eq!(with_key(&server, "dave-key"), 200);

    // A file that is empty for a moment locks nobody out.
    fs::write(file.path(), "# nothing\n").unwrap();
    let line = server.wait_for_log("holds no key");
    assert!(
        line.contains(path) && line.contains("going on with what was read before"),
        "{line}"
    );
    assert_eq!(with_key(&server, "dave-key"), 200);
}

#[test]
fn keys_that_cannot_be_used_end_the_start() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    fs::write(empty.path(), "\n# no key\n").unwrap();
    for (option, value, says) in [
        (
            "RERANKER_API_KEY_FILE",
            "/no/such/keys",
            "cannot read RERANKER_API_KEY_FILE /no/such/keys",
        ),
        (
            "RERANKER_API_KEY_FILE",
            empty.path().to_str().unwrap(),
            "holds no key",
        ),
        (
            "RERANKER_API_KEY",
            " , ",
            "RERANKER_API_KEY holds only commas",
        ),
    ] {
        let output = program()
            .env("RERANKER_PORT", "0")
            .env(option, value)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(says), "{text}");
    }
    let help = program()
        .arg("--help")
        .env("RERANKER_API_KEY", "my-secret")
        .output()
        .unwrap();
    assert!(
        !String::from_utf8(help.stdout)
            .unwrap()
            .contains("my-secret")
    );
}

#[test]
fn an_open_server_says_so_where_strangers_could_reach_it() {
    let server = Server::start_loading(&[("RERANKER_HOST", "0.0.0.0")]);
    let line = server.wait_for_log("no API key is set");
    assert!(
        line.contains("WARN") && line.contains("RERANKER_API_KEY"),
        "{line}"
    );

    for options in [
        [("RERANKER_HOST", "0.0.0.0"), ("RERANKER_API_KEY", "a")],
        [("RERANKER_HOST", "127.0.0.1"), ("RERANKER_API_KEY", "")],
    ] {
        let server = Server::start(&options);
        server.signal("TERM");
        let log = server.log_until_end();
        assert!(!log.contains("no API key is set"), "{log}");
    }
}
