//! Scores that several servers share, with a real Redis (or Valkey) that is treated badly. They run
//! with `make redis`: most machines have no `redis-server`.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use redis::{Client, Commands as _, Connection};
use tempfile::TempDir;

use super::{body, cached, metric, pairs, rerank, results};
use crate::support::{Answer, Server};

/// Long enough for a loaded machine; nothing waits that long when all is well.
const PATIENCE: Duration = Duration::from_mins(1);

/// A Redis of the test's own, killed at the end.
struct Redis {
    process: Child,
    port: u16,
    options: Vec<String>,
    directory: TempDir,
}

impl Redis {
    fn start(options: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let directory = tempfile::tempdir().unwrap();
        let process = Self::spawn(port, &options, directory.path());
        let redis = Self {
            process,
            port,
            options,
            directory,
        };
        redis.wait_until_it_listens();
        redis
    }

    fn spawn(port: u16, options: &[String], directory: &Path) -> Child {
        // tests/redis/run may set another program.
        let program = option_env!("REDIS_SERVER").unwrap_or("redis-server");
        let port = port.to_string();
        let tls = options.iter().any(|option| option.starts_with("--tls-"));
        let (plain, encrypted) = if tls { ("0", &*port) } else { (&*port, "0") };
        Command::new(program)
            .args([
                "--port",
                plain,
                "--tls-port",
                encrypted,
                "--bind",
                "127.0.0.1",
            ])
            .args(["--save", "", "--appendonly", "no"])
            .args(options)
            .current_dir(directory)
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start {program}: {error}; `make redis` installs it")
            })
    }

    fn wait_until_it_listens(&self) {
        eventually("Redis listens", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    /// The address that servers are given.
    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    fn connection(&self) -> Connection {
        Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    fn keys(&self) -> Vec<String> {
        self.connection().keys("*").unwrap()
    }

    fn signal(&self, name: &str) {
        let kill = Command::new("kill")
            .args(["-s", name, &self.process.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.process = Self::spawn(self.port, &self.options, self.directory.path());
        self.wait_until_it_listens();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "not in {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A server that is connected. Its own memory is off unless an option says otherwise, so that what
/// it knows comes from Redis; its patience is that of a loaded machine.
fn server(redis: &Redis, options: &[(&str, &str)]) -> Server {
    let url = redis.url();
    let mut all = vec![
        ("RERANKER_REDIS_URL", &*url),
        ("RERANKER_CACHE_MB", "0"),
        ("RERANKER_REDIS_TIMEOUT_MS", "2000"),
    ];
    all.extend_from_slice(options);
    let server = Server::start(&all);
    is_connected(&server);
    server
}

fn is_connected(server: &Server) {
    eventually("the server is connected to Redis", || {
        metric(server, "reranker_cache_redis_connected") == "1"
    });
}

/// Waits until Redis holds so many scores: they are written behind the answers.
fn holds(redis: &Redis, count: usize) {
    eventually("the scores are in Redis", || redis.keys().len() == count);
}

fn errors(server: &Server, kind: &str) -> u64 {
    let metrics = server.get("/metrics").body;
    let prefix = format!("reranker_cache_errors_total{{kind=\"{kind}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&*prefix));
    line.map_or(0, |count| count.parse().unwrap())
}

#[test]
#[ignore = "needs a redis-server: make redis"]
fn servers_share_scores() {
    let redis = Redis::start(&[]);
    let (one, other) = (
        server(&redis, &[]),
        server(&redis, &[("RERANKER_CACHE_MB", "1")]),
    );
    let first = rerank(&one, &body("How many people live in town 3?", 0..5));
    holds(&redis, 5);
    let second = rerank(&other, &body("How many people live in town 3?", 0..7));
    assert_eq!(cached(&second), 5);
    assert_eq!(pairs(&other)["redis"], 5);
    // What came from Redis is remembered.
    let third = rerank(&other, &body("How many people live in town 3?", 0..5));
    assert_eq!(pairs(&other)["memory"], 5);
    assert_eq!(results(&first), results(&third));
    let alone = Server::start(&[("RERANKER_CACHE_MB", "0")]);
    let alone = rerank(&alone, &body("How many people live in town 3?", 0..7));
    assert_eq!(results(&second), results(&alone));
}

#[test]
#[ignore = "needs a redis-server: make redis"]
fn servers_that_compute_otherwise_do_not_share() {
    let redis = Redis::start(&[]);
    let request = body("How many people live in town 3?", 0..5);
    let first = server(&redis, &[]);
    rerank(&first, &request);
    holds(&redis, 5);
    let int8 = server(&redis, &[("RERANKER_DTYPE", "int8")]);
    rerank(&int8, &request);
    holds(&redis, 10);
    let of_two = [("RERANKER_CACHE_SECRET", "of two servers")];
    let (one, other) = (server(&redis, &of_two), server(&redis, &of_two));
    rerank(&one, &request);
    holds(&redis, 15);
    let answer = rerank(&other, &request);
    assert_eq!(cached(&answer), 5);
}

#[test]
#[ignore = "needs a redis-server: make redis"]
fn nothing_of_a_text_is_stored_and_scores_expire() {
    let redis = Redis::start(&[]);
    let server = server(&redis, &[("RERANKER_CACHE_TTL", "77")]);
    rerank(&server, &body("confidential", 0..5));
    holds(&redis, 5);
    let mut connection = redis.connection();
    for key in redis.keys() {
        let hash = key.strip_prefix("reranker:").unwrap();
        assert_eq!(hash.len(), 32, "{key}");
        assert!(hash.bytes().all(|digit| digit.is_ascii_hexdigit()), "{key}");
        let value: Vec<u8> = connection.get(&key).unwrap();
        assert_eq!(value.len(), 4);
        let left: i64 = connection.ttl(&key).unwrap();
        assert!((1..=77).contains(&left), "{left}");
    }
}

#[test]
#[ignore = "needs a redis-server: make redis"]
fn what_is_no_score_is_computed_again() {
    let redis = Redis::start(&[]);
    let server = server(&redis, &[]);
    let request = body("How many people live in town 3?", 0..6);
    let right = rerank(&server, &request);
    holds(&redis, 6);
    let mut connection = redis.connection();
    let spoilt: [&[u8]; 6] = [
        &f32::NAN.to_le_bytes(),
        &f32::INFINITY.to_le_bytes(),
        b"",
        b"0.5",
        b"12345",
        b"\x00\x00\xc0\xff",
    ];
    for (key, value) in redis.keys().iter().zip(spoilt) {
        let _: () = connection.set(key, value).unwrap();
    }
    // A value of another type is an error for an answer; here it is one of the six.
    let answer = rerank(&server, &request);
    assert_eq!((results(&answer), cached(&answer)), (results(&right), 0));
    assert_eq!(metric(&server, "reranker_cache_redis_connected"), "1");
}

/// Clients that ask the same few questions again and again, and compare every answer with that of a
/// server without a cache.
fn under_load(server: &Server, trouble: impl FnOnce()) {
    let requests: Vec<String> = (0..12)
        .map(|number| {
            body(
                &format!("How many people live in town {number}?"),
                number..number + 4,
            )
        })
        .collect();
    let reference = Server::start(&[("RERANKER_CACHE_MB", "0")]);
    let right: Vec<Answer> = requests
        .iter()
        .map(|request| rerank(&reference, request))
        .collect();
    drop(reference);
    let goes_on = AtomicBool::new(true);
    thread::scope(|scope| {
        for client in 0..4 {
            let (requests, right, goes_on) = (&requests, &right, &goes_on);
            scope.spawn(move || {
                for turn in client.. {
                    if !goes_on.load(Ordering::Relaxed) {
                        break;
                    }
                    let place = turn % requests.len();
                    let answer = rerank(server, &requests[place]);
                    assert_eq!(results(&answer), results(&right[place]));
                }
            });
        }
        // Also after a failure, so that the test ends.
        let stop = Stop(&goes_on);
        trouble();
        drop(stop);
    });
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

fn from_redis(server: &Server) -> u64 {
    pairs(server).get("redis").copied().unwrap_or_default()
}

/// Waits until more scores have come from Redis.
fn is_useful_again(server: &Server) {
    let before = from_redis(server);
    eventually("scores come from Redis", || from_redis(server) > before);
}

#[test]
#[ignore = "needs a redis-server: make redis"]
fn answers_go_on_while_redis_dies_and_comes_back() {
    let mut redis = Redis::start(&[]);
    let server = server(&redis, &[]);
    under_load(&server, || {
        is_useful_again(&server);
        redis.kill();
        eventually("the server noticed", || {
            metric(&server, "reranker_cache_redis_connected") == "0"
        });
        redis.restart();
        is_connected(&server);
        is_useful_again(&server);
    });
    assert!(errors(&server, "connection") >= 1);
    server.wait_for_log("scores are not shared through Redis");
    server.wait_for_log("connected to Redis; scores are shared");
}

#[test]
#[ignore = "needs a redis-server: make redis"]
fn answers_go_on_while_redis_is_stopped() {
    let redis = Redis::start(&[]);
    let server = server(&redis, &[("RERANKER_REDIS_TIMEOUT_MS", "50")]);
    under_load(&server, || {
        is_useful_again(&server);
        redis.signal("STOP");
        eventually("the server noticed", || {
            metric(&server, "reranker_cache_redis_connected") == "0"
        });
        let before = pairs(&server)["model"];
        eventually("pairs are computed", || {
            pairs(&server)["model"] > before + 200
        });
        // Requests of one moment waited for it, not each of them.
        assert!(errors(&server, "timeout") < 20);
        redis.signal("CONT");
        is_connected(&server);
        is_useful_again(&server);
    });
}

#[test]
#[ignore = "needs a redis-server: make redis"]
fn answers_go_on_while_redis_is_emptied() {
    let redis = Redis::start(&[]);
    let server = server(&redis, &[]);
    under_load(&server, || {
        let mut connection = redis.connection();
        for _ in 0..20 {
            is_useful_again(&server);
            let _: () = redis::cmd("FLUSHALL").query(&mut connection).unwrap();
        }
    });
    assert_eq!(
        errors(&server, "connection") + errors(&server, "refused"),
        0
    );
}

#[test]
#[ignore = "needs a redis-server: make redis"]
fn answers_go_on_while_redis_is_full() {
    let redis = Redis::start(&["--maxmemory", "1", "--maxmemory-policy", "noeviction"]);
    let server = server(&redis, &[]);
    under_load(&server, || {
        eventually("Redis refuses", || errors(&server, "refused") > 3);
    });
    assert_eq!(metric(&server, "reranker_cache_redis_connected"), "1");
    let line = server.wait_for_log("Redis refused a command");
    assert!(line.contains("OOM command not allowed"), "{line}");
}

#[test]
#[ignore = "needs a redis-server: make redis"]
fn a_wrong_password_is_told_and_nothing_else_happens() {
    let redis = Redis::start(&["--requirepass", "correct"]);
    let url = |password: &str| format!("redis://:{password}@127.0.0.1:{}/0", redis.port);
    let wrong = Server::start_loading(&[("RERANKER_REDIS_URL", &url("hunter2"))]);
    let line = wrong.wait_for_log("scores are not shared through Redis");
    assert!(
        line.contains("Password authentication failed") && !line.contains("hunter2"),
        "{line}"
    );
    rerank(&wrong, &body("q", 0..5));
    assert_eq!(metric(&wrong, "reranker_cache_redis_connected"), "0");
    let right = Server::start(&[("RERANKER_REDIS_URL", &url("correct"))]);
    is_connected(&right);
}

#[test]
#[ignore = "needs a redis-server: make redis"]
fn nobody_at_the_address_is_told_once() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let url = format!("redis://127.0.0.1:{port}");
    let server = Server::start_loading(&[("RERANKER_REDIS_URL", &url)]);
    eventually("it has tried several times", || {
        errors(&server, "connection") >= 3
    });
    rerank(&server, &body("q", 0..5));
    server.signal("TERM");
    let log = server.log_until_end();
    assert_eq!(log.matches("scores are not shared").count(), 1, "{log}");
}

#[test]
#[ignore = "needs a redis-server: make redis"]
fn a_connection_can_be_encrypted() {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(directory.path());
    let options = [
        "--tls-cert-file",
        certificate.to_str().unwrap(),
        "--tls-key-file",
        key.to_str().unwrap(),
        "--tls-ca-cert-file",
        certificate.to_str().unwrap(),
        "--tls-auth-clients",
        "no",
        "--requirepass",
        "correct",
    ];
    let redis = Redis::start(&options);
    let url = format!("rediss://default:correct@localhost:{}/0", redis.port);
    let trusted = certificate.to_str().unwrap();
    let trusting = [("RERANKER_REDIS_URL", &*url), ("SSL_CERT_FILE", trusted)];
    let server = Server::start(&trusting);
    is_connected(&server);
    rerank(&server, &body("q", 0..5));
    let other = Server::start(&trusting);
    is_connected(&other);
    eventually("the scores are shared", || {
        rerank(&other, &body("q", 0..5));
        from_redis(&other) == 5
    });
    let doubting = Server::start_loading(&[("RERANKER_REDIS_URL", &*url)]);
    let line = doubting.wait_for_log("scores are not shared through Redis");
    assert!(line.contains("certificate"), "{line}");
}

/// A certificate of `localhost` that signs itself, and its key.
fn certificate(directory: &Path) -> (PathBuf, PathBuf) {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    fs::write(&certificate, signed.cert.pem()).unwrap();
    fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
    (certificate, key)
}
