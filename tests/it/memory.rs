//! The memory of all requests in flight: bounded, and given back.

use std::{
    io::Write as _,
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};

use crate::support::{Answer, Server, read_answer, request_head};

/// The largest body that is allowed by default.
const LARGEST: usize = 33_554_432;

/// A request of about so many bytes, in documents as long as they may be.
fn large(bytes: usize) -> String {
    let document = format!("\"{}\"", "a ".repeat(490_000));
    let documents = vec![document; bytes / 980_010];
    format!(r#"{{"query":"a","documents":[{}]}}"#, documents.join(","))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn gzip_head(length: usize) -> String {
    format!(
        "POST /v1/rerank HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Encoding: gzip\r\nContent-Length: {length}\r\n\r\n"
    )
}

fn small(server: &Server) -> Answer {
    server.post("/v1/rerank", r#"{"query":"a","documents":["b"]}"#)
}

/// The flood may take all the memory that requests may hold: a clear refusal is an answer then.
fn assert_answered(answer: &Answer) {
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn a_gigabyte_is_enough_whatever_comes() {
    let server = Server::start_under("ulimit -v 1048576", &[]);
    let body = large(LARGEST - 100_000);
    let (ended, refused) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..200)
            .map(|client| {
                let (server, body, refused) = (&server, &body, &refused);
                scope.spawn(move || {
                    // Not all at the same moment: this machine has two processors.
                    thread::sleep(Duration::from_millis(client * 20));
                    let stream = server.begin(
                        &request_head("/v1/rerank", Some("application/json"), body.len()),
                        body.as_bytes(),
                    );
                    let answer = read_answer(stream);
                    match answer.status {
                        200 => {}
                        429 => {
                            assert!(answer.header("retry-after").is_some(), "{answer:?}");
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        _ => panic!("{answer:?}"),
                    }
                })
            })
            .collect();
        let small_ones = scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                assert_answered(&small(&server));
                thread::sleep(Duration::from_millis(20));
            }
        });
        let all: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        ended.store(true, Ordering::Relaxed);
        small_ones.join().unwrap();
        assert!(all.iter().all(Result::is_ok));
    });
    assert!(refused.into_inner() > 0, "they do not all fit");
    assert_answered(&small(&server));
}

#[test]
fn unpacked_bytes_count_as_they_are_unpacked() {
    let server = Server::start(&[("RERANKER_MEMORY_MB", "300")]);
    assert_answered(&small(&server));
    let before = server.resident_bytes();
    let packed = gzip(large(LARGEST - 100_000).as_bytes());
    assert!(packed.len() < 200_000);
    let clients: Vec<TcpStream> = (0..50)
        .map(|_| server.begin(&gzip_head(packed.len()), &packed))
        .collect();
    assert_answered(&small(&server));
    for client in clients {
        assert!([200, 429].contains(&read_answer(client).status));
    }
    let most = server.peak_memory_bytes();
    // What the model itself takes for a batch comes on top.
    assert!(most < before + 450_000_000, "{before} became {most}");
    // Freed memory goes back.
    let until = Instant::now() + Duration::from_secs(60);
    while server.resident_bytes() > before + 120_000_000 {
        assert!(Instant::now() < until, "{} stay", server.resident_bytes());
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_body_takes_a_small_multiple_of_itself() {
    let server = Server::start(&[]);
    assert_answered(&small(&server));
    let empty = format!(
        r#"{{"query":"a","documents":[{}""]}}"#,
        r#""","#.repeat(8_000_000)
    );
    let fields = format!(r#"{{{}"query":"a"}}"#, r#""a":1,"#.repeat(4_000_000));
    let document = format!(
        r#"{{"query":"a","documents":[{{"content":"a"{}}}]}}"#,
        r#","b":1"#.repeat(4_000_000)
    );
    let nested = format!(r#"{{"query":{}}}"#, "[".repeat(10_000_000));
    let names = format!(
        r#"{{"query":"a","rank_fields":[{}""],"documents":["a"]}}"#,
        r#""","#.repeat(8_000_000)
    );
    for body in [empty, fields, document, nested, names] {
        let before = server.resident_bytes();
        let answer = server.post("/v1/rerank", &body);
        assert!([413, 422].contains(&answer.status), "{answer:?}");
        assert!(answer.body.len() < 100_000);
        let most = usize::try_from(server.peak_memory_bytes() - before).unwrap();
        assert!(
            most < 4 * body.len(),
            "{} bytes took {most}: {:.60}",
            body.len(),
            body
        );
    }
}

#[test]
fn who_never_fits_is_told_so() {
    let server = Server::start(&[("RERANKER_MEMORY_MB", "20")]);
    let answer = server.post("/v1/rerank", &large(10_000_000));
    assert_eq!(answer.status, 413, "{answer:?}");
    assert!(answer.body.contains("RERANKER_MEMORY_MB"), "{answer:?}");
    assert_answered(&small(&server));
}

#[test]
fn gzip_members_are_read_one_after_the_other() {
    let server = Server::start(&[]);
    let (first, second) = (r#"{"query":"a","docu"#, r#"ments":["b","c"]}"#);
    let both = [gzip(first.as_bytes()), gzip(second.as_bytes())].concat();
    let answer = read_answer(server.begin(&gzip_head(both.len()), &both));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["results"].as_array().unwrap().len(), 2);
    // Something else behind the end is no member.
    let trailing = [
        gzip(br#"{"query":"a","documents":["b"]}"#),
        b"more".to_vec(),
    ]
    .concat();
    let answer = read_answer(server.begin(&gzip_head(trailing.len()), &trailing));
    assert_eq!(answer.status, 400, "{answer:?}");
}
