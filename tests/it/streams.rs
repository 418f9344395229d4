//! Standard streams that nobody reads, that are full, or that are not there: answers and exit codes
//! stay what they are.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener},
    process::{ChildStderr, Command, ExitStatus, Output, Stdio},
    thread,
    time::Duration,
};

use crate::support::{Server, program};

const REQUEST: &str = r#"{"query":"web server","documents":["a fruit","a small web server"]}"#;

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// The writing end of a pipe without a reader.
fn unread() -> io::PipeWriter {
    io::pipe().unwrap().1
}

/// A ready server, and the pipe that its log goes to.
fn server_and_log() -> (Server, BufReader<ChildStderr>) {
    let mut process = program()
        .envs([
            ("RERANKER_HOST", "127.0.0.1"),
            ("RERANKER_PORT", "0"),
            ("RERANKER_DRAIN_TIMEOUT_MS", "600000"),
        ])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap());
    let mut text = String::new();
    while !text.contains("ready") {
        assert_ne!(log.read_line(&mut text).unwrap(), 0, "{text}");
    }
    let address = text.split("address=").nth(1).unwrap();
    let address = address.split_whitespace().next().unwrap().parse().unwrap();
    (Server::of(process, address), log)
}

fn dropped_lines(server: &Server) -> u64 {
    let metrics = server.get("/metrics").body;
    let mut lines = metrics.lines();
    let value = lines.find_map(|line| line.strip_prefix("reranker_log_lines_dropped_total "));
    value.unwrap().parse().unwrap()
}

fn answers(server: &Server) {
    assert_eq!(server.post("/v1/rerank", REQUEST).status, 200);
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/nothing").status, 404);
}

fn stops(server: Server) {
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_reader_of_the_log_that_dies_costs_log_lines_and_nothing_else() {
    let (server, log) = server_and_log();
    drop(log);
    for _ in 0..20 {
        answers(&server);
    }
    assert!(dropped_lines(&server) >= 1);
    stops(server);
}

#[test]
fn a_log_that_is_never_read_holds_up_neither_answers_nor_the_end() {
    let (server, log) = server_and_log();
    let path = format!("/{}", "x".repeat(255));
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut stream = server.begin("", b"");
    // 4,000 lines of more than 300 bytes are more than the pipe, the thread and the queue hold.
    for _ in 0..40 {
        stream.write_all(request.repeat(100).as_bytes()).unwrap();
        let mut answers = BufReader::new(&stream);
        for _ in 0..100 {
            assert!(next_answer(&mut answers).starts_with("HTTP/1.1 404"));
        }
    }
    while dropped_lines(&server) == 0 {
        stream.write_all(request.as_bytes()).unwrap();
        next_answer(&mut BufReader::new(&stream));
    }
    answers(&server);
    drop(stream);
    stops(server);
    drop(log);
}

/// The head of the next answer on a connection that goes on.
fn next_answer(stream: &mut impl io::BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).unwrap(), 0, "{head}");
    }
    let length = head.split("content-length: ").nth(1).unwrap();
    let length: usize = length.lines().next().unwrap().parse().unwrap();
    stream.read_exact(&mut vec![0; length]).unwrap();
    head
}

