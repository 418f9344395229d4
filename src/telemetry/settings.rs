//! What is logged.

use std::str::FromStr;

/// What is logged.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The least severe level that is logged.
    pub level: LogLevel,
    /// Directives as `reranker=debug,hyper=info`, which win over the level.
    pub directives: Option<String>,
    /// How lines are written.
    pub format: LogFormat,
}

/// How lines of the log are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object each, with the same fields.
    Json,
}

/// A level, by the names of Rust and of Python.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLevel(pub tracing::Level);

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let level = match text.trim().to_ascii_lowercase().as_str() {
            "trace" | "notset" => tracing::Level::TRACE,
            "debug" => tracing::Level::DEBUG,
            "info" | "" => tracing::Level::INFO,
            "warn" | "warning" => tracing::Level::WARN,
            "error" | "critical" | "fatal" => tracing::Level::ERROR,
            _ => return Err("expected trace, debug, info, warning, error or critical".to_owned()),
        };
        Ok(Self(level))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_read_as_people_write_them() {
        assert_eq!("WARNING".parse(), Ok(LogLevel(tracing::Level::WARN)));
        assert!("loud".parse::<LogLevel>().is_err());
    }
}
