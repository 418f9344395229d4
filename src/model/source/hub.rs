//! Files of a model on the Hugging Face hub, through the cache that all of its clients share.
//!
//! All files are of one commit, each is downloaded once and goes on where it was cut off. What the
//! hub says is checked where it enters (`values`), and a complete cache is enough to start from,
//! whatever the hub does.

mod blob;
mod cache;
mod client;
mod failure;
mod forward;
mod proxy;
mod session;
mod snapshot;
mod values;

use std::{collections::HashSet, fs, path::Path};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::Deserialize;
use ureq::http::Uri;

use self::{
    cache::NOTHING,
    client::header,
    failure::Failure,
    session::Hub,
    snapshot::Snapshot,
    values::{Commit, excerpt},
};
use super::{
    files::{self, CONFIG, INDEX, MAX_WEIGHTS, ModelFiles, NEEDED, TOKENIZER, WEIGHTS},
    name::HubModel,
    progress::Progress,
    safetensors,
    settings::HubSettings,
};

/// Bytes of the description of a model, which lists its files.
const MAX_LISTING: u64 = 16 << 20;

/// See [`super::fetch`].
pub(super) fn fetch(
    model: &HubModel,
    settings: &HubSettings,
    progress: Progress,
) -> Result<ModelFiles> {
    let mut hub = Hub::new(model, settings)?;
    let cached = cached(&hub);
    if settings.offline {
        return cached.map_err(|missing| hub.offline_error(&missing));
    }
    if cached.is_ok() {
        if Commit::is_full(&model.revision) {
            return cached;
        }
        hub.hurry();
    }
    match (online(&hub, progress), cached) {
        (Ok(files), _) => Ok(files),
        (Err(failure), Ok(files)) => {
            warn(&hub, &failure, &files);
            Ok(files)
        }
        (Err(Failure::Final(error)), Err(missing)) => Err(hub.final_error(error, &missing)),
        (Err(Failure::Cut { reason, .. } | Failure::Unreachable(reason)), Err(missing)) => {
            Err(hub.unreachable_error(&reason, &missing))
        }
    }
}

/// What the hub says of a model.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// The model's files in the cache, all there and whole, of the commit that the revision stood
/// for last.
fn cached(hub: &Hub<'_>) -> Result<ModelFiles> {
    let commit = hub.cache.commit(&hub.model.revision)?;
    let snapshot = hub.cache.snapshot(&commit);
    ensure!(snapshot.is_dir(), NOTHING);
    checked(hub, &snapshot, &commit)
}

/// The files of a snapshot, which are links to blobs.
fn checked(hub: &Hub<'_>, snapshot: &Path, commit: &Commit) -> Result<ModelFiles> {
    let files = files::find(snapshot)?;
    for path in [&files.config, &files.tokenizer]
        .into_iter()
        .chain(&files.weights)
    {
        hub.cache.check_inside(path)?;
    }
    for path in [&files.config, &files.tokenizer] {
        files::read(path).map_err(|error| delete_hint(&error, path))?;
    }
    for weights in &files.weights {
        safetensors::check_whole(weights).map_err(|error| delete_hint(&error, weights))?;
    }
    Ok(ModelFiles {
        commit: Some(commit.as_str().to_owned()),
        ..files
    })
}

fn online(hub: &Hub<'_>, progress: Progress) -> Result<ModelFiles, Failure> {
    let (commit, listing) = describe(hub)?;
    let names: HashSet<&str> = listing.siblings.iter().map(|s| &*s.rfilename).collect();
    check_listing(hub, &names)?;
    let snapshot = Snapshot::new(hub, commit.clone(), progress);
    for name in [CONFIG, TOKENIZER] {
        snapshot.get(name, files::limit(name))?;
    }
    if names.contains(WEIGHTS) {
        snapshot.get(WEIGHTS, MAX_WEIGHTS)?;
    } else {
        snapshot.get_shards(&names)?;
    }
    let files = checked(hub, snapshot.directory(), &commit)?;
    // Last, so that the cache goes on naming the earlier commit while this one is incomplete.
    hub.cache
        .set_commit(&hub.model.revision, &commit)
        .with_context(|| hub.cannot_write())?;
    Ok(files)
}

/// The commit of the revision and the names of its files.
fn describe(hub: &Hub<'_>) -> Result<(Commit, Listing), Failure> {
    let HubModel { id, revision } = hub.model;
    let url = format!(
        "{}/api/models/{id}/revision/{}",
        hub.address,
        revision.replace('/', "%2F")
    );
    let url: Uri = url
        .parse()
        .with_context(|| format!("`{url}` is not an address"))?;
    let answer = hub.client.get(&url, None, hub.limits)?;
    let status = answer.status();
    if !status.is_success() {
        let code = header(answer.headers(), "x-error-code");
        return Err(hub.refusal(status.as_u16(), code, None));
    }
    let body = client::read(answer, MAX_LISTING)
        .map_err(|error| Failure::of_body(&error, "the description", hub.limits.silence))?;
    let listing: Listing = serde_json::from_slice(&body).with_context(|| {
        format!(
            "`{}` did not describe `{id}` as a hub does: check the hub's address (HF_ENDPOINT)",
            hub.endpoint
        )
    })?;
    let commit = Commit::parse(&listing.sha)
        .with_context(|| format!("`{}` sent a wrong commit for `{id}`", hub.endpoint))?;
    if Commit::is_full(revision) && !revision.eq_ignore_ascii_case(commit.as_str()) {
        let error = anyhow!(
            "`{}` was asked for commit `{revision}` of `{id}` and described `{}`: check the \
             hub's address (HF_ENDPOINT)",
            hub.endpoint,
            excerpt(commit.as_str())
        );
        return Err(error.into());
    }
    Ok((commit, listing))
}

/// Finds what is missing before a long download, not after it.
fn check_listing(hub: &Hub<'_>, listing: &HashSet<&str>) -> Result<()> {
    let HubModel { id, revision } = hub.model;
    for name in [CONFIG, TOKENIZER] {
        ensure!(
            listing.contains(name),
            "`{id}` has no {name} at revision `{revision}`: a model needs {NEEDED}"
        );
    }
    if !listing.contains(WEIGHTS) && !listing.contains(INDEX) {
        let pytorch = listing.iter().any(|name| name.starts_with("pytorch_model"));
        return Err(files::no_weights(id, pytorch));
    }
    Ok(())
}

fn warn(hub: &Hub<'_>, failure: &Failure, files: &ModelFiles) {
    tracing::warn!(
        model = %hub.model.id,
        revision = %hub.model.revision,
        commit = files.commit.as_deref(),
        hub = %hub.endpoint,
        reason = %failure.reason(),
        "the hub did not deliver, using the copy in the cache"
    );
}

/// What to do about a damaged file in the cache, which is a link to a blob.
fn delete_hint(error: &anyhow::Error, path: &Path) -> anyhow::Error {
    let blob = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    anyhow!(
        "{error:#}: delete `{}` and start again online, then it is downloaded again",
        blob.display()
    )
}
