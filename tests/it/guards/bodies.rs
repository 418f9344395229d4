//! Bodies: packed, too large, too slow, broken off, and packed answers.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use flate2::{
    Compression,
    read::GzDecoder,
    write::{GzEncoder, ZlibEncoder},
};
use serde_json::{Value, json};

use super::{BODY, ask, detail, head, post};
use crate::support::{Server, read_answer};

type Encode = fn(&[u8]) -> Vec<u8>;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn brotli(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    brotli::CompressorWriter::new(&mut packed, 4096, 5, 22)
        .write_all(bytes)
        .unwrap();
    packed
}

/// A body of exactly this many bytes.
fn padded(length: usize) -> Vec<u8> {
    let mut body = BODY.as_bytes().to_vec();
    body.resize(length, b' ');
    body
}

#[test]
fn packed_bodies_are_unpacked_and_others_named() {
    let server = Server::start(&[]);
    let plain = post(&server, &[], BODY.as_bytes()).json();
    for (encoding, body) in [
        ("gzip", gzip(BODY.as_bytes())),
        ("GZIP", gzip(BODY.as_bytes())),
        ("x-gzip", gzip(BODY.as_bytes())),
        ("deflate", zlib(BODY.as_bytes())),
        ("br", brotli(BODY.as_bytes())),
        ("identity", BODY.as_bytes().to_vec()),
    ] {
        let answer = post(&server, &[("Content-Encoding", encoding)], &body);
        assert_eq!(answer.status, 200, "{encoding}: {answer:?}");
        assert_eq!(answer.json()["documents"], plain["documents"]);
    }
    for encoding in ["zstd", "gzip, br"] {
        let answer = post(&server, &[("Content-Encoding", encoding)], BODY.as_bytes());
        assert_eq!(answer.status, 415);
        assert_eq!(answer.header("accept-encoding"), Some("gzip, deflate, br"));
        assert_eq!(
            detail(&answer),
            format!(
                "Content-Encoding \"{encoding}\" is not known here; send the body as it is, or as one of gzip, deflate, br"
            )
        );
    }
}

#[test]
fn what_cannot_be_unpacked_is_told() {
    let server = Server::start(&[]);
    let whole = gzip(BODY.as_bytes());
    for body in [BODY.as_bytes(), &whole[..whole.len() / 2]] {
        let answer = post(&server, &[("Content-Encoding", "gzip")], body);
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(
            detail(&answer).starts_with("the body could not be read: "),
            "{answer:?}"
        );
    }
}

#[test]
fn the_limit_counts_unpacked_bytes() {
    let server = Server::start(&[("RERANKER_MAX_BODY_BYTES", "1000")]);
    let encodings: [(&str, Encode); 3] = [("gzip", gzip), ("deflate", zlib), ("br", brotli)];
    for (encoding, encode) in encodings {
        let headers = [("Content-Encoding", encoding)];
        assert_eq!(
            post(&server, &headers, &encode(&padded(1000))).status,
            200,
            "{encoding}"
        );
        let refused = post(&server, &headers, &encode(&padded(1001)));
        assert_eq!(refused.status, 413, "{encoding}: {refused:?}");
        assert!(
            detail(&refused).contains("limit of 1000 bytes"),
            "{refused:?}"
        );
    }
}

#[test]
fn a_bomb_goes_off_at_the_limit() {
    let server = Server::start(&[("RERANKER_MAX_BODY_BYTES", "1000000")]);
    let bomb = gzip(&vec![b' '; 500_000_000]);
    assert!(bomb.len() < 1_000_000);
    let began = Instant::now();
    let answer = post(&server, &[("Content-Encoding", "gzip")], &bomb);
    assert_eq!(answer.status, 413, "{answer:?}");
    let peak = server.peak_memory_bytes();
    assert!(
        peak < 300_000_000,
        "{peak} bytes; the whole bomb would be 500 MB more"
    );
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[test]
fn who_asks_before_sending_is_told_before_sending() {
    let server = Server::start(&[("RERANKER_MAX_BODY_BYTES", "1000")]);
    let asking = [("Expect", "100-continue")];
    // Not a byte of the body is sent.
    let refused = read_answer(server.begin(&head("POST", "/rerank", &asking, 1001), b""));
    assert_eq!(refused.status, 413, "{refused:?}");
    let mut welcome = server.begin(&head("POST", "/rerank", &asking, 1000), b"");
    let mut line = [0; 12];
    welcome.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"HTTP/1.1 100");
}

