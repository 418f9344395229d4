//! A server on this machine that answers like the Hugging Face hub, and breaks down on demand.
//!
//! It is written on sockets because it must cut connections in the middle of a file, which an HTTP
//! library keeps its users from doing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(super) const MODEL: &str = "acme/reranker";

/// What the server has and how it behaves; tests change it as they go.
pub(super) struct State {
    pub(super) commit: &'static str,
    pub(super) revision: &'static str,
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// Every connection is closed without an answer.
    pub(super) down: bool,
    /// The answer to every question about the model as a whole.
    pub(super) model_status: Option<u16>,
    /// The body of every answer about the model as a whole.
    pub(super) listing: Option<String>,
    /// The answer to every request for a file.
    pub(super) file_status: Option<u16>,
    /// Headers of answers about files that are not what they should be, by name in small letters.
    pub(super) headers: BTreeMap<&'static str, String>,
    /// Where weights are, if they are not here.
    pub(super) elsewhere: Option<String>,
    /// Bytes that follow the contents of each file.
    pub(super) extra: usize,
    /// What happens after so many bytes of the next download of weights.
    pub(super) fault: Option<(usize, Fault)>,
    pub(super) requests: Vec<Request>,
    held: Vec<TcpStream>,
}

#[derive(Clone, Copy)]
pub(super) enum Fault {
    /// The connection is cut.
    Cut,
    /// The connection stays open and nothing more is sent.
    Silence,
    /// A few bytes a second follow, for as long as the client takes them.
    Drip,
    /// The answer ends as if that had been all.
    Short,
    /// The redirect leads nowhere.
    NoLocation,
}

#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) path: String,
    pub(super) range: Option<String>,
    pub(super) authorization: Option<String>,
}

impl Request {
    /// Whether it asks for contents, not for the size alone.
    pub(super) fn is_download(&self) -> bool {
        self.path.starts_with("/cdn/") && self.range.as_deref() != Some("bytes=0-0")
    }
}

pub(super) struct Hub {
    pub(super) url: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    pub(super) fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State {
            commit: COMMIT,
            revision: "main",
            files,
            down: false,
            model_status: None,
            listing: None,
            file_status: None,
            headers: BTreeMap::new(),
            elsewhere: None,
            extra: 0,
            fault: None,
            requests: Vec::new(),
            held: Vec::new(),
        }));
        let (shared, address) = (state.clone(), url.clone());
        // It ends with the test binary.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, url) = (shared.clone(), address.clone());
                thread::spawn(move || serve(stream, &state, &url));
            }
        });
        Self { url, state }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The requests since the last call.
    pub(super) fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().requests)
    }
}

struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
    fault: Option<(usize, Fault)>,
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: String::new(),
            body: body.into(),
            fault: None,
        }
    }

    /// Replaces headers by others of the same name.
    fn replace(mut self, headers: &BTreeMap<&'static str, String>) -> Self {
        let old = std::mem::take(&mut self.headers);
        for (name, value) in old.lines().filter_map(|line| line.split_once(": ")) {
            if !headers.contains_key(name) {
                self = self.header(name, value);
            }
        }
        for (name, value) in headers {
            self = self.header(name, value);
        }
        self
    }

    fn header(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        write!(self.headers, "{name}: {value}\r\n").unwrap();
        self
    }
}

/// Answers one request; the connection ends with it.
fn serve(mut stream: TcpStream, state: &Mutex<State>, url: &str) {
    let Some(request) = read(&stream) else {
        return;
    };
    let mut state = state.lock().unwrap();
    state.requests.push(request.clone());
    if state.down {
        return;
    }
    let mut answer = answer(&mut state, &request, url);
    if request.is_download() && state.extra > 0 {
        let length = answer.body.len() + state.extra;
        answer.body.resize(length, b'x');
    }
    let (sent, length) = match answer.fault {
        None => (answer.body.len(), Some(answer.body.len())),
        Some((sent, Fault::Short)) => (sent, None),
        Some((sent, _)) => (sent, Some(answer.body.len())),
    };
    let length = length.map_or(String::new(), |n| format!("content-length: {n}\r\n"));
    let head = format!(
        "HTTP/1.1 {} x\r\n{}{length}connection: close\r\n\r\n",
        answer.status, answer.headers
    );
    // A client that has gone is the test's business, not the server's.
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&answer.body[..sent]);
    match answer.fault {
        Some((_, Fault::Silence)) => state.held.push(stream),
        Some((sent, Fault::Drip)) => {
            drop(state);
            for byte in &answer.body[sent..] {
                thread::sleep(Duration::from_millis(100));
                if stream.write_all(&[*byte]).is_err() {
                    return;
                }
            }
        }
        _ => {}
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next()?;
    let mut request = Request {
        path: first.split(' ').nth(1)?.to_owned(),
        range: None,
        authorization: None,
    };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value.to_owned()),
            "authorization" => request.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(request)
}

