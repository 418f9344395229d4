//! What was found, for people and for programs.

use serde_json::{Value, json};

use super::check::{Check, Verdict};

/// What was found.
pub(super) struct Report {
    pub(super) url: String,
    pub(super) checks: Vec<Check>,
    /// Whether warnings count as failures.
    pub(super) strict: bool,
}

impl Report {
    /// Whether nothing failed.
    pub(super) fn is_passed(&self) -> bool {
        let failures = self.count(Verdict::Fail);
        failures == 0 && !(self.strict && self.count(Verdict::Warn) > 0)
    }

    fn count(&self, verdict: Verdict) -> usize {
        let checks = self.checks.iter();
        checks.filter(|check| check.verdict == verdict).count()
    }

    /// A line for each check, and one below it that says what to do.
    pub(super) fn table(&self, colours: bool) -> String {
        let width = self.checks.iter().map(|check| check.name.len()).max();
        let width = width.unwrap_or_default();
        let mut lines = vec![format!("{}\n", self.url)];
        for check in &self.checks {
            let verdict = painted(check.verdict, colours);
            lines.push(format!(
                "  {verdict}  {:width$}  {}",
                check.name, check.found
            ));
            if !check.advice.is_empty() {
                lines.push(format!("        {:width$}  → {}", "", check.advice));
            }
        }
        lines.push(format!("\n{}", self.summary()));
        lines.join("\n")
    }

    fn summary(&self) -> String {
        let counted = |verdict, one: &str, many: &str| {
            let count = self.count(verdict);
            let noun = if count == 1 { one } else { many };
            format!("{count} {noun}")
        };
        format!(
            "{}, {}, {}",
            counted(Verdict::Pass, "check passed", "checks passed"),
            counted(Verdict::Warn, "warning", "warnings"),
            counted(Verdict::Fail, "failure", "failures"),
        )
    }

    /// `{"url", "passed", "checks": [{"name", "verdict", "found", "advice", "values"}]}`.
    pub(super) fn json(&self) -> Value {
        let checks = self.checks.iter().map(|check| {
            json!({
                "name": check.name,
                "verdict": check.verdict.word(),
                "found": check.found,
                "advice": check.advice,
                "values": check.values,
            })
        });
        json!({
            "url": self.url,
            "passed": self.is_passed(),
            "checks": checks.collect::<Vec<_>>(),
        })
    }
}

fn painted(verdict: Verdict, colours: bool) -> String {
    let word = verdict.word();
    let colour = match verdict {
        Verdict::Pass => 32,
        Verdict::Warn => 33,
        Verdict::Fail => 31,
        Verdict::Skip => 90,
    };
    if colours {
        format!("\x1b[{colour}m{word}\x1b[0m")
    } else {
        word.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(strict: bool, last: Check) -> Report {
        let first = Check::pass("reach", "healthy");
        Report {
            url: "http://gpu:8002".to_owned(),
            checks: vec![first, last],
            strict,
        }
    }

    #[test]
    fn the_table_says_what_to_do() {
        let check = Check::warn("device", "cpu").advise("look at the log");
        let table = report(false, check).table(false);
        assert_eq!(
            table,
            "http://gpu:8002\n\n  pass  reach   healthy\n  warn  device  cpu\n                → look at the log\n\n1 check passed, 1 warning, 0 failures"
        );
    }

    #[test]
    fn a_failure_fails_and_a_warning_if_it_is_asked_to() {
        let warn = || Check::warn("device", "cpu");
        assert!(report(false, warn()).is_passed());
        assert!(!report(true, warn()).is_passed());
        assert!(!report(false, Check::fail("key", "refused")).is_passed());
        assert!(report(true, Check::skip("version", "unknown")).is_passed());
    }
}
