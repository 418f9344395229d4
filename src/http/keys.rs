//! API keys: who may use the server.
//!
//! Only digests are kept and compared, all of them each time, so neither the log nor the time that
//! an answer takes tells anything about a key.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use anyhow::{Context as _, Result, ensure};
use axum::http::{HeaderMap, HeaderValue, header};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use super::settings::KeySettings;

type KeyDigest = [u8; 32];

/// The keys that open the server.
pub(super) struct Keys {
    settings: KeySettings,
    digests: RwLock<Vec<KeyDigest>>,
}

impl Keys {
    /// Loads the keys; none are loaded if none are set, and the server is open.
    ///
    /// # Errors
    /// A key file that cannot be read or has no key.
    pub(super) fn load(settings: &KeySettings) -> Result<Option<Arc<Self>>> {
        if settings.given.is_empty() && settings.file.is_none() {
            return Ok(None);
        }
        let digests = RwLock::new(digests(settings)?);
        Ok(Some(Arc::new(Self {
            settings: settings.clone(),
            digests,
        })))
    }

    /// The file to watch, if there is one.
    pub(super) fn file(&self) -> Option<&PathBuf> {
        self.settings.file.as_ref()
    }

    /// Reads the file again; if that fails, the old keys go on.
    pub(super) fn reload(&self) -> Result<String> {
        let digests = digests(&self.settings)?;
        let number = digests.len();
        *self.digests.write().unwrap_or_else(PoisonError::into_inner) = digests;
        Ok(format!("keys read again: {number} open the server now"))
    }

    pub(super) fn open_for(&self, headers: &HeaderMap) -> bool {
        let known = self.digests.read().unwrap_or_else(PoisonError::into_inner);
        let mut opens = Choice::from(0);
        for candidate in candidates(headers) {
            let candidate: KeyDigest = Sha256::digest(candidate).into();
            for key in known.iter() {
                opens |= key.ct_eq(&candidate);
            }
        }
        opens.into()
    }
}

fn digests(settings: &KeySettings) -> Result<Vec<KeyDigest>> {
    let given = settings.given.iter().map(|key| digest(key.expose()));
    let mut digests: Vec<KeyDigest> = given.collect();
    if let Some(file) = &settings.file {
        digests.extend(digests_of(file)?);
    }
    Ok(digests)
}

fn digests_of(file: &Path) -> Result<Vec<KeyDigest>> {
    let text = fs::read_to_string(file)
        .with_context(|| format!("cannot read RERANKER_API_KEY_FILE {}", file.display()))?;
    let lines = text.lines().map(str::trim);
    let keys = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let digests: Vec<KeyDigest> = keys.map(digest).collect();
    ensure!(
        !digests.is_empty(),
        "RERANKER_API_KEY_FILE {} holds no key; write one a line, or leave the option out to let everyone in",
        file.display()
    );
    Ok(digests)
}

fn digest(key: &str) -> KeyDigest {
    Sha256::digest(key).into()
}

/// What a client may mean as its key. Some clients send theirs as `Authorization` without a scheme.
fn candidates(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let authorization = headers.get(header::AUTHORIZATION);
    let bearer = authorization.map(|value| without_scheme(value.as_bytes()));
    let x_api_key = headers.get("x-api-key").map(HeaderValue::as_bytes);
    bearer.into_iter().chain(x_api_key).map(<[u8]>::trim_ascii)
}

fn without_scheme(value: &[u8]) -> &[u8] {
    match value.split_at_checked(7) {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"bearer ") => key,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Arc<Keys> {
        let given = text.split(' ').map(|key| key.parse().unwrap()).collect();
        let settings = KeySettings { given, file: None };
        Keys::load(&settings).unwrap().unwrap()
    }

    fn opens(keys: &Keys, name: &'static str, value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        keys.open_for(&headers)
    }

    #[test]
    fn each_key_opens_by_each_header_and_nothing_else_does() {
        let keys = keys("first second");
        for value in [
            "Bearer first",
            "bearer second",
            "BEARER  first",
            "first",
            " second",
        ] {
            assert!(opens(&keys, "authorization", value), "{value:?}");
        }
        for value in [
            "Bearer third",
            "Bearer ",
            "",
            "Bearer firs",
            "Bearer firstt",
            "Basic first",
            "first second",
        ] {
            assert!(!opens(&keys, "authorization", value), "{value:?}");
        }
        assert!(opens(&keys, "x-api-key", "second"));
        assert!(!opens(&keys, "x-api-key", "Second"));
        assert!(!opens(&keys, "api-key", "second"));
        assert!(!keys.open_for(&HeaderMap::new()));
    }

    #[test]
    fn a_wrong_authorization_beside_a_right_key_does_not_hide_it() {
        let keys = keys("first");
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Basic Zm9v"));
        headers.insert("x-api-key", HeaderValue::from_static("first"));
        assert!(keys.open_for(&headers));
    }
}
