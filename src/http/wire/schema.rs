//! JSON schemas of what is read more leniently than its Rust type says.

use serde_json::json;
use utoipa::{
    ToSchema,
    openapi::{
        Ref, RefOr,
        schema::{AnyOfBuilder, ArrayBuilder, Object, ObjectBuilder, Schema, SchemaType, Type},
    },
};

use crate::tokenizer::MIN_LENGTH;

/// A character that [`crate::tokenizer::strip`] keeps. `\S` would not do: which characters it means
/// differs among the languages that read the schema.
const NOT_BLANK: &str =
    r"[^\u0009-\u000d\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]";

/// A reference to the schema of a type.
pub(super) fn of<T: ToSchema>() -> RefOr<Schema> {
    Ref::from_schema_name(T::name()).into()
}

/// Adds the schema of a type, and all that it refers to.
pub(super) fn collect<T: ToSchema>(all: &mut Vec<(String, RefOr<Schema>)>) {
    all.push((T::name().into_owned(), T::schema()));
    T::schemas(all);
}

/// Anything that passes for a boolean.
pub(crate) fn boolean() -> RefOr<Schema> {
    AnyOfBuilder::new()
        .item(Object::with_type(Type::Boolean))
        .item(
            ObjectBuilder::new()
                .schema_type(Type::Integer)
                .enum_values(Some([0, 1])),
        )
        .item(string(
            "^\\s*([tT][rR][uU][eE]|[fF][aA][lL][sS][eE]|[01])\\s*$",
        ))
        .item(null())
        .into()
}

/// Anything that passes for a whole number not below zero.
pub(crate) fn natural() -> RefOr<Schema> {
    AnyOfBuilder::new()
        .item(
            ObjectBuilder::new()
                .schema_type(Type::Integer)
                .minimum(Some(0)),
        )
        .item(Object::with_type(Type::Boolean))
        .item(string("^[0-9]+$"))
        .item(null())
        .into()
}

/// A number of tokens, or -1.
pub(crate) fn tokens() -> RefOr<Schema> {
    AnyOfBuilder::new()
        .item(
            ObjectBuilder::new()
                .schema_type(Type::Integer)
                .minimum(Some(-1)),
        )
        .item(Object::with_type(Type::Boolean))
        .item(string("^([0-9]+|-1)$"))
        .item(null())
        .into()
}

/// A number of tokens that leaves room for text.
pub(crate) fn prompt_tokens() -> RefOr<Schema> {
    let no_limit = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .enum_values(Some([-1, 0]));
    let limit = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(MIN_LENGTH));
    let no = ObjectBuilder::new()
        .schema_type(Type::Boolean)
        .enum_values(Some([false]));
    AnyOfBuilder::new()
        .item(no_limit)
        .item(limit)
        .item(no)
        .item(string("^(0|-1|[89]|[1-9][0-9]+)$"))
        .item(null())
        .into()
}

/// An end of a text.
pub(crate) fn side() -> RefOr<Schema> {
    AnyOfBuilder::new()
        .item(string("^([lL][eE][fF][tT]|[rR][iI][gG][hH][tT])$"))
        .item(null())
        .into()
}

/// A list of texts, at least one.
pub(crate) fn texts() -> RefOr<Schema> {
    let text = AnyOfBuilder::new()
        .item(Object::with_type(Type::String))
        .item(null());
    ArrayBuilder::new().items(text).min_items(Some(1)).into()
}

/// A text, or an object that holds one.
pub(crate) fn passage() -> RefOr<Schema> {
    text_or_object(Object::with_type(Type::String))
}

/// A text that is not blank.
pub(crate) fn query() -> RefOr<Schema> {
    text_or_object(string(NOT_BLANK))
}

/// A text that is not blank.
pub(crate) fn query_text() -> RefOr<Schema> {
    string(NOT_BLANK).into()
}

fn text_or_object(text: Object) -> RefOr<Schema> {
    let kind = AnyOfBuilder::new().item(string("^text$")).item(null());
    let part = ObjectBuilder::new()
        .property("type", kind)
        .property("text", text.clone())
        .required("text");
    let content = AnyOfBuilder::new()
        .item(text.clone())
        .item(ArrayBuilder::new().items(part).min_items(Some(1)));
    let with_text = ObjectBuilder::new()
        .property("text", text.clone())
        .required("text");
    let with_content = ObjectBuilder::new()
        .property("text", null())
        .property("content", content)
        .required("content");
    AnyOfBuilder::new()
        .item(text)
        .item(with_text)
        .item(with_content)
        .into()
}

/// A list of passages, at least one.
pub(crate) fn list_of_passages() -> RefOr<Schema> {
    ArrayBuilder::new()
        .items(passage())
        .min_items(Some(1))
        .into()
}

/// A list of strings, at least one.
pub(crate) fn strings() -> RefOr<Schema> {
    let list = ArrayBuilder::new().items(Object::with_type(Type::String));
    list.min_items(Some(1)).into()
}

