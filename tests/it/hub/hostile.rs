//! A hub that wants to write outside the cache, fill the disk or learn the token, and a cache that
//! others write to.

use std::fs;
use std::path::{Path, PathBuf};

use super::server::{COMMIT, Hub, MODEL};
use super::{INDEX, Setup, WEIGHTS, assert_says};

/// All files and links below a directory.
fn everything(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(everything(&path));
        }
        found.push(path);
    }
    found
}

/// Checks that nothing is anywhere but in the model's directory of the cache.
#[track_caller]
fn assert_nothing_outside(setup: &Setup) {
    let model = setup.model_dir();
    for path in everything(setup.home.path()) {
        let inside = path.starts_with(&model) || model.starts_with(&path);
        assert!(inside || path.ends_with("log"), "{}", path.display());
        let name = path.strip_prefix(&model).unwrap_or(Path::new(""));
        let text = name.to_str().unwrap();
        assert!(!text.contains("evil") && !text.contains(".."), "{text}");
    }
    assert!(!Path::new("/tmp/evil").exists());
}

const OUTSIDE: [&str; 7] = [
    "../../../../../evil",
    "/tmp/evil",
    "..",
    ".",
    r"..\..\evil",
    "C:evil",
    "evil/../../..",
];

#[test]
fn the_commit_in_a_header_is_no_directory() {
    for value in OUTSIDE {
        let setup = Setup::usual();
        setup.hub.state().headers = [("x-repo-commit", value.to_owned())].into();
        let files = setup.fetch().unwrap();
        assert_eq!(files.commit.as_deref(), Some(COMMIT));
        assert_nothing_outside(&setup);
    }
}

