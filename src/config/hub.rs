//! Where models come from and where they are kept: what all clients of the Hugging Face hub read.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, builder::BoolishValueParser};

use super::environment::{clean, non_empty};
use crate::{
    model::source::{HubSettings, Proxies},
    secret::Secret,
};

/// The most that a time-out may be, in seconds.
const DAY: u64 = 86_400;

/// How the hub is reached and where its files are kept.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
#[expect(
    clippy::struct_field_names,
    reason = "the names of the variables that all clients of the hub read"
)]
pub(crate) struct HubArgs {
    /// Access token for gated or private repositories
    #[arg(long, env = "HF_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub hf_token: Option<Secret>,

    /// File with the token of a login, read if no other token is given [default: `token` in
    /// `HF_HOME`]
    #[arg(long, env = "HF_TOKEN_PATH", value_name = "FILE")]
    pub hf_token_path: Option<PathBuf>,

    /// Send no token to the hub, neither `HF_TOKEN` nor that of a login
    #[arg(long, env = "HF_HUB_DISABLE_IMPLICIT_TOKEN", num_args = 0..=1, default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new(), value_name = "BOOL")]
    pub hf_hub_disable_implicit_token: bool,

    /// Directory of Hugging Face's files; models are in `hub` below it, shared with Python
    /// [default: ~/.cache/huggingface]
    #[arg(long, env = "HF_HOME", value_name = "DIR")]
    pub hf_home: Option<PathBuf>,

    /// Directory of the models themselves (`models--owner--name`), where it is not `HF_HOME/hub`
    #[arg(long, env = "HF_HUB_CACHE", value_name = "DIR")]
    pub hf_hub_cache: Option<PathBuf>,

    /// Address of the hub or of a mirror [default: `https://huggingface.co`]
    #[arg(long, env = "HF_ENDPOINT", value_name = "URL")]
    pub hf_endpoint: Option<String>,

    /// Use only what the cache holds already [default: false]
    #[arg(long, env = "HF_HUB_OFFLINE", num_args = 0..=1, default_missing_value = "true", value_parser = BoolishValueParser::new(), value_name = "BOOL")]
    pub hf_hub_offline: Option<bool>,

    /// Seconds that questions to the hub may take before a complete copy in the cache is used
    /// [default: 5]
    #[arg(long, env = "HF_HUB_ETAG_TIMEOUT", value_parser = clap::value_parser!(u64).range(..=DAY), value_name = "SECONDS")]
    pub hf_hub_etag_timeout: Option<u64>,

    /// Seconds that the hub may be silent before it counts as unreachable [default: 30]
    #[arg(long, env = "HF_HUB_DOWNLOAD_TIMEOUT", value_parser = clap::value_parser!(u64).range(..=DAY), value_name = "SECONDS")]
    pub hf_hub_download_timeout: Option<u64>,
}

impl HubArgs {
    pub(super) fn resolve(&self) -> HubSettings {
        self.resolve_with(&Environment {
            variable: &|name| non_empty(env::var_os(name)?.to_str().map(clean)),
            user: env::home_dir().unwrap_or_default(),
        })
    }

    fn resolve_with(&self, environment: &Environment<'_>) -> HubSettings {
        let home = self.home(environment);
        let sends_token = !self.hf_hub_disable_implicit_token;
        let token_file = environment
            .path(self.hf_token_path.as_deref())
            .unwrap_or_else(|| home.join("token"));
        HubSettings {
            endpoint: non_empty(self.hf_endpoint.as_deref()),
            token: self.token(environment).filter(|_| sends_token),
            token_file: sends_token.then_some(token_file),
            cache_dir: self.cache(environment, &home),
            offline: self.offline(environment),
            // 0 stands for the default, as with every client of the hub.
            timeout: seconds(self.hf_hub_download_timeout, HubSettings::DEFAULT_TIMEOUT),
            question_timeout: seconds(
                self.hf_hub_etag_timeout,
                HubSettings::DEFAULT_QUESTION_TIMEOUT,
            ),
            proxies: environment.proxies(),
        }
    }

    fn home(&self, environment: &Environment<'_>) -> PathBuf {
        environment
            .path(self.hf_home.as_deref())
            .unwrap_or_else(|| {
                let caches = environment.first(&["XDG_CACHE_HOME"]).map_or_else(
                    || environment.user.join(".cache"),
                    |dir| environment.expand(dir.as_ref()),
                );
                caches.join("huggingface")
            })
    }

    fn cache(&self, environment: &Environment<'_>, home: &Path) -> PathBuf {
        let old = || {
            let dir = environment.first(&["HUGGINGFACE_HUB_CACHE"])?;
            Some(environment.expand(dir.as_ref()))
        };
        environment
            .path(self.hf_hub_cache.as_deref())
            .or_else(old)
            .unwrap_or_else(|| home.join("hub"))
    }

    fn token(&self, environment: &Environment<'_>) -> Option<String> {
        let token = self.hf_token.as_ref().map(Secret::expose);
        non_empty(token).or_else(|| environment.first(&["HUGGING_FACE_HUB_TOKEN"]))
    }

    fn offline(&self, environment: &Environment<'_>) -> bool {
        self.hf_hub_offline.unwrap_or_else(|| {
            let old = environment.first(&["TRANSFORMERS_OFFLINE"]);
            old.is_some_and(|value| {
                ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
            })
        })
    }
}