#[test]
fn a_body_must_arrive_in_time_however_it_trickles() {
    let server = Server::start(&[("RERANKER_BODY_TIMEOUT_MS", "500")]);
    for pause in [0, 50] {
        let began = Instant::now();
        // Not the client asks for the end of the connection.
        let head = format!(
            "POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            BODY.len()
        );
        let mut stream = server.begin(&head, &BODY.as_bytes()[..10]);
        for byte in &BODY.as_bytes()[10..30] {
            thread::sleep(Duration::from_millis(pause));
            let _ = stream.write_all(&[*byte]);
        }
        let answer = read_answer(stream);
        assert!(began.elapsed() >= Duration::from_millis(500));
        assert_eq!(answer.status, 408, "{answer:?}");
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(
            detail(&answer),
            "the body did not arrive within 500 ms; send it faster, or raise RERANKER_BODY_TIMEOUT_MS"
        );
    }
    // In two parts, but in time.
    let (first, second) = BODY.as_bytes().split_at(20);
    let mut stream = server.begin(&head("POST", "/rerank", &[], BODY.len()), first);
    thread::sleep(Duration::from_millis(50));
    stream.write_all(second).unwrap();
    assert_eq!(read_answer(stream).status, 200);
}

#[test]
fn a_body_that_breaks_off_is_400() {
    let server = Server::start(&[]);
    let stream = server.begin(
        &head("POST", "/rerank", &[], BODY.len()),
        &BODY.as_bytes()[..20],
    );
    stream.shutdown(Shutdown::Write).unwrap();
    let answer = read_answer(stream);
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(
        detail(&answer).starts_with("the body could not be read: "),
        "{answer:?}"
    );
}

/// The answer to a request whose answer has about this many bytes, as it comes. HTTP/1.0 has no
/// chunks.
fn answer_of(server: &Server, bytes: usize, accept: &str) -> (String, Vec<u8>) {
    let body = json!({"query": "a", "documents": [{"content": "b", "note": "x".repeat(bytes)}]})
        .to_string();
    let head = format!(
        "POST /rerank HTTP/1.0\r\nAccept-Encoding: {accept}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut answer = Vec::new();
    server
        .begin(&head, body.as_bytes())
        .read_to_end(&mut answer)
        .unwrap();
    let split = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let headers = String::from_utf8(answer[..split].to_vec()).unwrap();
    (headers.to_ascii_lowercase(), answer[split + 4..].to_vec())
}

#[test]
fn large_answers_are_packed_for_those_who_can_unpack_them() {
    let server = Server::start(&[]);
    let (headers, body) = answer_of(&server, 8000, "gzip");
    assert!(
        headers.contains("content-encoding: gzip") && headers.contains("vary: accept-encoding"),
        "{headers}"
    );
    let mut unpacked = String::new();
    GzDecoder::new(body.as_slice())
        .read_to_string(&mut unpacked)
        .unwrap();
    assert!(body.len() < 1000 && unpacked.len() > 8000);
    assert_eq!(
        serde_json::from_str::<Value>(&unpacked).unwrap()["count"],
        1
    );

    let (headers, body) = answer_of(&server, 8000, "br");
    assert!(headers.contains("content-encoding: br"), "{headers}");
    let mut unpacked = String::new();
    brotli::Decompressor::new(body.as_slice(), 4096)
        .read_to_string(&mut unpacked)
        .unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&unpacked).unwrap()["count"],
        1
    );

    for (bytes, accept) in [
        (8000, "identity"),
        (8000, "zstd"),
        (8000, ""),
        (3000, "gzip, br"),
    ] {
        let (headers, body) = answer_of(&server, bytes, accept);
        assert!(
            !headers.contains("content-encoding"),
            "{bytes} {accept}: {headers}"
        );
        assert!(body.len() >= bytes);
    }
    let small = ask(&server, "GET", "/", &[("Accept-Encoding", "gzip")]);
    assert_eq!(small.header("content-encoding"), None);
}

#[test]
fn answers_are_packed_from_4096_bytes_on() {
    let server = Server::start(&[]);
    // `processing_time` has no fixed length; the unpacked answer tells which side of the limit it
    // fell on.
    for bytes in (3960..4010).step_by(5) {
        let (headers, body) = answer_of(&server, bytes, "gzip");
        let is_packed = headers.contains("content-encoding: gzip");
        let mut plain = body.clone();
        if is_packed {
            plain.clear();
            GzDecoder::new(body.as_slice())
                .read_to_end(&mut plain)
                .unwrap();
        }
        assert_eq!(is_packed, plain.len() >= 4096, "{}", plain.len());
    }
}
