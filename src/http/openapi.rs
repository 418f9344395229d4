//! The description of the API, made from the routes and the types that serve them.

use serde_json::{Value, json};
use utoipa::{
    ToSchema,
    openapi::{
        ComponentsBuilder, ContentBuilder, HttpMethod, InfoBuilder, LicenseBuilder, OpenApi,
        OpenApiBuilder, PathItem, PathsBuilder, Ref, RefOr, Required, ResponseBuilder, Schema, Tag,
        path::{Operation, OperationBuilder, ParameterBuilder, ParameterIn},
        request_body::RequestBodyBuilder,
        schema::{AnyOfBuilder, ArrayBuilder, ObjectBuilder, OneOfBuilder, Type},
        security::{
            ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
        },
    },
};

use super::{
    scoring::SCORING,
    status, tokenize,
    wire::{self, Route, Schemas},
};

const DESCRIPTION: &str = "Orders passages by how well they answer a query. Speaks the formats of RAGFab, \
text-embeddings-inference, Cohere, Jina, vLLM, Infinity and llama.cpp; `/rerank` tells them apart by the body.";

/// Why a request with texts may be refused, by status.
const REFUSALS: [(&str, &str); 10] = [
    (
        "400",
        "A blank query, no documents, or a body that is not text",
    ),
    ("401", "No valid API key"),
    ("408", "The body did not arrive in time"),
    (
        "413",
        "More bytes, documents or characters than the server takes",
    ),
    ("415", "A content encoding that the server does not read"),
    ("422", "Not a request of this format"),
    (
        "429",
        "The queue is full; `Retry-After` says when to come back",
    ),
    ("500", "The model failed"),
    (
        "503",
        "The model is loading, or the server is full or stopping; `Retry-After` says when to come back",
    ),
    ("504", "No answer within the deadline"),
];

/// The document.
pub(super) fn document() -> OpenApi {
    let info = InfoBuilder::new()
        .title("reranker")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(LicenseBuilder::new().name("MIT").build()));
    let mut paths = PathsBuilder::new();
    for (path, route) in SCORING {
        paths = paths.path(path, PathItem::new(HttpMethod::Post, scoring(path, route)));
    }
    let tokens = PathItem::new(HttpMethod::Post, tokens());
    paths = paths.path(tokenize::PATH, tokens);
    for (path, item) in telling() {
        paths = paths.path(path, item);
    }
    OpenApiBuilder::new()
        .info(info)
        .paths(paths)
        .components(Some(components().build()))
        .tags(Some([Tag::new("Scoring"), Tag::new("Server")]))
        .security(Some([
            SecurityRequirement::default(),
            SecurityRequirement::new("bearer", Vec::<String>::new()),
            SecurityRequirement::new("x-api-key", Vec::<String>::new()),
        ]))
        .build()
}

/// A path that scores.
fn scoring(path: &str, route: Route) -> Operation {
    asking(path, summary(route), request(route), example(route))
        .response("200", json_response("The scores", response(route)))
        .build()
}

/// The path that gives tokens.
fn tokens() -> Operation {
    let summary = "The tokens of texts, as text-embeddings-inference gives them";
    let example = json!({ "inputs": "How do I reset my password?" });
    let request = wire::tokenize::request_schema();
    let response = wire::tokenize::response_schema();
    asking(tokenize::PATH, summary, request, example)
        .response(
            "200",
            json_response("A list of tokens for each text", response),
        )
        .build()
}

/// A path that is sent texts, with all answers but the good one.
fn asking(path: &str, summary: &str, request: RefOr<Schema>, example: Value) -> OperationBuilder {
    let body = RequestBodyBuilder::new()
        .content("application/json", content(request, Some(example)))
        .required(Some(Required::True));
    let mut operation = OperationBuilder::new()
        .operation_id(Some(operation_id("post", path)))
        .summary(Some(summary))
        .tag("Scoring")
        .request_body(Some(body.build()));
    for (status, when) in REFUSALS {
        operation = operation.response(status, json_response(when, Ref::from_schema_name("Error")));
    }
    operation
}