fn answer(state: &mut State, request: &Request, url: &str) -> Answer {
    let path = request.path.as_str();
    if let Some(rest) = path.strip_prefix("/api/models/") {
        return model(state, rest);
    }
    if let Some(etag) = path.strip_prefix("/cdn/") {
        let found = state.files.values().find(|bytes| self::etag(bytes) == etag);
        let mut answer = found.map_or(Answer::new(404, ""), |bytes| part(bytes, request));
        if let Some(range) = state.headers.get("content-range") {
            answer = answer.replace(&[("content-range", range.clone())].into());
        }
        if request.is_download() {
            answer.fault = state.fault.take();
        }
        return answer;
    }
    let cached = path.strip_prefix("/api/resolve-cache/");
    let resolve = path.strip_prefix("/").and_then(|p| p.strip_prefix(MODEL));
    let resolve = resolve.and_then(|p| p.strip_prefix("/resolve/"));
    let Some((revision, name)) = cached.or(resolve).and_then(|p| p.split_once('/')) else {
        return Answer::new(404, "");
    };
    match (state.file_status, state.files.get(name)) {
        (Some(status), _) => Answer::new(status, ""),
        (None, Some(bytes)) if revision == state.commit => file(state, request, url, name, bytes),
        _ => Answer::new(404, "").header("x-error-code", "EntryNotFound"),
    }
}

/// The description of the model at a revision.
fn model(state: &State, rest: &str) -> Answer {
    if let Some(status) = state.model_status {
        return Answer::new(status, "");
    }
    let Some(revision) = rest
        .strip_prefix(MODEL)
        .and_then(|rest| rest.strip_prefix("/revision/"))
    else {
        return Answer::new(404, "").header("x-error-code", "RepoNotFound");
    };
    if revision.replace("%2F", "/") != state.revision && revision != state.commit {
        return Answer::new(404, "").header("x-error-code", "RevisionNotFound");
    }
    if let Some(listing) = &state.listing {
        return Answer::new(200, listing.as_str());
    }
    let names: Vec<String> = state
        .files
        .keys()
        .map(|name| format!(r#"{{"rfilename":"{name}"}}"#))
        .collect();
    let (commit, names) = (state.commit, names.join(","));
    Answer::new(200, format!(r#"{{"sha":"{commit}","siblings":[{names}]}}"#))
}

/// A file: the contents of a small one, by way of a relative redirect, or the way to the weights.
fn file(state: &State, request: &Request, url: &str, name: &str, bytes: &[u8]) -> Answer {
    let etag = etag(bytes);
    let answer = if request.path.starts_with("/api/") {
        part(bytes, request).header("etag", format!("\"{etag}\""))
    } else if name.ends_with(".safetensors") {
        let answer = Answer::new(302, "").header("etag", "\"of-the-redirect\"");
        if let Some((_, Fault::NoLocation)) = state.fault {
            return answer.header("x-repo-commit", state.commit);
        }
        let here = format!("{url}/cdn/{etag}");
        answer.header("location", state.elsewhere.as_ref().unwrap_or(&here))
    } else {
        let location = format!("/api/resolve-cache/{}/{name}", state.commit);
        Answer::new(307, "").header("location", location)
    };
    answer
        .header("x-repo-commit", state.commit)
        .header("x-linked-etag", format!("\"{etag}\""))
        .header("x-linked-size", bytes.len())
        .replace(&state.headers)
}

/// The range of `bytes` that is asked for.
fn part(bytes: &[u8], request: &Request) -> Answer {
    let total = bytes.len();
    let range = request.range.as_deref().and_then(|range| {
        let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
        let end = end.parse().map_or(total, |end: usize| end + 1);
        Some((start.parse::<usize>().ok()?, end.min(total)))
    });
    match range {
        None => Answer::new(200, bytes),
        Some((start, end)) if start < end => Answer::new(206, &bytes[start..end]).header(
            "content-range",
            format!("bytes {start}-{}/{total}", end - 1),
        ),
        Some(_) => Answer::new(416, "").header("content-range", format!("bytes */{total}")),
    }
}

/// A name for contents, as long as the hub's own.
pub(super) fn etag(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:064x}")
}
