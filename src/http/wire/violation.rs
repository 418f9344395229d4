//! What can be wrong with a body, in the words of `FastAPI` and `pydantic` 2.10: the entries of the
//! `detail` list of a 422, with `type`, `loc`, `msg`, `input` and sometimes `ctx`. What only the
//! other formats can get wrong is said in the same form.

use std::{borrow::Cow, fmt};

use serde_json::{Value, json, value::RawValue};

/// Bytes of offending values that an answer repeats whole: it must not be as large as the body that
/// it refuses.
pub(super) const MAX_ECHO: usize = 16 * 1024;

/// Bytes that it repeats of a value beyond those.
const SHORT_ECHO: usize = 200;

/// One thing wrong with a body: an entry of the list that `FastAPI` sends as `detail`.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(super) problem: Problem,
    /// Path inside the body, without the `body` that all paths start with.
    pub(super) path: Vec<Step>,
    pub(super) input: Value,
}

/// One step of a path: a field of an object or an item of a list.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// The name of a field.
    Field(&'static str),
    /// The position in a list, from 0.
    Index(usize),
}

impl Violation {
    /// A violation by the body as a whole.
    pub(super) fn of_body(problem: Problem, input: Value) -> Self {
        Self {
            problem,
            path: Vec::new(),
            input,
        }
    }

    /// The entry as it goes over the wire.
    pub(crate) fn to_json(&self) -> Value {
        let (kind, message) = self.problem.describe();
        let mut entry = json!({
            "type": kind,
            "loc": self.location(),
            "msg": message,
            "input": self.input,
        });
        if let Some(context) = self.problem.context() {
            entry["ctx"] = context;
        }
        entry
    }

    /// The violation as a sentence for a person: `documents.0: Input should be a valid string`.
    pub(crate) fn sentence(&self) -> String {
        if matches!(self.problem, Problem::NotSentAsJson) {
            return "the body was not sent as JSON; set the header `Content-Type: application/json`"
                .to_owned();
        }
        let path: Vec<String> = self.path.iter().map(Step::to_string).collect();
        let (_, message) = self.problem.describe();
        if path.is_empty() {
            return format!("body: {message}");
        }
        format!("{}: {message}", path.join("."))
    }

    fn location(&self) -> Value {
        let steps = self.path.iter().map(|step| match step {
            Step::Field(name) => Value::from(*name),
            Step::Index(index) => Value::from(*index),
        });
        std::iter::once(Value::from("body")).chain(steps).collect()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => formatter.write_str(name),
            Self::Index(index) => write!(formatter, "{index}"),
        }
    }
}

/// The kinds of violation that a body can have.
#[derive(Debug, Clone)]
pub(super) enum Problem {
    /// The body is not JSON; a sentence says where.
    Malformed(String),
    /// A required field, or the whole body, is absent.
    Missing,
    /// `Content-Type` names something else, so the body counts as a string.
    NotSentAsJson,
    /// The body or a document is not an object.
    NotAnObject,
    /// A list was wanted.
    NotAList,
    /// A string was wanted.
    NotAString,
    /// A boolean was wanted.
    NotABoolean,
    /// A document is neither a string nor an object.
    NotAPassage,
    /// A document is an object without a text.
    NoText,
    /// A document has an image or a video.
    NotOnlyText,
    /// `truncation_direction` or `truncation_side` is neither left nor right.
    NotASide,
    /// `truncate` is neither NONE nor END.
    NotATruncation,
    /// `/predict` got something else than two texts.
    NotAPair,
    /// `/score` got none of the pairs of fields that it reads.
    NoScorePair,
    /// `/score` got several queries, but not as many as documents.
    UnequalPairs,
    /// `/score` got an empty list.
    EmptyList,
    /// A string or a field name has half of a surrogate pair, so it is not Unicode text.
    LoneSurrogate,
    /// A number was wanted that is neither a number, nor a string, nor a boolean.
    NotAnInteger,
    /// An integer was wanted; a string holds none.
    NoIntegerInString,
    /// An integral number beyond what `pydantic` takes from that type.
    IntegerTooLarge,
    /// An integer was wanted; a number has a fractional part.
    Fractional,
    /// A number overflows to infinity.
    NotFinite,
    /// A list has more items than are read.
    TooManyItems,
    /// An object has more fields than are read.
    TooManyMembers,
    /// A limit on the tokens of a pair leaves no room for text.
    TooFewTokens,
    /// A number is below zero: our own choice, in the words `pydantic` has for a `ge=0` field.
    Negative,
}