fn summary(route: Route) -> &'static str {
    match route {
        Route::Any => "Rerank, in the format of the body",
        Route::Results => {
            "Rerank, as Cohere, Jina, vLLM, llama.cpp, Voyage and Mixedbread do (with `texts`: as TEI does)"
        }
        Route::Infinity => "Rerank, as Infinity does: documents come back as strings",
        Route::Tei => "Rerank, as text-embeddings-inference does",
        Route::Score => "Score pairs, as vLLM does; several queries in one request",
        Route::Nim => "Rerank, as NVIDIA's NIM does",
        Route::HuggingFace => "Rerank, as Elasticsearch's hugging_face service asks",
        Route::Dashscope => "Rerank, as DashScope does",
        Route::Predict => "Score pairs, as text-embeddings-inference does",
    }
}

/// Any of the requests that a path takes.
fn request(route: Route) -> RefOr<Schema> {
    match route.formats() {
        [only] => (only.request)(),
        formats => {
            let any = formats.iter().map(|format| (format.request)());
            any.fold(AnyOfBuilder::new(), AnyOfBuilder::item).into()
        }
    }
}

/// One of the answers that a path gives.
fn response(route: Route) -> RefOr<Schema> {
    match route.formats() {
        [only] => (only.response)(),
        formats => {
            let one = formats.iter().map(|format| (format.response)());
            one.fold(OneOfBuilder::new(), OneOfBuilder::item).into()
        }
    }
}

fn example(route: Route) -> Value {
    let query = "How do I reset my password?";
    let passages = [
        "Click on “Forgot password” on the login page.",
        "Our office is closed on Sundays.",
    ];
    (route.formats()[0].example)(query, &passages)
}

/// The paths that tell about the server.
fn telling() -> Vec<(&'static str, PathItem)> {
    vec![
        get(
            "/",
            "The service and its state; sends a browser to the playground",
            of::<status::Root>().into(),
            false,
        ),
        get(
            "/health",
            "200 once the model answers",
            of::<status::Health>().into(),
            true,
        ),
        get("/ping", "As /health", of::<status::Health>().into(), true),
        get("/meta", "As /info", of::<status::Info>().into(), true),
        ("/.well-known/ready", ready_item("/.well-known/ready")),
        ("/.well-known/live", ready_item("/.well-known/live")),
        get(
            "/info",
            "The model and the limits",
            of::<status::Info>().into(),
            true,
        ),
        get(
            "/models",
            "The model, as OpenAI lists models",
            of::<status::Models>().into(),
            true,
        ),
        get(
            "/v1/models",
            "As /models",
            of::<status::Models>().into(),
            true,
        ),
        ("/v1/models/{id}", model_item()),
        ("/metrics", metrics_item()),
    ]
}

fn get(
    path: &'static str,
    summary: &str,
    schema: RefOr<Schema>,
    loads: bool,
) -> (&'static str, PathItem) {
    let operation =
        telling_operation(path, summary).response("200", json_response(summary, schema));
    let operation = if loads {
        unless_ready(operation)
    } else {
        operation
    };
    (path, PathItem::new(HttpMethod::Get, operation.build()))
}

fn telling_operation(path: &str, summary: &str) -> OperationBuilder {
    OperationBuilder::new()
        .operation_id(Some(operation_id("get", path)))
        .summary(Some(summary))
        .tag("Server")
        .response(
            "401",
            json_response("No valid API key", Ref::from_schema_name("Error")),
        )
}

fn unless_ready(operation: OperationBuilder) -> OperationBuilder {
    let loading = json_response("The model is loading", Ref::from_schema_name("Error"));
    operation.response("503", loading)
}

