//! The hub as a source of models, against a server that imitates its endpoints.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use reranker::model::source::{HubSettings, ModelFiles, Progress, Source, fetch};
use tempfile::TempDir;

use server::{COMMIT, Fault, Hub, MODEL, Request, etag};

mod failures;
mod fallback;
mod hostile;
mod proxies;
mod server;

const NEXT_COMMIT: &str = "fedcba9876543210fedcba9876543210fedcba98";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Weights with so many bytes of data, which `seed` makes different from others.
fn safetensors(data: usize, seed: usize) -> Vec<u8> {
    let header = format!(r#"{{"w":{{"dtype":"U8","shape":[{data}],"data_offsets":[0,{data}]}}}}"#);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.extend((0..data).map(|i| u8::try_from((i * 31 + i / 251 + seed) % 256).unwrap()));
    bytes
}

/// A hub with one model, and a cache.
struct Setup {
    hub: Hub,
    home: TempDir,
    settings: HubSettings,
    source: Source,
}

impl Setup {
    fn new(files: &[(&str, Vec<u8>)]) -> Self {
        let files = files.iter().cloned();
        let files: BTreeMap<_, _> = files
            .map(|(name, bytes)| (name.to_owned(), bytes))
            .collect();
        let hub = Hub::start(files);
        let home = tempfile::tempdir().unwrap();
        let mut settings = HubSettings::new(home.path().join("hub"));
        settings.endpoint = Some(format!("{}/", hub.url));
        settings.token_file = Some(home.path().join("token"));
        Self {
            hub,
            home,
            settings,
            source: Source::parse(MODEL, None).unwrap(),
        }
    }

    /// The usual files; the weights are long enough to be cut in the middle.
    fn usual() -> Self {
        Self::new(&[
            ("config.json", b"{}".to_vec()),
            ("tokenizer.json", b"{\"version\":\"1.0\"}".to_vec()),
            (WEIGHTS, safetensors(300_000, 0)),
        ])
    }

    fn sharded(index: &str) -> Self {
        Self::new(&[
            ("config.json", b"{}".to_vec()),
            ("tokenizer.json", b"{}".to_vec()),
            (INDEX, index.as_bytes().to_vec()),
            ("model-1.safetensors", safetensors(100, 1)),
            ("parts/2.safetensors", safetensors(100, 2)),
        ])
    }

    fn fetch(&self) -> Result<ModelFiles, String> {
        fetch(&self.source, &self.settings, Progress::Lines)
            .map(Option::unwrap)
            .map_err(|error| format!("{error:#}"))
    }

    /// [`Self::fetch`] and what it logged.
    fn fetch_logged(&self) -> (Result<ModelFiles, String>, String) {
        let path = self.home.path().join("log");
        let log = Arc::new(fs::File::create(&path).unwrap());
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .without_time()
            .with_writer(log)
            .finish();
        let result = tracing::subscriber::with_default(subscriber, || self.fetch());
        (result, fs::read_to_string(path).unwrap())
    }

    fn model_dir(&self) -> PathBuf {
        self.home.path().join("hub/models--acme--reranker")
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        self.hub.state().files[name].clone()
    }

    fn blob(&self, name: &str) -> PathBuf {
        self.model_dir().join("blobs").join(etag(&self.bytes(name)))
    }

    /// The ranges in which contents of weights were asked for.
    fn downloads(&self) -> Vec<String> {
        let requests = self.hub.take_requests().into_iter();
        let downloads = requests.filter(Request::is_download);
        downloads.map(|request| request.range.unwrap()).collect()
    }

    /// Writes a snapshot as Python's client does: no reference to a commit, whole files.
    fn write_cache(&self, commit: &str, reference: Option<&str>) {
        let snapshot = self.model_dir().join("snapshots").join(commit);
        fs::create_dir_all(&snapshot).unwrap();
        for (name, bytes) in &self.hub.state().files {
            fs::write(snapshot.join(name), bytes).unwrap();
        }
        if let Some(reference) = reference {
            let refs = self.model_dir().join("refs");
            fs::create_dir_all(&refs).unwrap();
            fs::write(refs.join(reference), commit).unwrap();
        }
    }
}

#[track_caller]
fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "no `{part}` in: {message}");
    }
}

