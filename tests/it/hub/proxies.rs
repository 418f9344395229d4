//! The way to the hub through a proxy.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use super::{Setup, assert_says};

/// A proxy that answers every request in the same way, and the heads of the requests.
fn proxy(answer: &'static str) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (heads, received) = mpsc::channel();
    // It ends with the test binary.
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let head = head(&mut stream);
            let _ = stream.write_all(answer.as_bytes());
            if heads.send(head).is_err() {
                return;
            }
        }
    });
    (address, received)
}

fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

const NOT_FOUND: &str = "HTTP/1.1 404 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const WHO_ARE_YOU: &str = "HTTP/1.1 407 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

#[test]
fn a_plain_request_is_forwarded_with_the_credentials() {
    let mut setup = Setup::usual();
    let (address, heads) = proxy(NOT_FOUND);
    setup.settings.endpoint = Some("http://hub.example:8080".to_owned());
    setup.settings.proxies.http = Some(format!("http://user:p%40ss@{address}"));
    assert_says(&setup.fetch().unwrap_err(), &["no model"]);
    let head = heads.recv().unwrap();
    let first = "get http://hub.example:8080/api/models/acme/reranker/revision/main http/1.1\r\n";
    assert!(head.starts_with(first), "{head}");
    // `user:p@ss`, in small letters as the whole head.
    let credentials = "proxy-authorization: basic dxnlcjpwqhnz";
    assert_says(&head, &["host: hub.example:8080", credentials]);
}

#[test]
fn a_request_by_https_asks_for_a_tunnel() {
    let mut setup = Setup::usual();
    let (address, heads) = proxy(NOT_FOUND);
    setup.settings.endpoint = Some("https://hub.example".to_owned());
    setup.settings.proxies.https = Some(address.clone());
    assert_says(&setup.fetch().unwrap_err(), &[&address]);
    assert_says(
        &heads.recv().unwrap(),
        &["connect hub.example:443 http/1.1"],
    );
}

#[test]
fn a_proxy_that_wants_credentials_says_so_without_showing_them() {
    for endpoint in ["http://hub.example", "https://hub.example"] {
        let mut setup = Setup::usual();
        let (address, _heads) = proxy(WHO_ARE_YOU);
        let with_password = Some(format!("http://user:secret@{address}"));
        setup.settings.endpoint = Some(endpoint.to_owned());
        setup.settings.proxies.http.clone_from(&with_password);
        setup.settings.proxies.https = with_password;
        let message = setup.fetch().unwrap_err();
        assert_says(&message, &[&address, "407", "HTTPS_PROXY", "NO_PROXY"]);
        assert!(!message.contains("secret"), "{message}");
    }
}

#[test]
fn hosts_in_no_proxy_are_reached_directly() {
    let mut setup = Setup::usual();
    setup.settings.proxies.http = Some("http://no-such-host.invalid".to_owned());
    setup.fetch().unwrap_err();
    setup.settings.proxies.except = "example.com,127.0.0.0/8".to_owned();
    setup.fetch().unwrap();
}