fn ready_item(path: &str) -> PathItem {
    let summary = "204 once the model answers";
    let operation = telling_operation(path, summary)
        .response("204", ResponseBuilder::new().description(summary));
    PathItem::new(HttpMethod::Get, unless_ready(operation).build())
}

fn model_item() -> PathItem {
    let summary = "The model under any name, as OpenAI and Xinference describe one";
    let id = ParameterBuilder::new()
        .name("id")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .schema(Some(
            ObjectBuilder::new()
                .schema_type(Type::String)
                .min_length(Some(1)),
        ));
    let operation = telling_operation("/v1/models/{id}", summary)
        .parameter(id)
        .response("200", json_response(summary, of::<status::Model>()))
        .response(
            "404",
            json_response("A name that is no path", Ref::from_schema_name("Error")),
        )
        .response("400", plain_text("A name that is not UTF-8"));
    PathItem::new(HttpMethod::Get, unless_ready(operation).build())
}

fn metrics_item() -> PathItem {
    let summary = "Counters and histograms for Prometheus";
    let operation = telling_operation("/metrics", summary).response("200", plain_text(summary));
    PathItem::new(HttpMethod::Get, operation.build())
}

fn plain_text(description: &str) -> ResponseBuilder {
    let text = ObjectBuilder::new().schema_type(Type::String);
    let content = ContentBuilder::new().schema(Some(text)).build();
    ResponseBuilder::new()
        .description(description)
        .content("text/plain", content)
}

fn components() -> ComponentsBuilder {
    let mut schemas = Schemas::new();
    for format in SCORING.iter().flat_map(|(_, route)| route.formats()) {
        (format.schemas)(&mut schemas);
    }
    wire::tokenize::schemas(&mut schemas);
    collect::<status::Root>(&mut schemas);
    collect::<status::Health>(&mut schemas);
    collect::<status::Info>(&mut schemas);
    collect::<status::Models>(&mut schemas);
    schemas.push(("Error".to_owned(), error()));
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let header = ApiKey::Header(ApiKeyValue::new("x-api-key"));
    ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .security_scheme("bearer", SecurityScheme::Http(bearer))
        .security_scheme("x-api-key", SecurityScheme::ApiKey(header))
}

fn collect<T: ToSchema>(schemas: &mut Schemas) {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
}

/// What every client finds its own error in; see `error.rs`.
fn error() -> RefOr<Schema> {
    let string = || ObjectBuilder::new().schema_type(Type::String);
    let object = ObjectBuilder::new()
        .property("message", string())
        .property("type", string())
        .property("code", ObjectBuilder::new().schema_type(Type::Integer))
        .required("message");
    let violation = ObjectBuilder::new()
        .property("type", string())
        .property("loc", ArrayBuilder::new())
        .property("msg", string())
        .required("type")
        .required("loc")
        .required("msg");
    let detail = AnyOfBuilder::new()
        .item(string())
        .item(ArrayBuilder::new().items(violation));
    ObjectBuilder::new()
        .description(Some(
            "`detail` always; the other keys unless the request was RAGFab's.",
        ))
        .property("detail", detail)
        .property("message", string())
        .property("error", AnyOfBuilder::new().item(string()).item(object))
        .property("error_type", string())
        .required("detail")
        .into()
}

fn of<T: ToSchema>() -> Ref {
    Ref::from_schema_name(T::name())
}

fn json_response(description: &str, schema: impl Into<RefOr<Schema>>) -> ResponseBuilder {
    ResponseBuilder::new()
        .description(description)
        .content("application/json", content(schema, None))
}

fn content(schema: impl Into<RefOr<Schema>>, example: Option<Value>) -> utoipa::openapi::Content {
    ContentBuilder::new()
        .schema(Some(schema))
        .example(example)
        .build()
}

/// `post_v1_rerank`.
fn operation_id(method: &str, path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<&str> = std::iter::once(method)
        .chain(words.filter(|w| !w.is_empty()))
        .collect();
    words.join("_")
}
