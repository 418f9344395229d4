//! Requests that two readers could understand differently, and addresses as people paste them.

use super::{BODY, ask, head};
use crate::support::{Answer, Server, read_answer};

fn send(server: &Server, head: &str, body: &str) -> Answer {
    read_answer(server.begin(head, body.as_bytes()))
}

#[test]
fn a_host_is_named_once_and_rightly() {
    let server = Server::start(&[("RERANKER_API_KEY", "a-key")]);
    let get = |version: &str, hosts: &str| {
        let head = format!("GET /health {version}\r\n{hosts}Connection: close\r\n\r\n");
        send(&server, &head, "")
    };
    for (version, hosts) in [
        ("HTTP/1.1", "Host: x\r\n"),
        ("HTTP/1.1", "Host: [::1]:8002\r\n"),
        ("HTTP/1.1", "Host:\r\n"),
        ("HTTP/1.0", ""),
    ] {
        assert_eq!(get(version, hosts).status, 200, "{version} {hosts}");
    }
    for (version, hosts, says) in [
        ("HTTP/1.1", "", "no Host header"),
        ("HTTP/1.1", "Host: x\r\nHost: x\r\n", "2 Host headers"),
        ("HTTP/1.0", "Host: x\r\nHost: y\r\n", "2 Host headers"),
        ("HTTP/1.1", "Host: a b\r\n", "\"a b\""),
        ("HTTP/1.1", "Host: user@x\r\n", "\"user@x\""),
    ] {
        let answer = get(version, hosts);
        assert_eq!(answer.status, 400, "{version} {hosts}");
        assert!(
            answer.body.contains(&says.replace('"', "\\\"")),
            "{}",
            answer.body
        );
        assert!(answer.header("x-request-id").is_some());
        assert_eq!(answer.header("connection"), Some("close"));
    }
}

#[test]
fn a_body_ends_in_one_place_only() {
    let server = Server::start(&[]);
    let post = |headers: &str, body: &str| {
        let head =
            format!("POST /rerank HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        send(&server, &head, body)
    };
    let chunked = format!("{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len());
    let length = BODY.len();
    assert_eq!(post("Transfer-Encoding: chunked\r\n", &chunked).status, 200);
    assert_eq!(post("Transfer-Encoding: Chunked\r\n", &chunked).status, 200);
    for headers in [
        "Transfer-Encoding: gzip, chunked\r\n".to_owned(),
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n".to_owned(),
        "Transfer-Encoding: chunked, chunked\r\n".to_owned(),
        "Transfer-Encoding: chunked, gzip\r\n".to_owned(),
        "Transfer-Encoding: identity\r\n".to_owned(),
        "Transfer-Encoding: xchunked\r\n".to_owned(),
        format!(
            "Content-Length: {length}\r\nContent-Length: {}\r\n",
            length + 1
        ),
        format!("Content-Length: {length}, {length}\r\n"),
        "Content-Length: +5\r\n".to_owned(),
        "Content-Length: -1\r\n".to_owned(),
        "Content-Length: 0x10\r\n".to_owned(),
    ] {
        assert_eq!(post(&headers, &chunked).status, 400, "{headers}");
    }
    // Both: the chunks count, and nothing that follows is taken for a request.
    for order in [
        ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"],
        ["Transfer-Encoding: chunked\r\n", "Content-Length: 5\r\n"],
    ] {
        let head = format!("POST /rerank HTTP/1.1\r\nHost: x\r\n{}\r\n", order.concat());
        let smuggled = format!("{chunked}GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = send(&server, &head, &smuggled);
        assert_eq!(answer.status, 200);
        assert!(!answer.body.contains("HTTP/1.1"), "{answer:?}");
    }
}

#[test]
fn slashes_too_many_are_put_right_and_open_nothing() {
    let server = Server::start(&[("RERANKER_API_KEY", "a-key")]);
    let key = [("X-API-Key", "a-key")];
    for path in [
        "/health/",
        "//health",
        "/health/?x=1",
        "/ping/",
        "/info/",
        "/v1/models/",
        "/v1//models",
        "/models/a/b/",
        "/metrics/",
        "/ui",
        "/ui/",
        "//ui/",
        "/docs/",
        "//",
        "/ui/style.css/",
        "/openapi.json/",
    ] {
        let answer = ask(&server, "GET", path, &key);
        // One of them is not a path of ours.
        let expected = if path == "/models/a/b/" { 404 } else { 200 };
        assert_eq!(answer.status, expected, "{path}");
    }
    for path in [
        "/rerank/",
        "//rerank",
        "/v1//rerank/?x=1",
        "/v1/rerank///",
        "/score/",
    ] {
        let body = r#"{"query":"a","documents":["b"],"text_1":"a","text_2":"b"}"#;
        let head = head("POST", path, &key, body.len());
        assert_eq!(send(&server, &head, body).status, 200, "{path}");
    }
    for path in [
        "/metrics/",
        "//metrics",
        "/%6detrics",
        "/health/../info",
        "/health/..",
        "/health/%2e%2e/info",
        "//health/../info",
        "/ui/../info",
        "/docs/../metrics",
        "/health;/info",
        "/health%2f",
        "/info/",
        "/HEALTH",
        "//%2finfo",
        "/ui%2f..%2finfo",
    ] {
        let status = ask(&server, "GET", path, &[]).status;
        let may_be_open = ["/ui/../info", "/docs/../metrics"].contains(&path);
        assert!(
            status == 401 || may_be_open && status == 404,
            "{path}: {status}"
        );
    }
    let metrics = ask(&server, "GET", "/metrics", &key).body;
    assert!(
        metrics.contains("route=\"/v1/rerank\"") && !metrics.contains("//"),
        "{metrics}"
    );
    // The links of the page mean the same at both of its addresses.
    assert!(
        ask(&server, "GET", "/ui/", &[])
            .body
            .contains("<base href=\"../\">")
    );
}
