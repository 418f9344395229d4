//! What a start says when the hub, the model or the cache is not as it should be.

use std::fs;

use reranker::model::source::Source;

use super::server::{COMMIT, Fault, MODEL};
use super::{INDEX, Setup, WEIGHTS, assert_says};

#[test]
fn a_shard_that_the_hub_lacks_is_named() {
    let setup = Setup::sharded(r#"{"weight_map":{"a":"model-9.safetensors"}}"#);
    assert_says(
        &setup.fetch().unwrap_err(),
        &["no shard `model-9.safetensors`", INDEX],
    );
}

#[test]
fn a_shard_outside_the_model_is_refused_and_not_asked_for() {
    let setup = Setup::sharded(r#"{"weight_map":{"a":"../../evil.safetensors"}}"#);
    assert_says(
        &setup.fetch().unwrap_err(),
        &["../../evil.safetensors", "weight_map", INDEX],
    );
    let requests = setup.hub.take_requests();
    assert!(
        requests
            .iter()
            .all(|request| !request.path.contains("evil"))
    );
}

#[test]
fn the_token_is_sent_and_a_refusal_tells_to_set_it() {
    let mut setup = Setup::usual();
    setup.hub.state().file_status = Some(401);
    let message = setup.fetch().unwrap_err();
    assert_says(&message, &[MODEL, "401", "set HF_TOKEN", "gated"]);

    setup.settings.token = Some("hf_secret".to_owned());
    let message = setup.fetch().unwrap_err();
    assert_says(&message, &["the token in HF_TOKEN"]);
    assert!(!message.contains("hf_secret"), "{message}");

    setup.hub.state().file_status = None;
    setup.hub.take_requests();
    setup.fetch().unwrap();
    let requests = setup.hub.take_requests();
    let bearer = Some("Bearer hf_secret");
    assert!(
        requests
            .iter()
            .all(|r| r.authorization.as_deref() == bearer)
    );
}

#[test]
fn a_private_model_tells_to_set_the_token() {
    for status in [401, 403] {
        let setup = Setup::usual();
        setup.hub.state().model_status = Some(status);
        let message = setup.fetch().unwrap_err();
        assert_says(&message, &[MODEL, &status.to_string(), "HF_TOKEN"]);
    }
}

#[test]
fn a_token_that_no_header_can_hold_is_refused_unshown() {
    let mut setup = Setup::usual();
    setup.settings.token = Some("hf_secret\n".to_owned());
    let message = setup.fetch().unwrap_err();
    assert_says(&message, &["HF_TOKEN", "line break"]);
    assert!(!message.contains("hf_secret"), "{message}");
}

#[test]
fn a_wrong_id_or_revision_is_named() {
    let mut setup = Setup::usual();
    setup.source = Source::parse("acme/other", None).unwrap();
    assert_says(&setup.fetch().unwrap_err(), &["no model `acme/other`"]);
    setup.source = Source::parse(MODEL, Some("v9")).unwrap();
    assert_says(&setup.fetch().unwrap_err(), &[MODEL, "no revision `v9`"]);
}

#[test]
fn a_file_that_the_model_lacks_is_named_before_any_download() {
    for (missing, expected) in [
        ("config.json", "no config.json"),
        ("tokenizer.json", "no tokenizer.json"),
        (WEIGHTS, "neither model.safetensors nor"),
    ] {
        let setup = Setup::usual();
        setup.hub.state().files.remove(missing);
        assert_says(&setup.fetch().unwrap_err(), &[MODEL, expected]);
        assert_eq!(setup.hub.take_requests().len(), 1);
    }
}

#[test]
fn pytorch_weights_alone_come_with_how_to_convert_them() {
    let setup = Setup::usual();
    let weights = setup.hub.state().files.remove(WEIGHTS).unwrap();
    let name = "pytorch_model.bin".to_owned();
    setup.hub.state().files.insert(name, weights);
    assert_says(
        &setup.fetch().unwrap_err(),
        &[
            MODEL,
            "pytorch_model.bin",
            "not model.safetensors",
            "save_pretrained",
        ],
    );
}

#[test]
fn an_unreachable_hub_without_a_copy_tells_the_ways_out() {
    let setup = Setup::usual();
    setup.hub.state().down = true;
    assert_says(
        &setup.fetch().unwrap_err(),
        &[
            "cannot reach the hub",
            &setup.hub.url,
            "HF_HUB_OFFLINE=1",
            "local directory",
            "`demo`",
        ],
    );
}

#[test]
fn offline_without_a_complete_copy_tells_what_is_missing() {
    let mut setup = Setup::usual();
    setup.settings.offline = true;
    let message = setup.fetch().unwrap_err();
    assert_says(&message, &[MODEL, "HF_HUB_OFFLINE is set", "nothing of it"]);

    setup.write_cache(COMMIT, Some("main"));
    let snapshot = setup.model_dir().join("snapshots").join(COMMIT);
    fs::remove_file(snapshot.join(WEIGHTS)).unwrap();
    let message = setup.fetch().unwrap_err();
    assert_says(&message, &["HF_HUB_OFFLINE is set", WEIGHTS]);
    assert!(setup.hub.take_requests().is_empty());
}

#[test]
fn a_damaged_blob_is_named_and_downloaded_again_once_deleted() {
    let setup = Setup::usual();
    let files = setup.fetch().unwrap();
    let blob = fs::canonicalize(setup.blob(WEIGHTS)).unwrap();
    let whole = setup.bytes(WEIGHTS);
    fs::write(&blob, &whole[..1000]).unwrap();
    let message = setup.fetch().unwrap_err();
    let blob_shown = blob.display().to_string();
    let size = whole.len().to_string();
    assert_says(
        &message,
        &[WEIGHTS, "1000 bytes", &size, "delete", &blob_shown],
    );

    fs::remove_file(&blob).unwrap();
    assert_eq!(setup.fetch().unwrap(), files);
    assert_eq!(fs::read(&blob).unwrap(), whole);
}

#[test]
fn a_server_that_is_no_hub_is_an_error_and_no_crash() {
    let mut setup = Setup::usual();
    setup.hub.state().fault = Some((0, Fault::NoLocation));
    assert_says(&setup.fetch().unwrap_err(), &[WEIGHTS, "HF_ENDPOINT"]);

    setup.hub.state().model_status = Some(200);
    assert_says(&setup.fetch().unwrap_err(), &["HF_ENDPOINT"]);

    setup.settings.endpoint = Some("hub.example".to_owned());
    assert_says(&setup.fetch().unwrap_err(), &["`hub.example`", "https://"]);
}

#[test]
fn what_is_no_file_of_a_model_in_the_cache_is_named() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2\n";
    for (name, content, says) in [
        (WEIGHTS, pointer, "git lfs pull"),
        ("config.json", pointer, "git lfs pull"),
        ("tokenizer.json", "", "it is empty"),
    ] {
        let setup = Setup::usual();
        setup.fetch().unwrap();
        let blob = setup.blob(name);
        fs::write(&blob, content).unwrap();
        assert_says(&setup.fetch().unwrap_err(), &[name, says, "delete"]);
        fs::remove_file(blob).unwrap();
        setup.fetch().unwrap();
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let mut setup = Setup::usual();
    setup.settings.cache_dir = setup.home.path().join("file");
    fs::write(&setup.settings.cache_dir, "").unwrap();
    let path = setup.settings.cache_dir.display().to_string();
    assert_says(
        &setup.fetch().unwrap_err(),
        &["cannot write", &path, "HF_HOME"],
    );
}

#[test]
#[cfg(unix)]
fn a_link_to_a_blob_that_is_gone_is_replaced() {
    let setup = Setup::usual();
    let files = setup.fetch().unwrap();
    let pointer = &files.weights[0];
    fs::remove_file(pointer).unwrap();
    fs::remove_file(setup.blob(WEIGHTS)).unwrap();
    std::os::unix::fs::symlink("../../blobs/of-another-mirror", pointer).unwrap();
    assert_eq!(setup.fetch().unwrap(), files);
    assert_eq!(fs::read(pointer).unwrap(), setup.bytes(WEIGHTS));
}
