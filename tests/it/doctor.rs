//! `reranker doctor` against servers in every state.

use std::{fs, net::TcpListener, path::PathBuf, process::Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Server, program};

fn doctor(url: &str, arguments: &[&str]) -> Output {
    let mut command = program();
    command.args(["doctor", url]).args(arguments);
    command.output().unwrap()
}

/// The verdicts by the names of the checks, and the exit code.
fn examine(url: &str, arguments: &[&str]) -> (Value, Option<i32>) {
    let output = doctor(url, &[&["--json"], arguments].concat());
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["passed"], json!(output.status.success()));
    (found["checks"].clone(), output.status.code())
}

fn check<'a>(checks: &'a Value, name: &str) -> &'a Value {
    let mut checks = checks.as_array().unwrap().iter();
    let found = checks.find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no check {name}"))
}

/// The only check is that the server can be reached, which fails with these words.
fn is_out_of_reach(url: &str, arguments: &[&str], found: &str, advice: &str) {
    let (checks, code) = examine(url, arguments);
    assert_eq!(checks.as_array().unwrap().len(), 1, "{checks}");
    let reach = check(&checks, "reach");
    assert_eq!((&reach["verdict"], code), (&json!("fail"), Some(1)));
    for (text, part) in [(&reach["found"], found), (&reach["advice"], advice)] {
        assert!(text.as_str().unwrap().contains(part), "{reach}");
    }
}

fn verdicts(checks: &Value) -> Vec<(&str, &str)> {
    let checks = checks.as_array().unwrap().iter();
    checks
        .map(|check| {
            (
                check["name"].as_str().unwrap(),
                check["verdict"].as_str().unwrap(),
            )
        })
        .collect()
}

#[test]
fn a_healthy_server_passes() {
    let server = Server::start(&[]);
    let url = format!("http://{}/rerank", server.address);
    let (checks, code) = examine(&url, &["--seconds", "1", "--clients", "4"]);
    let verdicts = verdicts(&checks);
    for name in [
        "reach",
        "encryption",
        "key",
        "version",
        "order",
        "cache",
        "throughput",
        "scores",
    ] {
        assert!(verdicts.contains(&(name, "pass")), "{name}: {checks}");
    }
    // It computes on the CPU, and how fast depends on the machine.
    assert!(verdicts.contains(&("device", "warn")), "{checks}");
    assert_eq!(check(&checks, "cache")["values"]["cached"], 20);
    // Nothing but the repeated request came from the cache.
    let metrics = server.get("/metrics").body;
    assert!(
        metrics.contains("reranker_cache_pairs_total{source=\"memory\"} 20\n"),
        "{metrics}"
    );
    assert!(check(&checks, "20 documents")["values"]["median_ms"].is_u64());
    assert!(check(&checks, "50 documents")["values"]["limit_ms"] == 200);
    assert!(check(&checks, "throughput")["values"]["good"].as_u64() > Some(0));
    assert_eq!(code, Some(0));
}

#[test]
fn the_table_is_for_people() {
    let server = Server::start(&[]);
    let url = format!("http://{}", server.address);
    let output = doctor(&url, &["--quick"]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.starts_with(&url), "{table}");
    assert!(table.contains("\n  pass  reach"), "{table}");
    assert!(table.contains("\n  warn  device"), "{table}");
    assert!(table.contains("→ on a GPU machine"), "{table}");
    assert!(
        table.trim_end().ends_with("1 warning, 0 failures"),
        "{table}"
    );
    assert!(
        !table.contains('\x1b'),
        "colours are for terminals: {table}"
    );
    assert!(output.status.success());
    let strict = doctor(&url, &["--quick", "--strict"]);
    assert_eq!(strict.status.code(), Some(1));
}

#[test]
fn a_server_on_the_cpu_fails_if_a_gpu_is_expected() {
    // There is no GPU here, and the server falls back.
    let server = Server::start(&[("DEVICE", "cuda")]);
    let url = format!("http://{}", server.address);
    let (checks, code) = examine(&url, &["--quick", "--gpu"]);
    let device = check(&checks, "device");
    assert_eq!((&device["verdict"], code), (&json!("fail"), Some(1)));
    assert!(
        device["advice"].as_str().unwrap().contains("driver"),
        "{device}"
    );
}

#[test]
fn keys_are_tried() {
    let server = Server::start(&[("RERANKER_API_KEY", "right")]);
    let url = format!("http://{}", server.address);
    for (key, verdict, found) in [
        (None, "fail", "the server asks for a key (401)"),
        (Some("wrong"), "fail", "the server refuses this key (401)"),
        (Some("right"), "pass", "the server takes the key"),
        (Some("right,next"), "pass", "the server takes the key"),
    ] {
        let mut command = program();
        command.args(["doctor", &url, "--json", "--quick"]);
        if let Some(key) = key {
            command.env("RERANKER_API_KEY", key);
        }
        let output = command.output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let check = check(&report["checks"], "key");
        assert_eq!(
            (&check["verdict"], &check["found"]),
            (&json!(verdict), &json!(found))
        );
        assert_eq!(output.status.success(), verdict == "pass");
        let known = self::check(&report["checks"], "version")["verdict"] == "pass";
        assert_eq!(known, verdict == "pass", "{report}");
        let said = [output.stdout, output.stderr].concat();
        assert!(!String::from_utf8(said).unwrap().contains("wrong,"));
    }
}