/// What is read beside the options: older names of the same, and what is everybody's.
struct Environment<'a> {
    /// A variable that is set and not empty.
    variable: &'a dyn Fn(&str) -> Option<String>,
    /// The user's own directory.
    user: PathBuf,
}

impl Environment<'_> {
    fn first(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| (self.variable)(name))
    }

    fn path(&self, option: Option<&Path>) -> Option<PathBuf> {
        let path = option.filter(|path| !path.as_os_str().is_empty())?;
        Some(self.expand(path))
    }

    /// No shell has expanded what comes from a file of variables.
    fn expand(&self, path: &Path) -> PathBuf {
        path.strip_prefix("~")
            .map_or_else(|_| path.to_owned(), |rest| self.user.join(rest))
    }

    /// Reads the proxies as curl and Python do: the names in small letters first.
    fn proxies(&self) -> Proxies {
        Proxies {
            https: self.first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            http: self.first(&["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
            except: self.first(&["no_proxy", "NO_PROXY"]).unwrap_or_default(),
        }
    }
}

fn seconds(option: Option<u64>, default: Duration) -> Duration {
    option
        .filter(|&seconds| seconds > 0)
        .map_or(default, Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        hub: HubArgs,
    }

    /// The settings with these flags and variables, for the user `/home/me`.
    fn resolve(flags: &[&str], variables: &[(&str, &str)]) -> HubSettings {
        let hub = Cli::parse_from(["x"].iter().chain(flags)).hub;
        let find = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        };
        hub.resolve_with(&Environment {
            variable: &find,
            user: "/home/me".into(),
        })
    }

    #[test]
    fn the_cache_is_where_pythons_client_looks_for_it() {
        let old = ("HUGGINGFACE_HUB_CACHE", "/old");
        let xdg = ("XDG_CACHE_HOME", "/xdg");
        for (flags, variables, cache) in [
            (&[][..], &[][..], "/home/me/.cache/huggingface/hub"),
            (&[], &[xdg], "/xdg/huggingface/hub"),
            (&["--hf-home=/home"], &[xdg], "/home/hub"),
            (&["--hf-home=/home"], &[xdg, old], "/old"),
            (&["--hf-home=/h", "--hf-hub-cache=/c"], &[xdg, old], "/c"),
            (&["--hf-hub-cache=~/c"], &[], "/home/me/c"),
            (&["--hf-home=~"], &[], "/home/me/hub"),
        ] {
            let settings = resolve(flags, variables);
            assert_eq!(settings.cache_dir, Path::new(cache), "{flags:?}");
        }
    }

    #[test]
    fn the_token_has_an_older_name_and_a_file() {
        let old = [("HUGGING_FACE_HUB_TOKEN", "old")];
        assert_eq!(resolve(&[], &old).token.unwrap(), "old");
        assert_eq!(resolve(&["--hf-token=new"], &old).token.unwrap(), "new");
        let file = |flags: &[&str]| resolve(flags, &[]).token_file.unwrap();
        assert_eq!(
            file(&["--hf-hub-cache=/data"]),
            Path::new("/home/me/.cache/huggingface/token")
        );
        assert_eq!(file(&["--hf-home=/home"]), Path::new("/home/token"));
        assert_eq!(
            file(&["--hf-home=/home", "--hf-token-path=~/t"]),
            Path::new("/home/me/t")
        );
        let none = resolve(&["--hf-token=new", "--hf-hub-disable-implicit-token"], &old);
        assert_eq!((none.token, none.token_file), (None, None));
    }

    #[test]
    fn offline_has_an_older_name_that_the_newer_one_overrules() {
        for (flags, old, offline) in [
            (&[][..], "YES", true),
            (&[], "1", true),
            (&[], "0", false),
            (&["--hf-hub-offline=0"], "1", false),
            (&["--hf-hub-offline=ON"], "0", true),
            (&["--hf-hub-offline"], "", true),
        ] {
            let variables = [("TRANSFORMERS_OFFLINE", old)];
            assert_eq!(resolve(flags, &variables).offline, offline, "{flags:?}");
        }
        assert!(!resolve(&[], &[]).offline);
    }

    #[test]
    fn times_are_in_seconds_and_0_is_the_default() {
        let times = |flags| {
            let settings = resolve(flags, &[]);
            [settings.question_timeout, settings.timeout].map(|time| time.as_secs())
        };
        let both = ["--hf-hub-etag-timeout=2", "--hf-hub-download-timeout=7"];
        assert_eq!(times(&both), [2, 7]);
        assert_eq!(times(&["--hf-hub-etag-timeout=0"]), times(&[]));
    }

    #[test]
    fn proxies_are_read_in_both_cases() {
        let https = |variables: &[(&str, &str)]| resolve(&[], variables).proxies.https.unwrap();
        let (small, large) = (("https_proxy", "small"), ("HTTPS_PROXY", "large"));
        let all = ("ALL_PROXY", "all");
        assert_eq!(https(&[large, small, all]), "small");
        assert_eq!(https(&[all, large]), "large");
        assert_eq!(https(&[all]), "all");
        let proxies = resolve(&[], &[("HTTP_PROXY", "plain"), ("NO_PROXY", "a,b")]).proxies;
        assert_eq!(proxies.https, None);
        assert_eq!(proxies.http.as_deref(), Some("plain"));
        assert_eq!(proxies.except, "a,b");
    }
}
