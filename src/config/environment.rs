//! The environment as it really comes: through compose files that pass on empty variables, through
//! env files that were edited on Windows or keep their quotes, and through Kubernetes, which adds
//! variables of its own.

use std::{collections::BTreeSet, env, num::NonZero, thread::available_parallelism};

use clap::{Arg, Command};

/// What the names of our own variables begin with, `DEVICE` and those of others aside.
const PREFIX: &str = "RERANKER_";

/// How like a known name an unknown one must be to be taken for a slip of it; 1 is equal.
const ALIKE: f64 = 0.85;

/// A warning names no more unknown variables than these.
const NAMED: usize = 10;

/// What the value of a variable means.
#[derive(Debug, PartialEq)]
enum Meaning {
    AsItStands,
    /// The value without what surrounds it by mistake.
    Cleaned(String),
    NotSet,
}

/// The command, with every variable read for what it means.
pub(crate) fn read_environment(command: Command) -> Command {
    let command = command.mut_args(|arg| match meaning_of(&arg) {
        Meaning::AsItStands => arg,
        // clap reads the environment itself. As a default the value has the same place, behind the
        // flag.
        Meaning::Cleaned(value) => arg
            .env(None::<&'static str>)
            .default_value(value)
            .hide_default_value(true),
        Meaning::NotSet => arg.env(None::<&'static str>),
    });
    command.mut_subcommands(read_environment)
}

/// What the operator should know of the variables, a sentence each.
pub(crate) fn warnings(command: &Command) -> Vec<String> {
    let known: BTreeSet<String> = command
        .get_arguments()
        .filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned()))
        .collect();
    let set: BTreeSet<(String, String)> = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    warnings_of(&known, &set)
}

fn meaning_of(arg: &Arg) -> Meaning {
    let name = arg.get_env().and_then(|name| name.to_str());
    // What is no text can only be a path, and is left alone.
    let value = name.and_then(|name| Some((name, env::var_os(name)?.into_string().ok()?)));
    value.map_or(Meaning::AsItStands, |(name, value)| meaning(name, &value))
}

fn meaning(name: &str, value: &str) -> Meaning {
    let cleaned = clean(value);
    if cleaned.is_empty() || is_service_link(name, cleaned) {
        Meaning::NotSet
    } else if cleaned == value {
        Meaning::AsItStands
    } else {
        Meaning::Cleaned(cleaned.to_owned())
    }
}

/// Removes a byte order mark, blanks, ends of lines, and one pair of quotes.
pub(super) fn clean(value: &str) -> &str {
    let text = value.trim_start_matches('\u{feff}').trim();
    let unquoted = ['"', '\'']
        .into_iter()
        .find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote));
    unquoted.unwrap_or(text).trim()
}

/// For a Service named `reranker`, Kubernetes sets `RERANKER_PORT=tcp://10.43.12.7:8002`; docker's
/// links do so too.
fn is_service_link(name: &str, value: &str) -> bool {
    let schemes = ["tcp://", "udp://", "sctp://"];
    name.ends_with("_PORT") && schemes.iter().any(|scheme| value.starts_with(scheme))
}

/// The other variables that tell of a Service: `RERANKER_SERVICE_HOST`,
/// `RERANKER_PORT_8002_TCP_ADDR` and so on.
fn tells_of_service(name: &str, value: &str) -> bool {
    let after_port = name.split("_PORT_").nth(1).unwrap_or_default();
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || after_port.starts_with(|c: char| c.is_ascii_digit())
        || is_service_link(name, value)
}