#[test]
fn lines_that_were_lost_are_told_of_when_the_log_is_read_again() {
    let (server, log) = server_and_log();
    let path = format!("/{}", "x".repeat(255));
    while dropped_lines(&server) == 0 {
        for _ in 0..50 {
            server.get(&path);
        }
    }
    let mut lines = log.lines().map(Result::unwrap);
    let told = lines.find(|line| line.contains("lines of the log were lost"));
    assert!(told.unwrap().contains("WARN"));
    server.get("/after");
    assert!(lines.any(|line| line.contains("path=/after")));
    stops(server);
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn a_server_starts_and_answers_with_its_log_on_a_full_disk_or_nowhere() {
    for stderr in [Stdio::from(full()), Stdio::from(unread()), Stdio::null()] {
        let port = free_port();
        let process = program()
            .env("RERANKER_HOST", "127.0.0.1")
            .env("RERANKER_PORT", port.to_string())
            .stdout(full())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let server = Server::of(process, SocketAddr::from(([127, 0, 0, 1], port)));
        let healthy = || {
            let mut check = program();
            check.args(["healthcheck", "--port", &port.to_string()]);
            // The exit code is the answer, whatever becomes of the word.
            check.stdout(full()).stderr(full()).status().unwrap()
        };
        assert_eq!(wait_for(healthy).code(), Some(0));
        answers(&server);
        stops(server);
        assert_eq!(healthy().code(), Some(1));
    }
}

#[test]
fn a_log_file_that_may_not_grow_costs_log_lines_and_nothing_else() {
    let port = free_port();
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut shell = Command::new("/bin/sh");
    let script = format!("ulimit -f 1; exec {}", env!("CARGO_BIN_EXE_reranker"));
    shell.args(["-c", &script]).env_clear();
    shell.envs([("RERANKER_MODEL", "demo"), ("RERANKER_HOST", "127.0.0.1")]);
    shell.env("RERANKER_PORT", port.to_string());
    let process = shell.stderr(log.reopen().unwrap()).spawn().unwrap();
    let server = Server::of(process, SocketAddr::from(([127, 0, 0, 1], port)));
    let check = || {
        let check = ["healthcheck", "--port", &port.to_string()].map(str::to_owned);
        run(program()
            .args(check)
            .stdout(Stdio::null())
            .stderr(Stdio::null()))
        .status
    };
    assert!(wait_for(check).success());
    while dropped_lines(&server) == 0 {
        answers(&server);
    }
    answers(&server);
    stops(server);
}

fn wait_for(mut attempt: impl FnMut() -> ExitStatus) -> ExitStatus {
    for _ in 0..600 {
        let status = attempt();
        if status.success() {
            return status;
        }
        thread::sleep(Duration::from_millis(100));
    }
    attempt()
}

/// The exit code and the lines on standard error of a command that cannot write to standard output.
fn ends(args: &[&str], stdout: impl Into<Stdio>) -> (Option<i32>, String) {
    let output = run(program().args(args).stdout(stdout).stderr(Stdio::piped()));
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn run(command: &mut Command) -> Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), REQUEST).unwrap();
    let process = command.stdin(File::open(file.path()).unwrap()).spawn();
    process.unwrap().wait_with_output().unwrap()
}

#[test]
fn a_result_whose_reader_has_left_is_no_failure_and_one_that_finds_no_room_is() {
    for args in [&["rerank"][..], &["peak"], &["--help"], &["--version"]] {
        let (code, said) = ends(args, unread());
        assert_eq!(code, Some(0), "{args:?}: {said}");
        assert!(!said.contains("error"), "{args:?}: {said}");

        let (code, said) = ends(args, full());
        assert_eq!(code, Some(1), "{args:?}: {said}");
        let sentences: Vec<&str> = said
            .lines()
            .filter(|line| !line.contains(" INFO "))
            .collect();
        assert_eq!(sentences.len(), 1, "{args:?}: {said}");
        assert!(
            sentences[0].starts_with("error: cannot write to standard output: No space left"),
            "{said}"
        );
    }
}

#[test]
fn exit_codes_do_not_depend_on_who_reads_the_messages() {
    let cases: [(&[&str], i32); 4] = [
        (&["rerank"], 0),
        (&["rerank", "/no/such/file"], 1),
        (&["healthcheck", "--port", "1"], 1),
        (&["--no-such-option"], 64),
    ];
    for (args, expected) in cases {
        for stderr in [Stdio::from(full()), Stdio::from(unread())] {
            let output = run(program().args(args).stdout(Stdio::null()).stderr(stderr));
            assert_eq!(output.status.code(), Some(expected), "{args:?}");
        }
    }
}

#[test]
fn closed_descriptors_are_as_good_as_dev_null() {
    let binary = env!("CARGO_BIN_EXE_reranker");
    for (command, expected) in [
        ("rerank >&- 2>&-", 0),
        ("rerank <&- >&- 2>&-", 1), // no request
        ("healthcheck --port 1 <&- >&- 2>&-", 1),
        ("peak <&- 2>&-", 0),
        ("--no-such-option 2>&-", 64),
    ] {
        let script = format!("exec {binary} {command}");
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &script]);
        shell.env_clear().env("RERANKER_MODEL", "demo");
        let output = run(shell.stdout(Stdio::piped()).stderr(Stdio::piped()));
        assert_eq!(
            output.status.code(),
            Some(expected),
            "{command}: {output:?}"
        );
    }
}
