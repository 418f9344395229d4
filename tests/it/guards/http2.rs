//! HTTP/2: that it is spoken, and what bounds its clients.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use axum::{
    body::{Body, to_bytes},
    http::{Request, Version},
};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;

use super::BODY;
use crate::support::Server;

const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const NO_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// `GET /` of the host `x`, all of it.
fn get(stream: u32) -> Vec<u8> {
    let fields = [0x82, 0x84, 0x86, 0x41, 1, b'x'];
    frame(1, 0x5, stream, &fields)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The kind and payload of the next frame.
fn next_frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).ok()?;
    Some((head[3], payload))
}

#[test]
fn http2_without_tls_by_prior_knowledge() {
    let server = Server::start(&[]);
    let uri = format!("http://{}/rerank", server.address);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client: Client<_, Body> = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http();
        let ask = || async {
            let request = Request::post(&uri)
                .header("content-type", "application/json")
                .body(Body::from(BODY))
                .unwrap();
            let answer = client.request(request).await.unwrap();
            assert_eq!(
                (answer.status().as_u16(), answer.version()),
                (200, Version::HTTP_2)
            );
            assert!(answer.headers().contains_key("x-request-id"));
            let body = to_bytes(Body::new(answer.into_body()), 10_000)
                .await
                .unwrap();
            serde_json::from_slice::<Value>(&body).unwrap()["count"].clone()
        };
        let (one, other) = tokio::join!(ask(), ask());
        assert_eq!((one, other), (2.into(), 2.into()));
    });
}

#[test]
fn pings_do_not_keep_a_connection() {
    let server = Server::start(&[
        ("RERANKER_IDLE_TIMEOUT_MS", "300"),
        ("RERANKER_BODY_TIMEOUT_MS", "500"),
    ]);
    let ping = frame(6, 0, 0, &[1, 2, 3, 4, 5, 6, 7, 8]);
    let began = Instant::now();
    let mut stream = server.begin(PREFACE, &[&NO_SETTINGS[..], &get(1)].concat());
    stream
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let mut bytes = [0; 1024];
    // Each ping is answered, and an answer taken counts, but no longer than the time of a body.
    while stream.write_all(&ping).is_ok() && !matches!(stream.read(&mut bytes), Ok(0)) {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(began.elapsed() >= Duration::from_millis(300 + 500));
}

#[test]
fn what_a_client_may_send_ahead_is_bounded() {
    let server = Server::start(&[]);
    let mut stream = server.begin(PREFACE, &NO_SETTINGS);
    let (kind, settings) = next_frame(&mut stream).unwrap();
    assert_eq!(kind, 4);
    let setting = |wanted: u16| {
        let mut settings = settings.chunks(6);
        let found = settings.find(|setting| setting[..2] == wanted.to_be_bytes());
        found.map(|setting| u32::from_be_bytes(setting[2..].try_into().unwrap()))
    };
    let [streams, window, headers] = [3, 4, 6].map(setting);
    assert_eq!(
        (streams, window, headers),
        (Some(64), Some(256 * 1024), Some(64 * 1024))
    );
    // All streams together have no more than one.
    while let Some((kind, payload)) = next_frame(&mut stream) {
        if kind == 8 {
            assert_eq!(payload, (256 * 1024 - 65_535_u32).to_be_bytes());
            return;
        }
    }
    panic!("no window for the connection");
}

#[test]
fn streams_that_are_opened_and_reset_without_end_end_the_connection() {
    let server = Server::start(&[]);
    let mut stream = server.begin(PREFACE, &NO_SETTINGS);
    let cancel = 8_u32.to_be_bytes();
    let resets: Vec<u8> = (0..20_000)
        .flat_map(|number| {
            let id = 2 * number + 1;
            [get(id), frame(3, 0, id, &cancel)].concat()
        })
        .collect();
    let mut writer = stream.try_clone().unwrap();
    let writing = thread::spawn(move || writer.write_all(&resets));
    let mut said_why = false;
    while let Some((kind, payload)) = next_frame(&mut stream) {
        // GOAWAY, ENHANCE_YOUR_CALM.
        said_why |= kind == 7 && payload[4..8] == 11_u32.to_be_bytes();
    }
    let _ = writing.join();
    assert!(said_why);
    assert_eq!(server.get("/health").status, 200);
}
