//! Paths as people paste them: a slash at the end, two where one should be.
//!
//! They are put right before anything looks at them, so that keys, routes and metrics see one and
//! the same path. Nothing else is changed: `..` and `%2e` are names like others here.

use std::borrow::Cow;

use axum::http::{Uri, uri::PathAndQuery};

/// Pages have relative links, which hold with or without the slash, but not both.
const PAGES: [&str; 2] = ["/ui/", "/docs/"];

/// Puts the path of an address right; the query stays as it is.
pub(super) fn straighten(uri: &mut Uri) {
    let path = uri.path();
    let Cow::Owned(straight) = straight(path) else {
        return;
    };
    let target = match uri.query() {
        Some(query) => format!("{straight}?{query}"),
        None => straight,
    };
    let mut parts = uri.clone().into_parts();
    // A part of what could be parsed can be parsed.
    parts.path_and_query = PathAndQuery::try_from(target).ok();
    if let Ok(straight) = Uri::from_parts(parts) {
        *uri = straight;
    }
}

fn straight(path: &str) -> Cow<'_, str> {
    let ends = path.len() > 1 && path.ends_with('/') && !PAGES.contains(&path);
    if !ends && !path.contains("//") {
        return Cow::Borrowed(path);
    }
    let names = path.split('/').filter(|name| !name.is_empty());
    let mut straight: String = names.flat_map(|name| ["/", name]).collect();
    let with_slash = format!("{straight}/");
    if straight.is_empty() || path.ends_with('/') && PAGES.contains(&&*with_slash) {
        straight.push('/');
    }
    Cow::Owned(straight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn straightened(uri: &str) -> String {
        let mut uri = uri.parse().unwrap();
        straighten(&mut uri);
        uri.to_string()
    }

    #[test]
    fn slashes_are_put_right_and_nothing_else() {
        for (given, expected) in [
            ("/rerank/", "/rerank"),
            ("//rerank", "/rerank"),
            ("/v1//rerank///?a=/b//", "/v1/rerank?a=/b//"),
            ("/health/?", "/health?"),
            ("//", "/"),
            ("/docs/", "/docs/"),
            ("/docs//", "/docs/"),
            ("//ui/", "/ui/"),
            ("/ui/style.css/", "/ui/style.css"),
            ("http://host:1//health/?x=1", "http://host:1/health?x=1"),
        ] {
            assert_eq!(straightened(given), expected, "{given}");
        }
        for same in [
            "/",
            "/?x=//",
            "/rerank",
            "/v1/models/a/b",
            "/health/../info",
            "/health/..",
            "/%2fmetrics",
            "/%6detrics",
            "/metrics;x",
            "*",
        ] {
            assert_eq!(straightened(same), same);
        }
    }
}