#[test]
fn a_server_that_is_not_there_is_told_from_a_name_that_is_not_there() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    is_out_of_reach(
        &format!("http://127.0.0.1:{port}"),
        &[],
        "nobody listens",
        "start the server",
    );
    is_out_of_reach(
        "http://nowhere.invalid:8002",
        &[],
        "has no address",
        "slip of the pen",
    );
    // It takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    is_out_of_reach(
        &format!("http://{}", silent.local_addr().unwrap()),
        &["--timeout", "1"],
        "no answer in time",
        "the port is open but nothing answers",
    );
    let misuse = doctor("not an address", &[]);
    let said = String::from_utf8(misuse.stderr).unwrap();
    assert!(said.contains("\"not an address\" is no address"), "{said}");
    assert_eq!(misuse.status.code(), Some(1));
}

#[test]
fn a_server_that_loads_is_told_and_waited_for() {
    // A hub that accepts connections and never answers.
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    let home = tempfile::tempdir().unwrap();
    let loading = Server::start_loading(&[
        ("RERANKER_MODEL", "some/model"),
        (
            "HF_ENDPOINT",
            &format!("http://{}", hub.local_addr().unwrap()),
        ),
        ("HF_HOME", home.path().to_str().unwrap()),
    ]);
    is_out_of_reach(
        &format!("http://{}", loading.address),
        &[],
        "not ready: Modèle non chargé",
        "--wait",
    );
    let soon = Server::start_loading(&[]);
    let (checks, code) = examine(
        &format!("http://{}", soon.address),
        &["--wait", "120", "--quick"],
    );
    assert_eq!(
        (&check(&checks, "reach")["verdict"], code),
        (&json!("pass"), Some(0))
    );
}

#[test]
fn a_server_that_refuses_for_want_of_time_is_overloaded_and_not_broken() {
    let server = Server::start(&[
        ("RERANKER_MAX_QUEUE_PAIRS", "50"),
        ("RERANKER_MAX_DOCUMENTS", "50"),
    ]);
    let url = format!("http://{}", server.address);
    let (checks, code) = examine(&url, &["--seconds", "1", "--clients", "64"]);
    let throughput = check(&checks, "throughput");
    assert_eq!((&throughput["verdict"], code), (&json!("warn"), Some(0)));
    assert!(
        throughput["found"]
            .as_str()
            .unwrap()
            .contains("refused (429)"),
        "{throughput}"
    );
    assert!(
        throughput["values"]["good"].as_u64() > Some(0),
        "{throughput}"
    );
}

/// A certificate of a name, which is its own authority, and its key.
struct Certificate {
    _directory: TempDir,
    chain: PathBuf,
    key: PathBuf,
}

impl Certificate {
    fn new(name: &str, last_year: i32) -> Self {
        let mut parameters = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2000, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(last_year, 1, 1);
        let pair = rcgen::KeyPair::generate().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (chain, key) = (directory.path().join("cert"), directory.path().join("key"));
        fs::write(&chain, parameters.self_signed(&pair).unwrap().pem()).unwrap();
        fs::write(&key, pair.serialize_pem()).unwrap();
        Self {
            _directory: directory,
            chain,
            key,
        }
    }

    fn server(&self) -> Server {
        Server::start(&[
            ("RERANKER_TLS_CERT", self.chain.to_str().unwrap()),
            ("RERANKER_TLS_KEY", self.key.to_str().unwrap()),
        ])
    }
}

#[test]
fn certificates_are_looked_at() {
    let right = Certificate::new("localhost", 2090);
    let server = right.server();
    let port = server.address.port();
    let https = format!("https://localhost:{port}");
    let authority = ["--quick", "--cafile", right.chain.to_str().unwrap()];
    let (checks, code) = examine(&https, &authority);
    assert_eq!(
        (&check(&checks, "encryption")["verdict"], code),
        (&json!("pass"), Some(0))
    );
    is_out_of_reach(
        &https,
        &[],
        "an authority that this machine does not know",
        "--cafile",
    );
    is_out_of_reach(
        &format!("https://127.0.0.1:{port}"),
        &authority,
        "the certificate is of another name",
        "a name that the certificate has",
    );
    is_out_of_reach(
        &format!("http://localhost:{port}"),
        &[],
        "this port speaks HTTPS",
        &format!("use https://localhost:{port}"),
    );
    let plain = Server::start(&[]);
    is_out_of_reach(
        &format!("https://{}", plain.address),
        &[],
        "this port speaks HTTP, not HTTPS",
        "use http://",
    );
    let ended = Certificate::new("localhost", 2020);
    let server = ended.server();
    is_out_of_reach(
        &format!("https://localhost:{}", server.address.port()),
        &["--cafile", ended.chain.to_str().unwrap()],
        "the certificate has expired",
        "renew",
    );
}

#[test]
fn something_else_at_the_address_is_no_reranker() {
    use std::io::{Read as _, Write as _};
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", other.local_addr().unwrap());
    let answers = [
        ("404 Not Found", "", "it has no /health"),
        (
            "302 Found",
            "Location: https://elsewhere/\r\n",
            "it sends on to https://elsewhere/",
        ),
        ("200 OK", "", "/health answers 200"),
    ];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (status, header, _) in answers {
                let (mut stream, _) = other.accept().unwrap();
                let mut request = [0; 4096];
                assert!(stream.read(&mut request).unwrap() > 0);
                let answer = format!(
                    "HTTP/1.1 {status}\r\n{header}Content-Length: 2\r\nConnection: close\r\n\r\nhi"
                );
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        for (_, _, found) in answers {
            is_out_of_reach(&url, &[], found, "");
        }
    });
}
