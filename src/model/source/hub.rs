//! Files of a model on the Hugging Face hub, through the cache that all of its clients share.
//!
//! All files are of one commit, each is downloaded once and goes on where it was cut off. What the
//! hub says is checked where it enters (`values`), and a complete cache is enough to start from,
//! whatever the hub does.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::Deserialize;
use ureq::http::Uri;

use super::files::{self, CONFIG, INDEX, MAX_WEIGHTS, NEEDED, TOKENIZER, WEIGHTS};
use super::{HubModel, HubSettings, ModelFiles, Progress, safetensors};
use cache::{Cache, NOTHING};
use client::{Client, Patience, header};
use failure::Failure;
use snapshot::Snapshot;
use values::{Commit, excerpt};

mod blob;
mod cache;
mod client;
mod failure;
mod forward;
mod proxy;
mod snapshot;
mod values;

const PUBLIC_HUB: &str = "https://huggingface.co";

/// Bytes of the description of a model, which lists its files.
const MAX_LISTING: u64 = 16 << 20;

/// Bytes of a file with a token.
const MAX_TOKEN: u64 = 64 << 10;

/// See [`super::fetch`].
pub(super) fn fetch(
    model: &HubModel,
    settings: &HubSettings,
    progress: Progress,
) -> Result<ModelFiles> {
    let mut hub = Hub::new(model, settings)?;
    let cached = hub.cached();
    if settings.offline {
        return cached.map_err(|missing| hub.offline_error(&missing));
    }
    if cached.is_ok() {
        if Commit::is_full(&model.revision) {
            return cached;
        }
        hub.hurry();
    }
    match (hub.online(progress), cached) {
        (Ok(files), _) => Ok(files),
        (Err(failure), Ok(files)) => {
            hub.warn(&failure, &files);
            Ok(files)
        }
        (Err(Failure::Final(error)), Err(missing)) => Err(hub.final_error(error, &missing)),
        (Err(Failure::Cut { reason, .. } | Failure::Unreachable(reason)), Err(missing)) => {
            Err(hub.unreachable_error(&reason, &missing))
        }
    }
}

/// One model on one hub.
struct Hub<'a> {
    model: &'a HubModel,
    settings: &'a HubSettings,
    /// Where the hub is.
    address: String,
    /// The hub's address without a password, for messages.
    endpoint: String,
    has_token: bool,
    patience: Patience,
    /// Attempts in a row that bring no new byte, after which the hub counts as unreachable.
    fruitless_attempts: u32,
    cache: Cache,
    client: Client,
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

impl<'a> Hub<'a> {
    fn new(model: &'a HubModel, settings: &'a HubSettings) -> Result<Self> {
        let address = settings.endpoint.as_deref().unwrap_or(PUBLIC_HUB);
        let address = address.trim_end_matches('/').to_owned();
        let home: Option<Uri> = address.parse().ok();
        let home = home
            .filter(|home| matches!(home.scheme_str(), Some("https" | "http")))
            .with_context(|| {
                format!(
                    "the hub's address `{address}` (HF_ENDPOINT) must start with https:// or http://"
                )
            })?;
        let token = token(settings)?;
        Ok(Self {
            model,
            settings,
            endpoint: client::shown(&home),
            address,
            has_token: token.is_some(),
            patience: Patience {
                silence: settings.timeout,
                all: Some(settings.timeout),
            },
            fruitless_attempts: 5,
            cache: Cache::new(&settings.cache_dir, model),
            client: Client::new(home, token, settings),
        })
    }

    /// With a complete cache at hand, nobody should wait long for the hub.
    fn hurry(&mut self) {
        self.patience.all = Some(self.settings.question_timeout);
        self.fruitless_attempts = 2;
    }

    /// The model's files in the cache, all there and whole, of the commit that the revision stood
    /// for last.
    fn cached(&self) -> Result<ModelFiles> {
        let commit = self.cache.commit(&self.model.revision)?;
        let snapshot = self.cache.snapshot(&commit);
        ensure!(snapshot.is_dir(), NOTHING);
        self.checked(&snapshot, &commit)
    }