#[test]
fn the_commit_in_the_description_is_checked() {
    for value in OUTSIDE {
        let setup = Setup::usual();
        let value = value.replace('\\', r"\\");
        let listing = format!(r#"{{"sha":"{value}","siblings":[]}}"#);
        setup.hub.state().listing = Some(listing);
        assert_says(&setup.fetch().unwrap_err(), &["is no commit"]);
        assert_nothing_outside(&setup);
    }
}

#[test]
fn another_commit_than_the_one_asked_for_is_refused() {
    let mut setup = Setup::usual();
    setup.source = reranker::model::source::Source::parse(MODEL, Some(COMMIT)).unwrap();
    setup.hub.state().listing = Some(r#"{"sha":"abc","siblings":[]}"#.to_owned());
    assert_says(&setup.fetch().unwrap_err(), &[COMMIT, "described `abc`"]);
}

#[test]
fn an_etag_is_checked() {
    for value in OUTSIDE.into_iter().chain(["\"\"", "a b", "x.part"]) {
        let setup = Setup::usual();
        setup.hub.state().headers = [("x-linked-etag", value.to_owned())].into();
        assert_says(&setup.fetch().unwrap_err(), &["etag", "malformed"]);
        assert_nothing_outside(&setup);
    }
}

#[test]
fn names_in_the_description_are_never_paths() {
    let setup = Setup::usual();
    let names = [
        "../../evil",
        "/tmp/evil",
        "",
        r"..\\evil",
        r"a\u0000b",
        "config.json",
        "tokenizer.json",
        WEIGHTS,
    ];
    let siblings = names.map(|name| format!(r#"{{"rfilename":"{name}"}}"#));
    let listing = format!(
        r#"{{"sha":"{COMMIT}","siblings":[{}]}}"#,
        siblings.join(",")
    );
    setup.hub.state().listing = Some(listing);
    setup.fetch().unwrap();
    assert_nothing_outside(&setup);
}

#[test]
fn shards_outside_the_model_and_too_many_are_refused() {
    for name in OUTSIDE
        .into_iter()
        .chain(["", "a/../b", "%2e%2e/b", "a b", "é", "a\u{1}"])
    {
        let shard = format!("{name}.safetensors");
        let shard = if name == ".." {
            "../.safetensors".to_owned()
        } else {
            shard
        };
        let index = serde_json::json!({"weight_map": {"a": shard}});
        let setup = Setup::sharded(&index.to_string());
        assert_says(&setup.fetch().unwrap_err(), &["weight_map", INDEX]);
        assert_nothing_outside(&setup);
    }
    let many: serde_json::Map<_, _> = (0..2000)
        .map(|n| (n.to_string(), format!("{n}.safetensors").into()))
        .collect();
    let setup = Setup::sharded(&serde_json::json!({"weight_map": many}).to_string());
    assert_says(&setup.fetch().unwrap_err(), &["2000 shards", "1000"]);
}

#[test]
fn a_size_that_no_such_file_has_is_refused_before_the_download() {
    for (size, says) in [
        ("-1", "without the file's size"),
        ("1e3", "without the file's size"),
        ("99999999999999999999999", "without the file's size"),
        ("18446744073709551615", "18446744073709551615 bytes"),
        ("0", "is empty"),
    ] {
        let setup = Setup::usual();
        setup.hub.state().headers = [("x-linked-size", size.to_owned())].into();
        assert_says(&setup.fetch().unwrap_err(), &[says]);
    }
}

#[test]
fn what_does_not_fit_on_the_disk_is_not_begun() {
    let setup = Setup::usual();
    let size: u64 = 160 << 30;
    let disk = rustix::fs::statvfs(setup.home.path()).unwrap();
    if disk.f_bavail * disk.f_frsize > size {
        // The disk of this machine is larger than any model may be.
        return;
    }
    setup.fetch().unwrap();
    // Only the weights are asked for again.
    fs::remove_file(setup.blob(WEIGHTS)).unwrap();
    setup.hub.state().headers = [("x-linked-size", size.to_string())].into();
    let message = setup.fetch().unwrap_err();
    assert_says(&message, &["free space", "the disk lacks", WEIGHTS]);
    assert_eq!(setup.downloads(), ["bytes=0-"]);
}

#[test]
fn more_or_other_bytes_than_described_are_not_kept() {
    let setup = Setup::usual();
    let size = setup.bytes(WEIGHTS).len();
    setup.hub.state().extra = 1 << 20;
    assert_says(&setup.fetch().unwrap_err(), &[WEIGHTS, "described"]);
    let most = everything(setup.home.path())
        .iter()
        .map(|path| fs::symlink_metadata(path).unwrap().len())
        .max();
    assert!(most.unwrap() <= size as u64);
    setup.hub.state().extra = 0;
    setup.fetch().unwrap();

    for range in ["bytes 1-9/10", "bytes 0-299999/9", "nonsense", "bytes -/-"] {
        let setup = Setup::usual();
        setup.hub.state().headers = [("content-range", range.to_owned())].into();
        assert_says(&setup.fetch().unwrap_err(), &["described", range]);
    }
}

#[test]
fn a_redirect_leads_to_the_web_only_and_ends() {
    let setup = Setup::usual();
    for location in ["file:///etc/passwd", "ftp://x/y", "//evil/x", "x"] {
        setup.hub.state().headers = [("location", location.to_owned())].into();
        assert_says(&setup.fetch().unwrap_err(), &["redirects to", location]);
    }
    let circle = format!("/{MODEL}/resolve/{COMMIT}/config.json");
    setup.hub.state().headers = [("location", circle)].into();
    assert_says(&setup.fetch().unwrap_err(), &["redirects", "more than 10"]);
    assert!(setup.hub.take_requests().len() < 40);
}

#[test]
fn the_token_is_told_to_the_hub_alone() {
    let mut setup = Setup::usual();
    let other = Hub::start(setup.hub.state().files.clone());
    setup.settings.token = Some("hf_secret".to_owned());
    let etag = super::etag(&setup.bytes(WEIGHTS));
    let elsewhere = format!("{}/cdn/{etag}", other.url);
    // Only the weights are redirected by an answer with an address of another host.
    setup.hub.state().elsewhere = Some(elsewhere);
    setup.fetch().unwrap();
    let asked = other.take_requests();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|request| request.authorization.is_none()));
}

#[test]
fn a_description_without_end_is_not_read() {
    let setup = Setup::usual();
    setup.hub.state().listing = Some(" ".repeat(20 << 20));
    assert_says(&setup.fetch().unwrap_err(), &["more than", "bytes"]);
}

#[test]
fn a_reference_in_the_cache_is_checked() {
    for content in OUTSIDE.into_iter().chain(["", "\0"]) {
        let mut setup = Setup::usual();
        setup.fetch().unwrap();
        fs::write(setup.model_dir().join("refs/main"), content).unwrap();
        setup.settings.offline = true;
        assert_says(&setup.fetch().unwrap_err(), &["refs/main", "delete"]);
        // Online it is written again.
        setup.settings.offline = false;
        setup.fetch().unwrap();
        setup.settings.offline = true;
        setup.fetch().unwrap();
    }
}

#[test]
#[cfg(unix)]
fn a_link_out_of_the_cache_is_not_read() {
    for name in ["config.json", WEIGHTS] {
        let mut setup = Setup::usual();
        setup.fetch().unwrap();
        let outside = setup.home.path().join("secret");
        fs::write(&outside, setup.bytes(name)).unwrap();
        let pointer = setup.model_dir().join("snapshots").join(COMMIT).join(name);
        fs::remove_file(&pointer).unwrap();
        std::os::unix::fs::symlink(&outside, &pointer).unwrap();
        for offline in [true, false] {
            setup.settings.offline = offline;
            assert_says(&setup.fetch().unwrap_err(), &["outside the cache", name]);
        }
    }
}

#[test]
#[cfg(unix)]
fn a_cache_on_another_disk_by_a_link_is_used() {
    let setup = Setup::usual();
    setup.fetch().unwrap();
    for part in [
        "hub/models--acme--reranker/blobs",
        "hub/models--acme--reranker",
        "hub",
    ] {
        let path = setup.home.path().join(part);
        let elsewhere = setup
            .home
            .path()
            .join(format!("moved-{}", part.replace('/', "-")));
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        setup.fetch().unwrap();
    }
}
