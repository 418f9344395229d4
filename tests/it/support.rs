//! A running server, and the smallest HTTP client that shows exactly what goes over the wire.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// Long enough for a loaded machine; nothing waits that long when all is well.
const PATIENCE: Duration = Duration::from_mins(2);

/// The program itself, as a process of its own on a free port, killed at the end.
pub(crate) struct Server {
    process: Child,
    log: Mutex<Receiver<String>>,
    pub(crate) address: SocketAddr,
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// The program with a clean environment: what the machine has set must not leak into a test.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reranker"));
    clean(&mut command);
    command
}

/// The program in a shell that has run a command such as `ulimit`.
pub(crate) fn program_under(shell: &str) -> Command {
    let mut command = Command::new("/bin/bash");
    clean(&mut command)
        .args(["-c", &format!("{shell}; exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_reranker"));
    command
}

fn clean(command: &mut Command) -> &mut Command {
    command
        .env_clear()
        .env("HOME", "/nonexistent")
        .env("RERANKER_MODEL", "demo")
}

impl Server {
    /// Starts with the demo model in a shell that has run a command such as `ulimit`, and waits
    /// until it is ready.
    pub(crate) fn start_under(shell: &str, options: &[(&str, &str)]) -> Self {
        let server = Self::spawn(program_under(shell), options);
        server.wait_for_log("ready");
        server
    }

    /// Starts with the demo model and waits until it is ready.
    pub(crate) fn start(options: &[(&str, &str)]) -> Self {
        let server = Self::start_loading(options);
        server.wait_for_log("ready");
        server
    }

    /// Starts and waits only until the port is open.
    pub(crate) fn start_loading(options: &[(&str, &str)]) -> Self {
        Self::spawn(Command::new(env!("CARGO_BIN_EXE_reranker")), options)
    }

    fn spawn(mut command: Command, options: &[(&str, &str)]) -> Self {
        let mut process = clean(&mut command)
            .envs([("RERANKER_HOST", "127.0.0.1"), ("RERANKER_PORT", "0")])
            .envs(options.iter().copied())
            .arg("serve")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let (lines, log) = mpsc::channel();
        thread::spawn(move || {
            stderr
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| lines.send(line))
        });
        let mut server = Self {
            process,
            log: Mutex::new(log),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let listening = server.wait_for_log("listening");
        // `address=…` in text, `"address":"…"` in JSON.
        let (_, rest) = listening.split_once("address").unwrap();
        let rest = rest.trim_start_matches(['=', '"', ':']);
        let address = rest.split([' ', '"', ',']).next();
        server.address = address.unwrap().parse().unwrap();
        server
    }

    /// A server that a test has started itself, and whose log goes elsewhere.
    pub(crate) fn of(process: Child, address: SocketAddr) -> Self {
        let (_, log) = mpsc::channel();
        Self {
            process,
            log: Mutex::new(log),
            address,
        }
    }

    /// The next line of the log that contains `text`.
    pub(crate) fn wait_for_log(&self, text: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.log.lock().unwrap().recv_timeout(left) {
                Ok(line) if line.contains(text) => return line,
                Ok(_) => {}
                Err(e) => panic!("no log line with `{text}`: {e}"),
            }
        }
    }

    /// What it writes from here until it ends.
    pub(crate) fn log_until_end(&self) -> String {
        let lines = self.log.lock().unwrap();
        let lines: Vec<String> = lines.iter().collect();
        lines.join("\n")
    }

    /// The most memory it has had at once so far.
    pub(crate) fn peak_memory_bytes(&self) -> u64 {
        self.memory_bytes("VmHWM:")
    }

    /// The memory it has now.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.memory_bytes("VmRSS:")
    }

    fn memory_bytes(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kibibytes.unwrap().parse::<u64>().unwrap() * 1024
    }

    /// How many files it may have open.
    pub(crate) fn open_files_limit(&self) -> u64 {
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.process.id())).unwrap();
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"));
        let soft = line.and_then(|line| line.split_whitespace().next());
        soft.unwrap().parse().unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(
            &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
            b"",
        )
    }

    /// Posts with `Content-Type: application/json`.
    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        self.post_as(path, Some("application/json"), body.as_bytes())
    }

    pub(crate) fn post_as(&self, path: &str, content_type: Option<&str>, body: &[u8]) -> Answer {
        self.send(&request_head(path, content_type, body.len()), body)
    }

    /// A connection on which a request has been sent and nothing read yet.
    pub(crate) fn begin(&self, head: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        // A server that refuses a body early may close before all of it is written; its answer is
        // still there.
        let _ = stream.write_all(body);
        stream
    }

    fn send(&self, head: &str, body: &[u8]) -> Answer {
        read_answer(self.begin(head, body))
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.process.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    pub(crate) fn wait(mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the server does not stop");
            thread::yield_now();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn request_head(path: &str, content_type: Option<&str>, length: usize) -> String {
    let content_type = content_type
        .map(|t| format!("Content-Type: {t}\r\n"))
        .unwrap_or_default();
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{content_type}Content-Length: {length}\r\n\r\n"
    )
}

pub(crate) fn read_answer(stream: TcpStream) -> Answer {
    answer_from(stream)
}

/// Reads to the end of the connection.
pub(crate) fn answer_from(mut stream: impl Read) -> Answer {
    let mut bytes = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let (headers, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("not an answer: {text:?}"));
    let status = headers
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Answer {
        status: status.unwrap(),
        headers: headers.to_owned(),
        body: body.to_owned(),
    }
}