#[test]
fn a_download_fills_the_standard_cache_layout() {
    let setup = Setup::usual();
    let files = setup.fetch().unwrap();

    assert_eq!(files.commit.as_deref(), Some(COMMIT));
    let snapshot = setup.model_dir().join("snapshots").join(COMMIT);
    assert_eq!(files.config, snapshot.join("config.json"));
    assert_eq!(files.tokenizer, snapshot.join("tokenizer.json"));
    assert_eq!(files.weights, [snapshot.join(WEIGHTS)]);
    for path in [&files.config, &files.tokenizer, &files.weights[0]] {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(fs::read(path).unwrap(), setup.bytes(name));
        let target = Path::new("../../blobs").join(etag(&setup.bytes(name)));
        assert_eq!(fs::read_link(path).unwrap(), target);
    }
    let reference = fs::read_to_string(setup.model_dir().join("refs/main")).unwrap();
    assert_eq!(reference, COMMIT);
}

#[test]
fn a_second_start_only_asks_for_the_commit_and_writes_nothing() {
    let setup = Setup::usual();
    let first = setup.fetch().unwrap();
    setup.hub.take_requests();
    let reference = fs::File::options()
        .write(true)
        .open(setup.model_dir().join("refs/main"))
        .unwrap();
    reference.set_modified(UNIX_EPOCH).unwrap();

    assert_eq!(setup.fetch().unwrap(), first);
    let modified = reference.metadata().unwrap().modified().unwrap();
    assert_eq!(modified, UNIX_EPOCH);
    let requests = setup.hub.take_requests();
    let paths: Vec<_> = requests.iter().map(|request| &*request.path).collect();
    assert_eq!(paths, ["/api/models/acme/reranker/revision/main"]);
}

#[test]
fn a_connection_cut_half_way_is_resumed_where_it_stopped() {
    let setup = Setup::usual();
    setup.hub.state().fault = Some((123_456, Fault::Cut));
    let (files, log) = setup.fetch_logged();
    let files = files.unwrap();
    assert_eq!(fs::read(&files.weights[0]).unwrap(), setup.bytes(WEIGHTS));
    assert_eq!(setup.downloads(), ["bytes=0-", "bytes=123456-"]);
    assert_says(&log, &["WARN", "download was cut off", "kept_bytes=123456"]);
}

#[test]
fn a_download_that_an_earlier_start_left_goes_on() {
    let setup = Setup::usual();
    let part = setup.blob(WEIGHTS).with_extension("part");
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    fs::write(&part, &setup.bytes(WEIGHTS)[..1000]).unwrap();
    let files = setup.fetch().unwrap();
    assert_eq!(setup.downloads(), ["bytes=1000-"]);
    assert_eq!(fs::read(&files.weights[0]).unwrap(), setup.bytes(WEIGHTS));
}

#[test]
fn a_download_left_complete_is_used_and_one_too_long_is_not() {
    for (extra, expected) in [(&b""[..], &[][..]), (b"x", &["bytes=0-"])] {
        let setup = Setup::usual();
        let part = setup.blob(WEIGHTS).with_extension("part");
        fs::create_dir_all(part.parent().unwrap()).unwrap();
        fs::write(&part, [&setup.bytes(WEIGHTS), extra].concat()).unwrap();
        let files = setup.fetch().unwrap();
        assert_eq!(setup.downloads(), expected);
        assert_eq!(fs::read(&files.weights[0]).unwrap(), setup.bytes(WEIGHTS));
    }
}