/// A string.
pub(crate) fn text() -> RefOr<Schema> {
    Object::with_type(Type::String).into()
}

/// What NVIDIA's `truncate` may be.
pub(crate) fn truncate() -> RefOr<Schema> {
    AnyOfBuilder::new()
        .item(string("^([nN][oO][nN][eE]|[eE][nN][dD])$"))
        .item(null())
        .into()
}

/// Any value.
pub(crate) fn any() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(SchemaType::AnyValue)
        .into()
}

/// One of two.
pub(super) fn either(one: RefOr<Schema>, other: RefOr<Schema>) -> RefOr<Schema> {
    AnyOfBuilder::new().item(one).item(other).into()
}

/// A request of TEI's `/predict`: a pair of texts, or a list of pairs.
pub(super) fn predict_request() -> RefOr<Schema> {
    let pair = || {
        let texts = ArrayBuilder::new().items(Object::with_type(Type::String));
        texts.min_items(Some(2)).max_items(Some(2))
    };
    let pairs = ArrayBuilder::new().items(pair()).min_items(Some(1));
    ObjectBuilder::new()
        .property("inputs", either(pair().into(), pairs.into()))
        .property("truncate", boolean())
        .property("truncation_direction", side())
        .property("raw_scores", boolean())
        .required("inputs")
        .into()
}

/// A request of DashScope.
pub(super) fn dashscope_request() -> RefOr<Schema> {
    let item = AnyOfBuilder::new().item(passage()).item(null());
    let documents = ArrayBuilder::new().items(item).min_items(Some(1));
    let input = ObjectBuilder::new()
        .property("query", query())
        .property("documents", documents)
        .required("query")
        .required("documents");
    let parameters = ObjectBuilder::new()
        .property("top_n", natural())
        .property("return_documents", boolean());
    ObjectBuilder::new()
        .property("input", input)
        .property("parameters", either(parameters.into(), null().into()))
        .required("input")
        .into()
}

/// Names of fields, or nothing.
pub(crate) fn names() -> RefOr<Schema> {
    let names = ArrayBuilder::new().items(Object::with_type(Type::String));
    AnyOfBuilder::new().item(names).item(null()).into()
}

/// A list of those, at least one, or one alone.
pub(crate) fn passages() -> RefOr<Schema> {
    let list = ArrayBuilder::new().items(passage()).min_items(Some(1));
    AnyOfBuilder::new().item(list).item(passage()).into()
}

/// A list of texts, in which a null is an empty text.
pub(crate) fn documents() -> RefOr<Schema> {
    let item = AnyOfBuilder::new().item(passage()).item(null());
    let list = ArrayBuilder::new().items(item).min_items(Some(1));
    AnyOfBuilder::new().item(list).item(passage()).into()
}

/// A document in an answer: an object with its text, or on `/infinity/rerank` the text.
pub(crate) fn echo() -> RefOr<Schema> {
    let object = ObjectBuilder::new()
        .property(
            "text",
            ObjectBuilder::new().schema_type(SchemaType::AnyValue),
        ) // as it came
        .required("text");
    AnyOfBuilder::new()
        .item(Object::with_type(Type::String))
        .item(object)
        .into()
}

/// A list of documents of `RAGFab`, at least one.
pub(crate) fn ragfab_documents() -> RefOr<Schema> {
    let list = ArrayBuilder::new().items(ragfab_document());
    list.min_items(Some(1)).into()
}

/// A document of `RAGFab`: its text, and whatever else there is.
fn ragfab_document() -> RefOr<Schema> {
    ObjectBuilder::new()
        .property("content", Object::with_type(Type::String))
        .required("content")
        .into()
}

/// A document of RAGFab's format in an answer.
pub(crate) fn ragfab_ranked() -> RefOr<Schema> {
    let score = ObjectBuilder::new()
        .schema_type(Type::Number)
        .minimum(Some(0))
        .maximum(Some(1))
        .description(Some("How well the document answers, from 0 to 1."));
    ObjectBuilder::new()
        .property("content", Object::with_type(Type::String))
        .property("rerank_score", score)
        .required("content")
        .required("rerank_score")
        .into()
}

/// vLLM's score request: one of the pairs of fields.
pub(crate) fn score_request() -> RefOr<Schema> {
    let pair = |first: &str, second: &str| {
        ObjectBuilder::new()
            .property(first, passages())
            .property(second, passages())
            .property("raw_scores", boolean())
            .property("use_activation", boolean())
            .property("truncate_prompt_tokens", prompt_tokens())
            .required(first)
            .required(second)
            .examples([json!({ first: "Where is Paris?", second: ["Paris is in France.", "Lyon is too."] })])
    };
    AnyOfBuilder::new()
        .item(pair("text_1", "text_2"))
        .item(pair("queries", "documents"))
        .into()
}

fn string(pattern: &str) -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(pattern))
        .build()
}

fn null() -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::Null))
        .build()
}
