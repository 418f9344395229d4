//! A complete cache is enough to start from, whatever the hub does.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use reranker::model::source::{ModelFiles, Source};

use super::server::{COMMIT, Fault, Hub, MODEL};
use super::{NEXT_COMMIT, Setup, WEIGHTS, assert_says, safetensors};

/// A start with what an earlier one left, and one warning that has these words.
#[track_caller]
fn assert_falls_back(setup: &Setup, files: &ModelFiles, words: &[&str]) {
    let (again, log) = setup.fetch_logged();
    assert_eq!(&again.unwrap(), files);
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert_says(warnings[0], &["using the copy in the cache", COMMIT]);
    assert_says(warnings[0], words);
}

#[test]
fn any_refusal_of_the_hub_leads_to_the_cache() {
    let setup = Setup::usual();
    let files = setup.fetch().unwrap();
    for status in [
        400, 401, 403, 404, 407, 408, 410, 418, 429, 451, 500, 502, 503, 504, 599,
    ] {
        setup.hub.state().model_status = Some(status);
        assert_falls_back(&setup, &files, &[&status.to_string()]);
    }
}

#[test]
fn an_answer_that_is_none_leads_to_the_cache() {
    let setup = Setup::usual();
    let files = setup.fetch().unwrap();
    for listing in [
        "",
        "<html>This page is blocked</html>",
        "{}",
        "null",
        r#"{"sha":"../../x","siblings":[]}"#,
        r#"{"sha":"abc","siblings":[]}"#,
        r#"{"sha":"abc","siblings":[{"rfilename":"README.md"}]}"#,
    ] {
        setup.hub.state().listing = Some(listing.to_owned());
        assert_falls_back(&setup, &files, &[]);
    }
}

#[test]
fn a_hub_that_is_not_there_leads_to_the_cache() {
    let mut setup = Setup::usual();
    let files = setup.fetch().unwrap();
    let break_down: [fn(&Hub); 2] = [|hub| hub.state().down = true, |_| {}];
    for break_down in break_down {
        break_down(&setup.hub);
        assert_falls_back(&setup, &files, &[&setup.hub.url.clone()]);
        // A port that nobody listens on any more.
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        setup.hub.url = format!("http://{}", closed.unwrap());
        setup.settings.endpoint = Some(setup.hub.url.clone());
    }
    setup.settings.endpoint = Some("http://no-such-host.invalid".to_owned());
    assert_falls_back(&setup, &files, &["no-such-host.invalid"]);
}

#[test]
fn a_silent_hub_is_not_waited_for_when_the_cache_is_complete() {
    let mut setup = Setup::usual();
    let files = setup.fetch().unwrap();
    // It accepts connections, which are never served.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    setup.settings.endpoint = Some(format!("http://{}", silent.local_addr().unwrap()));
    setup.settings.question_timeout = Duration::from_secs(1);
    setup.settings.timeout = Duration::from_hours(1);
    let started = Instant::now();
    assert_falls_back(&setup, &files, &["does not answer"]);
    assert!(started.elapsed() < Duration::from_mins(1));
}

#[test]
fn a_hub_that_falls_silent_leads_to_the_earlier_commit() {
    let mut setup = Setup::usual();
    let files = setup.fetch().unwrap();
    let weights = safetensors(300_000, 7);
    setup.hub.state().files.insert(WEIGHTS.to_owned(), weights);
    setup.hub.state().commit = NEXT_COMMIT;
    setup.hub.state().fault = Some((1000, Fault::Silence));
    setup.settings.timeout = Duration::from_secs(2);
    assert_falls_back(&setup, &files, &["no data of model.safetensors for 2s"]);
    // A few bytes a second are as good as none: at that rate a download takes years.
    setup.hub.state().fault = Some((1000, Fault::Drip));
    assert_falls_back(&setup, &files, &["no data of model.safetensors for 2s"]);
}

#[test]
fn a_new_commit_without_its_files_leads_to_the_earlier_one() {
    let setup = Setup::usual();
    let files = setup.fetch().unwrap();
    setup.hub.state().commit = NEXT_COMMIT;
    setup.hub.state().file_status = Some(403);
    assert_falls_back(&setup, &files, &["403"]);
    setup.hub.state().file_status = None;
    setup.hub.state().headers = [("x-linked-etag", "../evil".to_owned())].into();
    assert_falls_back(&setup, &files, &["malformed"]);
    setup.hub.state().headers.clear();
    let commit = setup.fetch().unwrap().commit;
    assert_eq!(commit.as_deref(), Some(NEXT_COMMIT));
}

#[test]
fn nothing_is_asked_for_a_commit_that_the_cache_holds() {
    let mut setup = Setup::usual();
    setup.write_cache(COMMIT, None);
    setup.source = Source::parse(MODEL, Some(COMMIT)).unwrap();
    let (files, log) = setup.fetch_logged();
    assert_eq!(files.unwrap().commit.as_deref(), Some(COMMIT));
    assert_eq!(log, "");
    assert!(setup.hub.take_requests().is_empty());
}

#[test]
fn a_commit_that_the_cache_holds_in_part_is_completed() {
    let mut setup = Setup::usual();
    setup.write_cache(COMMIT, None);
    let weights = setup
        .model_dir()
        .join("snapshots")
        .join(COMMIT)
        .join(WEIGHTS);
    fs::remove_file(&weights).unwrap();
    setup.source = Source::parse(MODEL, Some(COMMIT)).unwrap();
    for status in [401, 404, 503] {
        setup.hub.state().model_status = Some(status);
        assert_says(
            &setup.fetch().unwrap_err(),
            &[&status.to_string(), "no complete copy", WEIGHTS],
        );
    }
    setup.hub.state().model_status = None;
    assert_eq!(setup.fetch().unwrap().weights, [weights]);
}

#[test]
fn a_volume_of_text_embeddings_inference_is_used_as_it_is() {
    // Its image sets HUGGINGFACE_HUB_CACHE=/data, so that models lie directly in the volume.
    let demo = |name| (name, fs::read(format!("models/demo/{name}")).unwrap());
    let setup = Setup::new(&["config.json", "tokenizer.json", WEIGHTS].map(demo));
    setup.fetch().unwrap();
    let volume = setup.home.path().join("hub");
    assert!(volume.join("models--acme--reranker/refs/main").is_file());
    let request = setup.home.path().join("request.json");
    fs::write(&request, r#"{"query":"a","documents":["b"]}"#).unwrap();
    for variable in ["HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE"] {
        let output = crate::support::program()
            .args(["rerank", request.to_str().unwrap()])
            .envs([
                ("RERANKER_MODEL", MODEL),
                // Our image's own, which both overrule.
                ("HF_HOME", "/nonexistent"),
                ("TRANSFORMERS_OFFLINE", "1"),
            ])
            .env(variable, &volume)
            .output()
            .unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{log}");
        assert_says(&String::from_utf8(output.stdout).unwrap(), &["results"]);
    }
}
