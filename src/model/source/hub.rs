//! Files of a model on the Hugging Face hub, through `hf-hub` and its cache.
//!
//! `hf-hub` talks to the hub, resumes a partial file and lays out the cache. Added here: one
//! commit for all files, no second download of a file that another commit has too, retries,
//! a time limit, falling back to the cache, and errors that say what to do.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};

use super::files::{self, CONFIG, INDEX, NEEDED, TOKENIZER, WEIGHTS};
use super::{HubModel, HubSettings, ModelFiles, Progress};
use failure::Failure;
use snapshot::Snapshot;

mod failure;
mod snapshot;

const PUBLIC_HUB: &str = "https://huggingface.co";

/// See [`super::fetch`].
pub(super) fn fetch(
    model: &HubModel,
    settings: &HubSettings,
    progress: Progress,
) -> Result<ModelFiles> {
    let hub = Hub::new(model, settings)?;
    let files = if settings.offline {
        hub.cached().map_err(|missing| hub.offline_error(&missing))
    } else {
        match hub.online(progress) {
            Ok(files) => Ok(files),
            Err(Failure::Final(error)) => Err(error),
            Err(Failure::Cut { reason, .. } | Failure::Unreachable(reason)) => {
                hub.fall_back(&reason)
            }
        }
    }?;
    files.weights.iter().try_for_each(|path| check(path))?;
    Ok(files)
}

/// [`files::check_whole`] for a file in the cache, which is a link to a blob.
fn check(path: &Path) -> Result<()> {
    files::check_whole(path).map_err(|error| {
        let blob = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        anyhow!(
            "{error:#}: delete `{}` and start again online, then it is downloaded again",
            blob.display()
        )
    })
}

/// One model on one hub.
struct Hub<'a> {
    model: &'a HubModel,
    settings: &'a HubSettings,
    endpoint: String,
    cache: Cache,
    api: Api,
}

impl<'a> Hub<'a> {
    fn new(model: &'a HubModel, settings: &'a HubSettings) -> Result<Self> {
        let endpoint = settings.endpoint.as_deref().unwrap_or(PUBLIC_HUB);
        ensure!(
            endpoint.starts_with("https://") || endpoint.starts_with("http://"),
            "the hub's address `{endpoint}` (HF_ENDPOINT) must start with https:// or http://"
        );
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let cache = Cache::new(settings.cache_dir.clone());
        let mut builder = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(endpoint.clone())
            .with_user_agent(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        if let Some(token) = settings.token.as_ref().filter(|token| !token.is_empty()) {
            ensure!(
                token.chars().all(|c| c.is_ascii_graphic()),
                "HF_TOKEN has a space, a line break or another character that no token has"
            );
            builder = builder.with_token(Some(token.clone()));
        }
        let api = builder
            .build()
            .context("cannot set up the client of the hub")?;
        Ok(Self {
            model,
            settings,
            endpoint,
            cache,
            api,
        })
    }

    fn repo(&self, revision: &str) -> Repo {
        let id = self.model.id.clone();
        Repo::with_revision(id, RepoType::Model, revision.to_owned())
    }

    /// The model's files in the cache, of the commit that the revision stood for last.
    fn cached(&self) -> Result<ModelFiles> {
        let revision = &self.model.revision;
        let cache = self.cache.repo(self.repo(revision));
        // A commit has no reference of its own in the cache, it is the name of a snapshot.
        let config = cache
            .get(CONFIG)
            .or_else(|| Some(cache.pointer_path(revision).join(CONFIG)).filter(|p| p.is_file()))
            .context("nothing of it is there")?;
        let snapshot = config.parent().unwrap_or(&config);
        let commit = snapshot.file_name().unwrap_or_default().to_string_lossy();
        Ok(ModelFiles {
            commit: Some(commit.into_owned()),
            ..files::find(snapshot)?
        })
    }

    fn online(&self, progress: Progress) -> Result<ModelFiles, Failure> {
        let info = self.info()?;
        let listing: HashSet<&str> = info.siblings.iter().map(|s| &*s.rfilename).collect();
        self.check_listing(&listing)?;
        let snapshot = Snapshot::new(self, &info.sha, progress)?;
        snapshot.get(CONFIG)?;
        snapshot.get(TOKENIZER)?;
        if listing.contains(WEIGHTS) {
            snapshot.get(WEIGHTS)?;
        } else {
            snapshot.get_shards(&listing)?;
        }
        // Last, so that the cache goes on naming the earlier commit while this one is incomplete.
        self.name_commit(&info.sha)?;
        Ok(ModelFiles {
            commit: Some(info.sha.clone()),
            ..files::find(snapshot.directory())?
        })
    }

    /// Records the commit that the revision stands for. A cache that has all is left untouched, as
    /// it may be read-only.
    fn name_commit(&self, commit: &str) -> Result<()> {
        let named = self.cache.repo(self.repo(&self.model.revision));
        let config = named.pointer_path(commit).join(CONFIG);
        if named.get(CONFIG).as_deref() == Some(&config) {
            return Ok(());
        }
        named
            .create_ref(commit)
            .with_context(|| self.cannot_write())
    }

    /// The commit of the revision and the names of its files.
    fn info(&self) -> Result<RepoInfo, Failure> {
        let timeout = Some(self.settings.timeout);
        let request = self
            .api
            .repo(self.repo(&self.model.revision))
            .info_request();
        let response = request
            .config()
            .http_status_as_error(false)
            .timeout_resolve(timeout)
            .timeout_connect(timeout)
            .timeout_recv_response(timeout)
            .timeout_recv_body(timeout)
            .build()
            .call();
        let mut response = response.map_err(|error| Failure::Unreachable(error.to_string()))?;
        if !response.status().is_success() {
            let code = response.headers().get("x-error-code");
            let code = code.and_then(|code| code.to_str().ok());
            return Err(self.refusal(response.status().as_u16(), code, None));
        }
        let body = response.body_mut().read_to_string();
        let body = body.map_err(|error| Failure::Unreachable(error.to_string()))?;
        let info: RepoInfo = serde_json::from_str(&body).with_context(|| {
            format!(
                "`{}` did not describe `{}` as a hub does: check the hub's address (HF_ENDPOINT)",
                self.endpoint, self.model.id
            )
        })?;
        // It becomes part of a path.
        if info.sha.is_empty() || !info.sha.chars().all(|c| c.is_ascii_alphanumeric()) {
            let error = anyhow!("the hub sent `{}` as a commit, which is none", info.sha);
            return Err(error.into());
        }
        Ok(info)
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

    fn fall_back(&self, reason: &str) -> Result<ModelFiles> {
        let files = self
            .cached()
            .map_err(|missing| self.unreachable_error(reason, &missing))?;
        tracing::warn!(
            model = %self.model.id,
            revision = %self.model.revision,
            commit = files.commit.as_deref(),
            hub = %self.endpoint,
            reason,
            "cannot reach the hub, using the copy in the cache"
        );
        Ok(files)
    }
}