#[test]
fn an_answer_that_ends_early_is_not_taken_for_the_file() {
    let setup = Setup::usual();
    setup.hub.state().fault = Some((1000, Fault::Short));
    let (files, log) = setup.fetch_logged();
    let size = setup.bytes(WEIGHTS).len();
    assert_says(&log, &[&format!("1000 bytes instead of {size}")]);
    assert_eq!(
        fs::read(&files.unwrap().weights[0]).unwrap(),
        setup.bytes(WEIGHTS)
    );
}

#[test]
fn a_new_commit_with_the_same_weights_does_not_download_them() {
    let setup = Setup::usual();
    setup.fetch().unwrap();
    setup.hub.state().commit = NEXT_COMMIT;
    let config = b"{\"new\":1}".to_vec();
    setup
        .hub
        .state()
        .files
        .insert("config.json".to_owned(), config.clone());
    setup.hub.take_requests();

    let files = setup.fetch().unwrap();
    assert_eq!(setup.downloads(), [""; 0]);
    assert_eq!(files.commit.as_deref(), Some(NEXT_COMMIT));
    assert_eq!(fs::read(&files.config).unwrap(), config);
    assert_eq!(fs::read(&files.weights[0]).unwrap(), setup.bytes(WEIGHTS));
}

#[test]
fn all_shards_of_an_index_are_downloaded_and_shared_by_commits() {
    let index = r#"{"weight_map":{"a":"parts/2.safetensors","b":"model-1.safetensors"}}"#;
    let setup = Setup::sharded(index);
    let names = ["model-1.safetensors", "parts/2.safetensors"];
    for commit in [COMMIT, NEXT_COMMIT] {
        setup.hub.state().commit = commit;
        let files = setup.fetch().unwrap();
        let snapshot = setup.model_dir().join("snapshots").join(commit);
        assert_eq!(files.weights, names.map(|name| snapshot.join(name)));
        for (path, name) in files.weights.iter().zip(names) {
            assert_eq!(fs::read(path).unwrap(), setup.bytes(name));
        }
    }
    assert_eq!(setup.downloads(), ["bytes=0-"; 2]);
}

#[test]
fn the_token_of_a_login_is_used() {
    let setup = Setup::usual();
    fs::write(setup.home.path().join("token"), "hf_login\n").unwrap();
    setup.fetch().unwrap();
    let requests = setup.hub.take_requests();
    let bearer = Some("Bearer hf_login");
    assert!(
        requests
            .iter()
            .all(|r| r.authorization.as_deref() == bearer)
    );
}

#[test]
fn a_revision_with_a_slash_and_a_commit_are_found() {
    let mut setup = Setup::usual();
    setup.hub.state().revision = "refs/pr/1";
    for revision in [COMMIT, "refs/pr/1"] {
        setup.source = Source::parse(MODEL, Some(revision)).unwrap();
        assert_eq!(setup.fetch().unwrap().commit.as_deref(), Some(COMMIT));
    }
    let reference = setup.model_dir().join("refs/refs/pr/1");
    assert_eq!(fs::read_to_string(reference).unwrap(), COMMIT);
}

#[test]
fn offline_uses_the_cache_and_asks_nothing() {
    let mut setup = Setup::usual();
    setup.write_cache(COMMIT, Some("main"));
    setup.settings.offline = true;
    for revision in ["main", COMMIT] {
        setup.source = Source::parse(MODEL, Some(revision)).unwrap();
        let files = setup.fetch().unwrap();
        assert_eq!(files.commit.as_deref(), Some(COMMIT));
        assert_eq!(fs::read(&files.weights[0]).unwrap(), setup.bytes(WEIGHTS));
    }
    assert!(setup.hub.take_requests().is_empty());
}

#[test]
fn a_file_too_small_for_a_line_of_progress_has_one_at_its_end() {
    let setup = Setup::usual();
    let (files, log) = setup.fetch_logged();
    files.unwrap();
    let size = setup.bytes(WEIGHTS).len();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("INFO")).collect();
    assert_eq!(lines.len(), 3, "{log}");
    let sizes = format!("bytes={size} total_bytes={size}");
    assert_says(lines[2], &["downloading", WEIGHTS, &sizes, "mb_per_s="]);
}