impl Problem {
    /// `type` and `msg`.
    fn describe(&self) -> (&'static str, Cow<'static, str>) {
        let (kind, message) = match self {
            Self::Malformed(why) => return ("json_invalid", why.clone().into()),
            Self::Missing => ("missing", "Field required"),
            Self::NotSentAsJson | Self::NotAnObject => (
                "model_attributes_type",
                "Input should be a valid dictionary or object to extract fields from",
            ),
            Self::NotAList => ("list_type", "Input should be a valid list"),
            Self::NotAString => ("string_type", "Input should be a valid string"),
            Self::LoneSurrogate => (
                "string_unicode",
                "Input should be a valid string, unable to parse raw data as a unicode string",
            ),
            Self::NotABoolean => (
                "bool_parsing",
                "Input should be a valid boolean, unable to interpret input",
            ),
            Self::NotAPassage => ("string_type", "Input should be a valid string or object"),
            Self::NoText => (
                "missing",
                "An object needs a `text` or `content` string, or one of the fields that `rank_fields` names",
            ),
            Self::NotOnlyText => (
                "value_error",
                "This model reads text only; leave out parts of type `image_url` or `video_url`",
            ),
            Self::NotASide => ("literal_error", "Input should be 'left' or 'right'"),
            Self::NotATruncation => ("literal_error", "Input should be 'NONE' or 'END'"),
            Self::NotAPair => (
                "value_error",
                "Input should be a pair of texts, [query, text]: this model reads two texts together",
            ),
            Self::NoScorePair => (
                "missing",
                "Fields required: `text_1` and `text_2`, `data_1` and `data_2`, `queries` and `documents`, or `queries` and `items`",
            ),
            Self::UnequalPairs => (
                "value_error",
                "The first list needs one item, or as many as the second",
            ),
            Self::EmptyList => (
                "too_short",
                "List should have at least 1 item after validation, not 0",
            ),
            Self::TooManyItems => ("too_long", "List should have at most 10000 items"),
            Self::TooManyMembers => ("too_long", "Object should have at most 10000 fields"),
            Self::TooFewTokens => (
                "greater_than_equal",
                "Input should be 0 or -1 (no limit), or at least 8: a pair has 4 special tokens",
            ),
            Self::NotAnInteger => ("int_type", "Input should be a valid integer"),
            Self::NoIntegerInString => (
                "int_parsing",
                "Input should be a valid integer, unable to parse string as an integer",
            ),
            Self::IntegerTooLarge => (
                "int_parsing_size",
                "Unable to parse input string as an integer, exceeded maximum size",
            ),
            Self::Fractional => (
                "int_from_float",
                "Input should be a valid integer, got a number with a fractional part",
            ),
            Self::NotFinite => ("finite_number", "Input should be a finite number"),
            Self::Negative => (
                "greater_than_equal",
                "Input should be greater than or equal to 0",
            ),
        };
        (kind, message.into())
    }

    /// `ctx`, for the one kind that has it.
    fn context(&self) -> Option<Value> {
        matches!(self, Self::Negative).then(|| json!({ "ge": 0 }))
    }
}

/// The offending value, for the caller to see. What has no place in a [`Value`] (nested too deep,
/// a number out of range, half a surrogate pair) is shown as the text it was sent as, and what has
/// more than `most` bytes as the beginning of that.
pub(super) fn echo(raw: &RawValue, most: usize) -> Value {
    if raw.get().len() > most {
        return shortened(raw.get()).into();
    }
    serde_json::from_str(raw.get()).unwrap_or_else(|_| raw.get().into())
}

/// The beginning of a text, with a sign that it goes on.
pub(super) fn shortened(text: &str) -> String {
    if text.len() <= SHORT_ECHO {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(SHORT_ECHO)])
}
