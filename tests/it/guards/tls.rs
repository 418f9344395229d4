//! HTTPS: what is spoken, and certificates that are replaced.

use std::{fs, io::Write as _, net::TcpStream, path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};
use tempfile::TempDir;

use super::{BODY, head};
use crate::support::{Answer, Server, answer_from, program};

/// A directory with `cert.pem` and `key.pem`.
struct Files {
    dir: TempDir,
}

impl Files {
    fn new() -> (Self, CertificateDer<'static>) {
        let files = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let cert = files.write_new();
        (files, cert)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write_new(&self) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(vec!["reranker.example".to_owned()]).unwrap();
        fs::write(self.path("key.pem"), made.signing_key.serialize_pem()).unwrap();
        fs::write(self.path("cert.pem"), made.cert.pem()).unwrap();
        made.cert.der().clone()
    }

    fn serve(&self, more: &[(&str, &str)]) -> Server {
        let (cert, key) = (self.path("cert.pem"), self.path("key.pem"));
        let mut options = vec![
            ("RERANKER_TLS_CERT", cert.to_str().unwrap()),
            ("RERANKER_TLS_KEY", key.to_str().unwrap()),
        ];
        options.extend(more);
        Server::start(&options)
    }
}

/// A connection by someone who trusts this certificate and no other.
fn connect(
    server: &Server,
    trusted: &CertificateDer<'static>,
    alpn: &[&str],
) -> Result<StreamOwned<ClientConnection, TcpStream>, std::io::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("reranker.example").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, server.begin("", b""));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

fn rerank(server: &Server, trusted: &CertificateDer<'static>) -> Answer {
    let mut stream = connect(server, trusted, &[]).unwrap();
    stream
        .write_all(head("POST", "/rerank", &[], BODY.len()).as_bytes())
        .unwrap();
    stream.write_all(BODY.as_bytes()).unwrap();
    answer_from(stream)
}

#[test]
fn requests_are_answered_over_tls_and_the_healthcheck_finds_out_by_itself() {
    let (files, cert) = Files::new();
    let server = files.serve(&[]);
    assert_eq!(rerank(&server, &cert).json()["count"], 2);
    for (offered, chosen) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"], "http/1.1")] {
        let stream = connect(&server, &cert, offered).unwrap();
        assert_eq!(stream.conn.alpn_protocol(), Some(chosen.as_bytes()));
    }
    let check = |port: &str| {
        program()
            .args(["healthcheck", "--port", port])
            .output()
            .unwrap()
    };
    let port = server.address.port().to_string();
    let output = check(&port);
    assert!(output.status.success(), "{output:?}");
    drop(server);
    assert_eq!(check(&port).status.code(), Some(1));
}

#[test]
fn a_client_that_does_not_shake_hands_is_cut_off() {
    let (files, _) = Files::new();
    let server = files.serve(&[
        ("RERANKER_HEADER_TIMEOUT_MS", "300"),
        ("RERANKER_MAX_CONNECTIONS", "1"),
    ]);
    let silent = server.begin("", b"");
    // Ends without a word.
    let answer = std::io::read_to_string(silent);
    assert!(answer.is_err() || answer.unwrap().is_empty());
}

#[test]
fn a_new_certificate_is_taken_up_and_a_broken_one_is_not() {
    let (files, first) = Files::new();
    let server = files.serve(&[]);
    assert_eq!(rerank(&server, &first).status, 200);

    let second = files.write_new();
    server.signal("HUP");
    server.wait_for_log("certificate read again");
    assert_eq!(rerank(&server, &second).status, 200);
    assert!(
        connect(&server, &first, &[]).is_err(),
        "the old one is gone"
    );

    fs::write(files.path("cert.pem"), "nonsense").unwrap();
    server.signal("HUP");
    let line = server.wait_for_log("going on with what was read before");
    assert!(
        line.contains("WARN") && line.contains("cert.pem") && line.contains("holds no certificate"),
        "{line}"
    );
    assert_eq!(rerank(&server, &second).status, 200);

    // No signal: the files are looked at.
    let third = files.write_new();
    while connect(&server, &third, &[]).is_err() {
        server.wait_for_log("certificate read again");
    }
    assert_eq!(rerank(&server, &third).status, 200);
}

#[test]
fn files_that_cannot_be_used_end_the_start() {
    let (files, _) = Files::new();
    let (other, _) = Files::new();
    let cert = files.path("cert.pem").to_str().unwrap().to_owned();
    let key = files.path("key.pem").to_str().unwrap().to_owned();
    let other = other.path("key.pem").to_str().unwrap().to_owned();
    for (cert, key, says) in [
        (
            &*cert,
            "",
            "RERANKER_TLS_CERT is set but RERANKER_TLS_KEY is not",
        ),
        (
            "",
            &*key,
            "RERANKER_TLS_KEY is set but RERANKER_TLS_CERT is not",
        ),
        (
            "/no/such/cert.pem",
            &*key,
            "cannot read RERANKER_TLS_CERT /no/such/cert.pem",
        ),
        (&*cert, &*cert, "holds no private key"),
        (&*key, &*key, "holds no certificate"),
        (&*cert, &*other, "cannot be used together"),
    ] {
        let output = program()
            .envs([
                ("RERANKER_PORT", "0"),
                ("RERANKER_TLS_CERT", cert),
                ("RERANKER_TLS_KEY", key),
            ])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(says), "{says}: {text}");
    }
}
