//! From bytes to JSON: what is not JSON is refused as `FastAPI` 0.115 refused it, whatever format
//! was meant (`get_request_handler` in `fastapi/routing.py`).

use serde_json::{Value, json, value::RawValue};

use super::{
    json::{Members, members},
    reason::Reason,
    violation::{MAX_ECHO, Problem, Violation, echo, shortened},
};

/// The JSON object of a body, as a whole and by its members.
pub(super) fn read<'a>(
    content_type: Option<&str>,
    body: &'a [u8],
) -> Result<(&'a RawValue, Members<'a>), Reason> {
    check_content_type(content_type, body)?;
    let raw = json(body)?;
    let members = members(raw).map_err(|problem| of_body(problem, echo(raw, MAX_ECHO)))?;
    Ok((raw, members))
}

/// Refuses what is not sent as JSON, given the `Content-Type` header if there is one.
///
/// An absent or empty header means JSON; `application/json` and `application/*+json` are JSON
/// whatever their parameters; of any other type the body is taken as a plain string, and a string
/// is no request.
fn check_content_type(header: Option<&str>, body: &[u8]) -> Result<(), Reason> {
    let header = header.unwrap_or_default();
    if header.is_empty() || is_json(header) {
        return Ok(());
    }
    if body.is_empty() {
        return Err(no_body());
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(MAX_ECHO)]);
    let echo = if body.len() > MAX_ECHO {
        shortened(&text)
    } else {
        text.into_owned()
    };
    Err(of_body(Problem::NotSentAsJson, echo.into()))
}

/// Python's `email.message` reads the header: case does not matter, and neither do parameters.
fn is_json(header: &str) -> bool {
    let essence = header.split(';').next().unwrap_or_default();
    let essence = essence.trim().to_ascii_lowercase();
    essence
        .strip_prefix("application/")
        .is_some_and(|subtype| !subtype.contains('/') && is_json_subtype(subtype))
}

/// `json`, or a structured syntax suffix as in `application/vnd.api+json`.
fn is_json_subtype(subtype: &str) -> bool {
    subtype == "json" || subtype.ends_with("+json")
}

fn json(body: &[u8]) -> Result<&RawValue, Reason> {
    if body.is_empty() {
        return Err(no_body());
    }
    let text = str::from_utf8(body).map_err(|error| Reason::Undecodable {
        valid_up_to: error.valid_up_to(),
    })?;
    // Python's `json.loads` strips the byte order mark too.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| malformed(&error))?;
    if raw.get() == "null" {
        return Err(no_body());
    }
    Ok(raw)
}

/// No body, or a null: `FastAPI` has `None` for both.
fn no_body() -> Reason {
    of_body(Problem::Missing, Value::Null)
}

/// The violation that a body makes which is not JSON. `FastAPI`'s `input` is `{}` there.
fn malformed(error: &serde_json::Error) -> Reason {
    of_body(Problem::Malformed(format!("not JSON: {error}")), json!({}))
}

/// The rejection of a body as a whole.
fn of_body(problem: Problem, input: Value) -> Reason {
    Reason::Invalid(vec![Violation::of_body(problem, input)])
}