    /// The files of a snapshot, which are links to blobs.
    fn checked(&self, snapshot: &Path, commit: &Commit) -> Result<ModelFiles> {
        let files = files::find(snapshot)?;
        for path in [&files.config, &files.tokenizer]
            .into_iter()
            .chain(&files.weights)
        {
            self.cache.check_inside(path)?;
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

    fn online(&self, progress: Progress) -> Result<ModelFiles, Failure> {
        let (commit, listing) = self.describe()?;
        let names: HashSet<&str> = listing.siblings.iter().map(|s| &*s.rfilename).collect();
        self.check_listing(&names)?;
        let snapshot = Snapshot::new(self, commit.clone(), progress);
        for name in [CONFIG, TOKENIZER] {
            snapshot.get(name, files::limit(name))?;
        }
        if names.contains(WEIGHTS) {
            snapshot.get(WEIGHTS, MAX_WEIGHTS)?;
        } else {
            snapshot.get_shards(&names)?;
        }
        let files = self.checked(snapshot.directory(), &commit)?;
        // Last, so that the cache goes on naming the earlier commit while this one is incomplete.
        self.cache
            .set_commit(&self.model.revision, &commit)
            .with_context(|| self.cannot_write())?;
        Ok(files)
    }

    /// The commit of the revision and the names of its files.
    fn describe(&self) -> Result<(Commit, Listing), Failure> {
        let HubModel { id, revision } = self.model;
        let url = format!(
            "{}/api/models/{id}/revision/{}",
            self.address,
            revision.replace('/', "%2F")
        );
        let url: Uri = url
            .parse()
            .with_context(|| format!("`{url}` is not an address"))?;
        let answer = self.client.get(&url, None, self.patience)?;
        let status = answer.status();
        if !status.is_success() {
            let code = header(answer.headers(), "x-error-code");
            return Err(self.refusal(status.as_u16(), code, None));
        }
        let body = client::read(answer, MAX_LISTING)
            .map_err(|error| Failure::of_body(&error, "the description", self.patience.silence))?;
        let listing: Listing = serde_json::from_slice(&body).with_context(|| {
            format!(
                "`{}` did not describe `{id}` as a hub does: check the hub's address (HF_ENDPOINT)",
                self.endpoint
            )
        })?;
        let commit = Commit::parse(&listing.sha)
            .with_context(|| format!("`{}` sent a wrong commit for `{id}`", self.endpoint))?;
        if Commit::is_full(revision) && !revision.eq_ignore_ascii_case(commit.as_str()) {
            let error = anyhow!(
                "`{}` was asked for commit `{revision}` of `{id}` and described `{}`: check the \
                 hub's address (HF_ENDPOINT)",
                self.endpoint,
                excerpt(commit.as_str())
            );
            return Err(error.into());
        }
        Ok((commit, listing))
    }

    /// Finds what is missing before a long download, not after it.
    fn check_listing(&self, listing: &HashSet<&str>) -> Result<()> {
        let HubModel { id, revision } = self.model;
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

    fn warn(&self, failure: &Failure, files: &ModelFiles) {
        tracing::warn!(
            model = %self.model.id,
            revision = %self.model.revision,
            commit = files.commit.as_deref(),
            hub = %self.endpoint,
            reason = %failure.reason(),
            "the hub did not deliver, using the copy in the cache"
        );
    }
}

/// The token that is sent to the hub: the one that was given, or that of a login.
fn token(settings: &HubSettings) -> Result<Option<String>> {
    let (token, origin) = match (&settings.token, &settings.token_file) {
        (Some(token), _) => (token.clone(), "HF_TOKEN".to_owned()),
        (None, Some(path)) => match read_token(path) {
            Ok(token) => (token, format!("`{}`", path.display())),
            // Most machines have none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "cannot read the token of a login");
                return Ok(None);
            }
        },
        (None, None) => return Ok(None),
    };
    ensure!(
        token.chars().all(|c| c.is_ascii_graphic()),
        "{origin} has a space, a line break or another character that no token has"
    );
    Ok(Some(token).filter(|token| !token.is_empty()))
}

fn read_token(path: &Path) -> io::Result<String> {
    let mut token = String::new();
    File::open(path)?
        .take(MAX_TOKEN)
        .read_to_string(&mut token)?;
    Ok(token.trim().to_owned())
}

/// What to do about a damaged file in the cache, which is a link to a blob.
fn delete_hint(error: &anyhow::Error, path: &Path) -> anyhow::Error {
    let blob = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    anyhow!(
        "{error:#}: delete `{}` and start again online, then it is downloaded again",
        blob.display()
    )
}
