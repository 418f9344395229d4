//! Origins whose web pages may call the server (CORS).

use std::str::FromStr;

/// The origin of a web page as a browser sends it, or `*` for any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin(String);

impl Origin {
    /// The origin as the header `Origin` has it.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this stands for all origins.
    pub(crate) fn is_any(&self) -> bool {
        self.0 == "*"
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.trim().to_ascii_lowercase();
        let host = lower
            .strip_prefix("https://")
            .or_else(|| lower.strip_prefix("http://"));
        let is_origin = host.is_some_and(|host| {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && !b"/?#@*".contains(&b))
        });
        if is_origin || lower == "*" {
            return Ok(Self(lower));
        }
        Err("expected origins such as https://app.example or http://localhost:3000, without a path, or *".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_a_scheme_and_a_host_and_nothing_else() {
        for text in [
            "*",
            "https://app.example",
            "http://localhost:3000",
            "http://[::1]:80",
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().as_str(), text);
        }
        let origin: Origin = " HTTPS://App.Example ".parse().unwrap();
        assert_eq!(
            origin.as_str(),
            "https://app.example",
            "as browsers write it"
        );
        for text in [
            "",
            "app.example",
            "https://",
            "https://app.example/",
            "https://*.example",
            "null",
            "ftp://a",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }
}
