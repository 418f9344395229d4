//! Signals, and limits on the process.

use std::{thread, time::Duration};

use super::{BODY, head, post};
use crate::support::{Server, program_under};

#[test]
fn signals_of_habit_do_not_end_the_server_at_any_time() {
    let server = Server::start_loading(&[]);
    for signal in ["HUP", "USR1", "USR2"] {
        server.signal(signal);
    }
    server.wait_for_log("ready");
    for signal in ["HUP", "USR1", "USR2", "PIPE", "HUP"] {
        server.signal(signal);
        assert_eq!(post(&server, &[], BODY.as_bytes()).status, 200);
    }
    server.wait_for_log("SIGHUP: there are no keys and no certificate to read again");
    server.signal("TERM");
    assert!(server.wait().success());
}

#[test]
fn a_second_signal_ends_the_drain() {
    let options = [
        ("RERANKER_DRAIN_TIMEOUT_MS", "1000000"),
        ("RERANKER_BODY_TIMEOUT_MS", "1000000"),
    ];
    for (first, second) in [("TERM", "TERM"), ("INT", "TERM")] {
        let server = Server::start(&options);
        let _unfinished = server.begin(&head("POST", "/rerank", &[], 100), b"{");
        thread::sleep(Duration::from_millis(200));
        server.signal(first);
        server.wait_for_log("finishing requests in progress");
        thread::sleep(Duration::from_millis(500));
        server.signal(second);
        server.wait_for_log("giving up requests in progress: told to stop again");
        assert!(server.wait().success());
    }
}

#[test]
fn too_few_threads_are_told_in_a_sentence() {
    // The stacks of so many do not fit.
    let output = program_under("ulimit -v 700000")
        .args(["serve", "--port", "0"])
        .env("RAYON_NUM_THREADS", "4000")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("error: the system gives this process too few threads"),
        "{text}"
    );
    assert!(text.contains("the stacks of 4000 take 8250 MB"), "{text}");
    assert!(!text.contains("panicked"), "{text}");
}