fn warnings_of(known: &BTreeSet<String>, set: &BTreeSet<(String, String)>) -> Vec<String> {
    let (ours, others): (Vec<_>, Vec<_>) = set.iter().partition(|(name, _)| known.contains(name));
    let links = ours
        .into_iter()
        .filter(|(name, value)| is_service_link(name, clean(value)));
    let mut warnings: Vec<String> = links
        .map(|(name, value)| {
            format!(
                "{name} is \"{}\", which is what Kubernetes sets for a Service of that name; it is ignored, and the default is used unless a flag says otherwise",
                clean(value)
            )
        })
        .collect();
    let unknown: Vec<String> = others
        .into_iter()
        .filter(|(name, value)| is_unknown(name) && !tells_of_service(name, clean(value)))
        .map(|(name, _)| described(name, known))
        .collect();
    if !unknown.is_empty() {
        let named = unknown.iter().take(NAMED).cloned().collect::<Vec<_>>();
        let more = unknown.len() - named.len();
        let more = match more {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        warnings.push(format!(
            "these variables are no options of this program and are ignored: {}{more}",
            named.join(", ")
        ));
    }
    warnings
}

/// A byte order mark at the beginning of an env file sticks to the first name.
fn is_unknown(name: &str) -> bool {
    name.trim_start_matches('\u{feff}').starts_with(PREFIX)
}

fn described(name: &str, known: &BTreeSet<String>) -> String {
    let quoted = name.escape_debug();
    let likeness = |of: &String| strsim::jaro_winkler(rest(name), rest(of));
    let nearest = known
        .iter()
        .map(|name| (likeness(name), name))
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    match nearest {
        Some((likeness, nearest)) if likeness >= ALIKE => {
            format!("{quoted} (did you mean {nearest}?)")
        }
        _ => quoted.to_string(),
    }
}

/// What a name does not share with all others.
fn rest(name: &str) -> &str {
    let name = name.trim_start_matches('\u{feff}');
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// Compose files pass variables that are not set as empty strings.
pub(super) fn non_empty(text: Option<&str>) -> Option<String> {
    text.map(str::trim)
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

/// How many threads compute: what `RAYON_NUM_THREADS` says, or one for each core. Rayon reads it by
/// itself as well, but does not tell the number before it has started the threads.
pub(crate) fn computing_threads() -> usize {
    let wanted = env::var_os("RAYON_NUM_THREADS");
    let wanted = wanted.and_then(|value| value.to_str()?.parse().ok());
    match wanted {
        Some(0) | None => available_parallelism().map_or(1, NonZero::get),
        Some(threads) => threads,
    }
}

/// Whether the user wants no colours (<https://no-color.org>).
pub(crate) fn wants_no_colours() -> bool {
    env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_mean_what_people_meant() {
        for (value, expected) in [
            ("8002", Meaning::AsItStands),
            ("a b", Meaning::AsItStands),
            ("it's", Meaning::AsItStands),
            ("\"", Meaning::AsItStands),
            ("8002\r", Meaning::Cleaned("8002".to_owned())),
            (" /models \n", Meaning::Cleaned("/models".to_owned())),
            ("\u{feff}8002", Meaning::Cleaned("8002".to_owned())),
            ("\"/a b\"\r", Meaning::Cleaned("/a b".to_owned())),
            ("' key '", Meaning::Cleaned("key".to_owned())),
            ("\"\"a\"\"", Meaning::Cleaned("\"a\"".to_owned())),
            ("", Meaning::NotSet),
            (" \r\n", Meaning::NotSet),
            ("\"\"\r", Meaning::NotSet),
            ("tcp://10.43.12.7:8002", Meaning::NotSet),
            ("udp://[fd00::7]:8002\r", Meaning::NotSet),
        ] {
            assert_eq!(meaning("RERANKER_PORT", value), expected, "{value:?}");
        }
        let mirror = meaning("HF_ENDPOINT", "tcp://a:1");
        assert_eq!(mirror, Meaning::AsItStands, "wrong, and said to be so");
    }

    fn warned(set: &[(&str, &str)]) -> Vec<String> {
        let known = [
            "RERANKER_PORT",
            "RERANKER_MAX_DOCUMENTS",
            "RERANKER_API_KEY",
            "DEVICE",
        ];
        let known = known.map(str::to_owned).into();
        let set = set
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()));
        warnings_of(&known, &set.collect())
    }

    #[test]
    fn what_kubernetes_sets_is_one_warning_if_it_collides_and_none_otherwise() {
        let quiet = [
            ("RERANKER_SERVICE_HOST", "10.43.12.7"),
            ("RERANKER_SERVICE_PORT", "8002"),
            ("RERANKER_SERVICE_PORT_HTTP", "8002"),
            ("RERANKER_PORT_8002_TCP", "tcp://10.43.12.7:8002"),
            ("RERANKER_PORT_8002_TCP_PROTO", "tcp"),
            ("RERANKER_PORT_8002_TCP_PORT", "8002"),
            ("RERANKER_PORT_8002_TCP_ADDR", "10.43.12.7"),
            ("RERANKER_CPU_PORT", "tcp://10.43.12.8:8002"),
            ("RERANKER_CPU_SERVICE_HOST", "10.43.12.8"),
            ("DEVICE_PORT", "tcp://10.43.12.9:80"),
            ("PATH", "/bin"),
        ];
        assert_eq!(warned(&quiet), [""; 0]);
        let warnings =
            warned(&[&quiet[..], &[("RERANKER_PORT", "tcp://10.43.12.7:8002")]].concat());
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].starts_with(
                "RERANKER_PORT is \"tcp://10.43.12.7:8002\", which is what Kubernetes"
            ),
            "{warnings:?}"
        );
    }

    #[test]
    fn unknown_names_are_told_with_the_nearest_known_one_and_without_their_values() {
        assert_eq!(
            warned(&[
                ("RERANKER_MAX_DOCS", "secret"),
                ("RERANKER_APIKEY", "secret"),
                ("RERANKER_API_URL", "secret"),
                ("\u{feff}RERANKER_PORT", "secret"),
                ("OTHER", "secret"),
            ]),
            [
                "these variables are no options of this program and are ignored: RERANKER_APIKEY (did you mean RERANKER_API_KEY?), RERANKER_API_URL, RERANKER_MAX_DOCS (did you mean RERANKER_MAX_DOCUMENTS?), \\u{feff}RERANKER_PORT (did you mean RERANKER_PORT?)"
            ]
        );
        let many: Vec<(String, &str)> = (0..12).map(|i| (format!("RERANKER_{i}"), "")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (&**name, *value)).collect();
        assert!(warned(&many)[0].ends_with(" and 2 more"));
    }
}
