//! One thing that was examined.

use serde_json::{Value, json};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The server is as it should be.
    Pass,
    /// It works, but somebody should look at it.
    Warn,
    /// It does not work.
    Fail,
    /// It could not be told.
    Skip,
}

impl Verdict {
    /// The word that is printed.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}

/// One thing that was examined.
#[derive(Debug, Clone)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) verdict: Verdict,
    /// What was found.
    pub(super) found: String,
    /// What to do; empty where there is nothing to do.
    pub(super) advice: String,
    /// The figures behind it, for programs.
    pub(super) values: Value,
}

impl Check {
    fn new(name: &'static str, verdict: Verdict, found: impl Into<String>) -> Self {
        Self {
            name,
            verdict,
            found: found.into(),
            advice: String::new(),
            values: json!({}),
        }
    }

    pub(super) fn pass(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Pass, found)
    }

    pub(super) fn warn(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Warn, found)
    }

    pub(super) fn fail(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Fail, found)
    }

    pub(super) fn skip(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Skip, found)
    }

    /// Says what to do.
    pub(super) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }

    /// Adds the figures.
    pub(super) fn with(mut self, values: Value) -> Self {
        self.values = values;
        self
    }

    pub(super) fn is_failed(&self) -> bool {
        self.verdict == Verdict::Fail
    }
}
