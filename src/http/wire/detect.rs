//! Which format a body is in. Paths decide first; `/rerank` takes several formats, which are told
//! apart by the body:
//!
//! On the paths of [`results`], [`mixedbread`] and [`dashscope`] are known by their `input`, and
//! [`voyage`] by `truncation`, or by `top_k` without `top_n`. On `/rerank`, `property` means
//! [`weaviate`]; for the others these rules hold:
//!
//! | rule | body | format |
//! |---|---|---|
//! | 1 | `texts` and no `documents`, or an empty list of them | [`tei`] |
//! | 2 | `texts` beside `documents` | as without `texts`, a key of [`results`] then |
//! | 3 | the first of `documents` is an object with the seven fields of the old service | [`ragfab`] |
//! | 4 | a key at the top level that only [`results`] has | [`results`] |
//! | 5 | the first of `documents` is an object without `text` whose `content`, if any, is not a list of parts; or there is none | [`ragfab`] |
//! | 6 | any other object, a string or a null is the first, or `documents` itself | [`results`] |
//! | 7 | anything else | refused in words that clients of all formats find |

use serde_json::value::RawValue;

use super::{
    dashscope::{self, is_dashscope},
    format::Format,
    hugging_face,
    json::{Members, begins_with_null, first, is_empty_list, members},
    mixedbread::{self, is_mixedbread},
    nim, predict,
    ragfab::{self, is_original},
    results::{self, has_own_key},
    route::{Family, Route},
    score, tei,
    voyage::{self, is_voyage},
    weaviate::{self, is_weaviate},
};

/// The format of a body that is in none. What the old service would have said of it is as good as
/// anything.
const UNKNOWN: Format = Format {
    family: Family::Unknown,
    ..ragfab::FORMAT
};

impl Route {
    /// The formats that a path takes; the first is the one that people try out.
    pub(crate) fn formats(self) -> &'static [&'static Format] {
        match self {
            Self::Any => &[
                &ragfab::FORMAT,
                &tei::FORMAT,
                &results::FORMAT,
                &weaviate::FORMAT,
            ],
            Self::Results => &[
                &results::FORMAT,
                &tei::FORMAT,
                &voyage::FORMAT,
                &mixedbread::FORMAT,
                &dashscope::FORMAT,
            ],
            Self::Infinity => &[&results::FORMAT, &tei::FORMAT],
            Self::Tei => &[&tei::FORMAT],
            Self::Score => &[&score::FORMAT],
            Self::Nim => &[&nim::FORMAT],
            Self::HuggingFace => &[&hugging_face::FORMAT],
            Self::Dashscope => &[&dashscope::FORMAT, &results::FORMAT],
            Self::Predict => &[&predict::FORMAT],
        }
    }
}

/// The format of a body that came to a path.
pub(super) fn detect(route: Route, body: &Members<'_>) -> &'static Format {
    let results = match route {
        Route::Tei => return &tei::FORMAT,
        Route::Score => return &score::FORMAT,
        Route::Nim => return &nim::FORMAT,
        Route::HuggingFace => return &hugging_face::FORMAT,
        Route::Predict => return &predict::FORMAT,
        Route::Results | Route::Dashscope if is_dashscope(body) => return &dashscope::FORMAT,
        Route::Results if is_mixedbread(body) => return &mixedbread::FORMAT,
        Route::Any if is_weaviate(body) => return &weaviate::FORMAT,
        Route::Infinity => &results::WITH_STRINGS,
        Route::Any | Route::Results | Route::Dashscope => &results::FORMAT,
    };
    let documents = body.some("documents");
    let texts = body.some("texts");
    if texts.is_some() && documents.is_none_or(is_empty_list) {
        return &tei::FORMAT;
    }
    if route == Route::Results && is_voyage(body) {
        return &voyage::FORMAT;
    }
    if route != Route::Any {
        return results;
    }
    let Some(documents) = documents else {
        return &UNKNOWN;
    };
    let has_results_key = texts.is_some() || has_own_key(body);
    detect_documents(documents, has_results_key)
}

/// Rules 3 to 7, which look at the first document.
fn detect_documents(documents: &RawValue, has_results_key: bool) -> &'static Format {
    let results = &results::FORMAT;
    if is_empty_list(documents) {
        return if has_results_key {
            results
        } else {
            &ragfab::FORMAT
        };
    }
    if begins_with_null(documents) {
        return results;
    }
    // Of a list the first item tells; vLLM takes a document without one.
    match first(documents).unwrap_or(documents).get().as_bytes()[0] {
        b'"' => results,
        b'{' => match first(documents).map(members) {
            Some(Ok(document)) if is_original(&document) => &ragfab::FORMAT,
            Some(Ok(document)) if !has_results_key && is_content_only(&document) => &ragfab::FORMAT,
            _ => results,
        },
        _ => &UNKNOWN,
    }
}

/// Whether an object has no text but under `content`, where it is not a list of parts.
fn is_content_only(document: &Members<'_>) -> bool {
    let content = document.get("content");
    let has_parts = content.is_some_and(|content| content.get().starts_with('['));
    document.get("text").is_none() && !has_parts
}
