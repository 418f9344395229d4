//! What has been found wrong with a body so far.

use serde_json::value::RawValue;

use super::{
    reason::Reason,
    violation::{MAX_ECHO, Problem, Step, Violation, echo},
};
use crate::error::Error;

/// Most violations reported for one body. The original has no bound, but there a body of two-byte
/// documents is answered with a hundred bytes for each.
const MAX_VIOLATIONS: usize = 1000;

/// What has been found wrong with a body so far.
pub(super) struct Violations {
    /// The violations, in the order of the fields.
    list: Vec<Violation>,
    /// Bytes of offending values in that list.
    echoed: usize,
    /// The body has more than the server takes.
    too_large: Option<Error>,
    max_documents: usize,
}

impl Violations {
    /// No violations yet, of a request that may have so many documents.
    pub(super) fn new(max_documents: usize) -> Self {
        Self {
            list: Vec::new(),
            echoed: 0,
            too_large: None,
            max_documents,
        }
    }

    pub(super) fn max_documents(&self) -> usize {
        self.max_documents
    }

    /// Notes that the body has more than the server takes; nothing else matters then.
    pub(super) fn refuse(&mut self, too_large: Error) {
        self.too_large = Some(too_large);
    }

    /// The value of an outcome, or nothing after noting that `raw` at `path` has a problem.
    pub(super) fn keep<T>(
        &mut self,
        raw: &RawValue,
        path: &[Step],
        outcome: Result<T, Problem>,
    ) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(problem) => {
                self.add(problem, raw, path);
                None
            }
        }
    }

    fn add(&mut self, problem: Problem, raw: &RawValue, path: &[Step]) {
        if self.list.len() < MAX_VIOLATIONS {
            let input = echo(raw, MAX_ECHO - self.echoed);
            self.echoed += raw.get().len().min(MAX_ECHO - self.echoed);
            self.list.push(Violation {
                problem,
                path: path.to_vec(),
                input,
            });
        }
    }

    /// The value, if nothing was wrong with it or with anything that it leaves out.
    pub(super) fn settle<T>(self, value: Option<T>) -> Result<T, Reason> {
        match (self.too_large, value) {
            (Some(error), _) => Err(Reason::TooLarge(error)),
            (None, Some(value)) if self.list.is_empty() => Ok(value),
            _ => Err(Reason::Invalid(self.list)),
        }
    }
}
