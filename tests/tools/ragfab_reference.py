"""Writes tests/fixtures/requests/ragfab.json: what the old service answers, and what ours must.

The service that this one replaces is a FastAPI application. This script runs its request and
response models under FastAPI 0.115.0 and pydantic 2.10.3, sends a table of bodies, and records the
answers. Two applications take every body:

* `original`: the models and the handler's checks as they were;
* `relaxed`: the contract we keep. The models differ in two declarations (a document needs only
  `content` and keeps unknown fields; `top_k` has `ge=0`), the answer adds `rerank_score` to each
  document, and a null `top_k` means 5.

A row's `status` and `response` are those of `relaxed`, unless the row states our own. Where they
are not those of `original`, `differs` says why and `original` holds the old answer; the script
fails when a difference has no reason, or a reason no difference.

The model is a stub, so that any program can repeat its scores: the sum of the code points of
`content`, modulo 101, divided by 100. `processing_time` is always 0.125.

    python3.11 -m venv venv
    venv/bin/pip install fastapi==0.115.0 pydantic==2.10.3 httpx==0.28.1
    venv/bin/python tests/tools/ragfab_reference.py           # writes the fixture
    venv/bin/python tests/tools/ragfab_reference.py --check   # fails if it would change

Python must be 3.11, as in the old image: later versions word some JSON errors differently.
"""

import base64
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, List, Optional

import fastapi
import pydantic
from fastapi import FastAPI, HTTPException, Request
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict, Field

FIXTURE = Path(__file__).parents[1] / "fixtures" / "requests" / "ragfab.json"
MODEL = "BAAI/bge-reranker-v2-m3"
PROCESSING_TIME = 0.125
DEFAULT_TOP_K = 5
SCORE_ADDED = "rerank_score added to each document"


# --- The two applications ---------------------------------------------------------------------


class DocumentItem(BaseModel):
    chunk_id: str
    document_id: str
    document_title: str
    document_source: str
    chunk_index: int
    content: str
    similarity: float


class RerankRequest(BaseModel):
    query: str
    documents: List[DocumentItem]
    top_k: Optional[int] = DEFAULT_TOP_K


class RerankResponse(BaseModel):
    documents: List[DocumentItem]
    count: int
    model: str
    processing_time: float


class RelaxedDocument(BaseModel):
    model_config = ConfigDict(extra="allow")
    content: str


class RelaxedRequest(BaseModel):
    query: str
    documents: List[RelaxedDocument]
    top_k: Optional[Annotated[int, Field(ge=0)]] = DEFAULT_TOP_K


def stub_score(content: str) -> float:
    return sum(map(ord, content)) % 101 / 100


def check_not_blank(request) -> None:
    """The two checks that the old handler makes after validation, in its order."""
    if not request.query or not request.query.strip():
        raise HTTPException(status_code=400, detail="La query ne peut pas être vide")
    if not request.documents:
        raise HTTPException(status_code=400, detail="La liste de documents ne peut pas être vide")


def ranking(documents) -> List[int]:
    """Positions of the documents, best first; Python's sort keeps the input order of ties."""
    scores = [stub_score(document.content) for document in documents]
    return sorted(range(len(scores)), key=scores.__getitem__, reverse=True)


def original_app() -> FastAPI:
    app = FastAPI()

    @app.post("/rerank", response_model=RerankResponse)
    async def rerank(request: RerankRequest):
        check_not_blank(request)
        try:
            order = ranking(request.documents)
            top_k = min(request.top_k, len(order))
            documents = [request.documents[i] for i in order[:top_k]]
        except Exception as error:
            raise HTTPException(status_code=500, detail=str(error))
        return RerankResponse(
            documents=documents,
            count=len(documents),
            model=MODEL,
            processing_time=PROCESSING_TIME,
        )

    return app


def relaxed_app() -> FastAPI:
    app = FastAPI()

    @app.post("/rerank")
    async def rerank(request: RelaxedRequest, http: Request):
        check_not_blank(request)
        sent = (await http.json())["documents"]
        top_k = DEFAULT_TOP_K if request.top_k is None else request.top_k
        documents = [
            {**sent[i], "rerank_score": stub_score(sent[i]["content"])}
            for i in ranking(request.documents)[:top_k]
        ]
        return {
            "documents": documents,
            "count": len(documents),
            "model": MODEL,
            "processing_time": PROCESSING_TIME,
        }

    return app


# --- The table --------------------------------------------------------------------------------


@dataclass
class Row:
    name: str
    body: bytes
    content_type: Optional[str] = "application/json"
    differs: Optional[str] = None
    ours: Optional[tuple[int, Any]] = None
    """Status and response where neither application gives the answer we want."""
    as_if: Optional[str] = None
    """The body whose answer by `relaxed` is the one we want."""


def row(name: str, body: Any, **options) -> Row:
    """A body is given as bytes, as JSON text, or as a value to be dumped."""
    if not isinstance(body, (bytes, str)):
        body = json.dumps(body, ensure_ascii=False)
    if isinstance(body, str):
        body = body.encode()
    return Row(name, body, **options)


def full(content: str = "alpha", **changes) -> dict:
    """A document with the seven fields of the original."""
    document = {
        "chunk_id": "c1",
        "document_id": "d1",
        "document_title": "Guide.pdf",
        "document_source": "/docs/guide.pdf",
        "chunk_index": 5,
        "content": content,
        "similarity": 0.85,
    }
    return {**document, **changes}


def request(*documents, **changes) -> dict:
    return {"query": "Quel traitement ?", "documents": list(documents) or [full()], **changes}


def with_top_k(literal: str) -> str:
    """A body whose `top_k` is this piece of JSON, not rewritten by `json.dumps`."""
    return json.dumps(request(full("b"), full("c"), full("a")))[:-1] + f', "top_k": {literal}}}'


def violation(kind: str, loc: list, msg: str, value: Any, **ctx) -> tuple[int, Any]:
    entry = {"type": kind, "loc": ["body", *loc], "msg": msg, "input": value}
    if ctx:
        entry["ctx"] = ctx
    return 422, {"detail": [entry]}


def malformed(offset: int, error: str) -> tuple[int, Any]:
    return violation("json_invalid", [offset], "JSON decode error", {}, error=error)


CONTENT_ONLY = "only content is required of a document"
UNTYPED = "fields other than content are passed through, whatever their type"
ECHOED = "unknown fields are returned"
UNCHANGED = "fields are returned as they came, not coerced"
NULL_TOP_K = "a null top_k means 5; the original fails on it"
NEGATIVE = "a negative top_k is refused; the original cuts off the tail"
NO_TEXT = "half a surrogate pair is no text; the original fails on it"
NO_NUMBER = "NaN and Infinity are not JSON; the original takes them, and may fail on the answer"
BAD_UNICODE = (
    "string_unicode",
    "Input should be a valid string, unable to parse raw data as a unicode string",
)


def lone_surrogate(loc: list, sent: str) -> tuple[int, Any]:
    """What has half a surrogate pair is shown to the caller as the text it was sent as."""
    kind, msg = BAD_UNICODE
    return violation(kind, loc, msg, sent)


def valid_rows() -> list[Row]:
    abc = [full(content, chunk_id=content) for content in ["b", "c", "a"]]
    seven = [full(content, chunk_id=content) for content in "dafbgce"]
    ties = [full("x", chunk_id="1"), full("y", chunk_id="2"), full("x", chunk_id="3")]
    return [
        row("one document", request()),
        row("best first", request(*abc)),
        row("ties keep the input order", request(*ties)),
        row("top_k defaults to 5", request(*seven)),
        row("top_k", request(*abc, top_k=2)),
        row("top_k beyond the documents", request(*abc, top_k=99)),
        row("top_k zero", request(*abc, top_k=0)),
        row("top_k null", request(*seven, top_k=None), differs=NULL_TOP_K),
        row("unknown top level fields are ignored", request(model="x", return_documents=True)),
        row("blank content", request(full(" \t"), full(""))),
        row("accents and astral characters", request(full("café 😀"), query="où ? 😀")),
        row("unicode escapes",
            rb'{"query":"\u00e9","documents":[{"content":"\ud83d\ude00\u0000"}]}',
            differs=CONTENT_ONLY),
        row("content only", request({"content": "x"}), differs=CONTENT_ONLY),
        row("metadata", request(full(metadata={"page": 3, "tags": ["a", None], "deep": {"x": {}}})),
            differs=ECHOED),
        row("unknown fields of every type",
            request(full(a=None, b=True, c=[], d={}, e=1.5, f="s", g=-3)), differs=ECHOED),
        row("incoming rerank_score is replaced", request(full(rerank_score=0.123)),
            differs="rerank_score is ours, not the caller's"),
        row("other fields of other types", request(full(chunk_id=12, document_title=None)),
            differs=UNTYPED),
        row("chunk_index null", request(full(chunk_index=None)), differs=UNTYPED),
        row("chunk_index fractional", request(full(chunk_index=2.5)), differs=UNTYPED),
        row("similarity as a string", request(full(similarity="0.25")), differs=UNCHANGED),
        row("similarity as an integer", request(full(similarity=1))),
        row("chunk_index as a string", request(full(chunk_index="7")), differs=UNCHANGED),
        row("chunk_index as a float", request(full(chunk_index=3.0))),
        row("repeated query", rb'{"query":"","documents":[{"content":"x"}],"query":"q"}',
            differs=CONTENT_ONLY),
        row("repeated content", rb'{"query":"q","documents":[{"content":"x","content":"y"}]}',
            differs=CONTENT_ONLY),
        row("repeated content under an escape",
            rb'{"query":"q","documents":[{"content":1,"\u0063ontent":"y"}]}',
            differs=CONTENT_ONLY),
        row("white space around everything",
            '\r\n {"query" :\t"q", "documents": [ { "content" : "x" } ] }\n', differs=CONTENT_ONLY),
        row("byte order mark", b"\xef\xbb\xbf" + json.dumps(request()).encode()),
        row("large numbers", request(full(big=12345678901234567890123, small=-1e-300)),
            differs=ECHOED),
        row("number in exponent form", b'{"query":"q","documents":[{"content":"x","n":1e5}]}',
            differs=CONTENT_ONLY),
        row("broken text in an ignored field",
            rb'{"query":"q","documents":[{"content":"x"}],"x":"\ud800","\udc00":1}',
            differs=CONTENT_ONLY),
    ]


def blank_rows() -> list[Row]:
    blanks = {
        "empty": "",
        "spaces": "   ",
        "ASCII white space": "\t\n\x0b\x0c\r",
        "ASCII separators": "\x1c\x1d\x1e\x1f",
        "Unicode white space": "\x85\xa0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000",
    }
    solid = {"zero width space": "\u200b", "byte order mark": "\ufeff", "NUL": "\0", "dash": " - "}
    return [
        *(row(f"blank query: {name}", request(query=query)) for name, query in blanks.items()),
        *(row(f"not blank: {name}", request(query=query)) for name, query in solid.items()),
        row("no documents", {"query": "q", "documents": []}),
        row("blank query before no documents", {"query": " ", "documents": []}),
        row("blank query after validation", {"query": "", "documents": [1]}),
        row("no documents after validation", {"query": "q", "documents": [], "top_k": "x"}),
        row("blank query with a bad top_k", {"query": "", "documents": [], "top_k": 2.5}),
    ]


def top_k_rows() -> list[Row]:
    same = [
        '"2"', "2.0", '"2.0"', '"2.00"', '" 2 "', '"+2"', '"002"',
        '"+00"', '"-0"', "-0", "-0.0", '"-0.0"', "true", "false", "2e0", "20e-1",
        "9223372036854775807", "9223372036854775808", '"99999999999999999999999"',
        r'"\u00a02\u3000"', "9007199254740993.0",
        "2.5", '"2.5"', '"2."', '".0"', '""', '" "', '"x"', '"1e2"', '"0x2"', '"1__0"', '"_1"',
        '"1_"', '"0_"', '"1_.0"', '"2.0_0"', '"1 0"', '"--1"', '"+-1"', r'"\u0662"', r'"\u001c2"',
        r'"\ufeff2"', r'"2\u0000"', '"true"', '"null"', "1e20", "-1e20", "1e300", "[]", "[2]", "{}",
        '{"a": [1, 2.5, null]}',
        '"' + "0" * 4301 + '1"',
    ]  # fmt: skip
    negative = ["-1", "-2", "-1.0", '"-1"', '"-2.0"', "-99999999999999999999999"]
    no_integer = violation(
        "int_parsing",
        ["top_k"],
        "Input should be a valid integer, unable to parse string as an integer",
        "0-0",
    )
    too_large = violation("finite_number", ["top_k"], "Input should be a finite number", "1e400")
    return [
        *(row(f"top_k {label(literal)}", with_top_k(literal)) for literal in same),
        *(row(f"top_k {label(text)}", with_top_k(text), differs=NEGATIVE) for text in negative),
        row("top_k 1e400", with_top_k("1e400"), ours=too_large,
            differs="the original fails on sending the infinity back"),
        row("top_k of 4301 digits", with_top_k("1" * 4301),
            as_if=with_top_k("99"), differs="a number of any length is as good as no limit"),
        row("top_k 0-0", with_top_k('"0-0"'), ours=no_integer,
            differs="a slip of the original, which reads a minus sign after leading zeros"),
        row("top_k half a surrogate pair", with_top_k(r'"\ud800"'),
            ours=lone_surrogate(["top_k"], r'"\ud800"'), differs=NO_TEXT),
    ]


def label(literal: str) -> str:
    return literal if len(literal) <= 30 else f"{literal[:8]}… of {len(literal)} characters"


def invalid_rows() -> list[Row]:
    query_only = {"query": "q"}
    return [
        row("query missing", {"documents": [full()]}),
        row("documents missing", query_only),
        row("everything missing", {}),
        row("everything missing but top_k", {"top_k": "x"}),
        row("query null", request(query=None)),
        row("query number", request(query=1)),
        row("query list", request(query=["q"])),
        row("query boolean", request(query=False)),
        row("documents null", {**query_only, "documents": None}),
        row("documents string", {**query_only, "documents": "x"}),
        row("documents object", {**query_only, "documents": {"content": "x"}}),
        row("documents number", {**query_only, "documents": 1.5}),
        row("document string", request("x")),
        row("document null", request(None)),
        row("document list", request([full()])),
        row("document number", request(1)),
        row("document empty", request({}), differs=CONTENT_ONLY),
        row("content missing", request({"text": "x"}), differs=CONTENT_ONLY),
        row("content missing from a full document",
            request({k: v for k, v in full().items() if k != "content"})),
        row("content null", request(full(content=None))),
        row("content number", request(full(content=1))),
        row("content list", request(full(content=["x"]))),
        row("content object", request(full(content={"a": 1}))),
        row("several violations in order",
            {"top_k": [], "documents": [full(), 1, full(content=2), {"content": None}], "query": 3},
            differs=CONTENT_ONLY),
        row("body null", "null"),
        row("body list", "[1]"),
        row("body string", '"x"'),
        row("body number", "1"),
        row("body true", "true"),
        row("query half a surrogate pair", rb'{"query":"\ud800","documents":[{"content":"x"}]}',
            ours=lone_surrogate(["query"], r'"\ud800"'), differs=NO_TEXT),
        row("content half a surrogate pair", rb'{"query":"q","documents":[{"content":"a\udc00"}]}',
            ours=lone_surrogate(["documents", 0, "content"], r'"a\udc00"'), differs=NO_TEXT),
        row("field name half a surrogate pair",
            rb'{"query":"q","documents":[{"content":"x","\ud800":1}]}',
            ours=lone_surrogate(["documents", 0], r'{"content":"x","\ud800":1}'), differs=NO_TEXT),
    ]


def content_type_rows() -> list[Row]:
    accepted = [
        None, "", "application/json; charset=utf-8", "Application/JSON", " application/json ;x=1",
        "application/vnd.api+json", "application/+json",
    ]  # fmt: skip
    refused = [
        "text/plain", "text/json", "application/x-www-form-urlencoded", "application/jsonx",
        "application/json, text/plain", "application/json/x", "json", "multipart/form-data",
    ]  # fmt: skip
    good = request()
    return [
        *(row(f"content type {kind}", good, content_type=kind) for kind in accepted),
        *(row(f"content type {kind}", good, content_type=kind) for kind in refused),
        row("content type text/plain, empty body", b"", content_type="text/plain"),
        row("content type text/plain, not JSON", "query=é", content_type="text/plain"),
    ]


def no_number(literal: str, body: str) -> Row:
    ours = malformed(body.index(literal), "Expecting value")
    return row(f"number {literal}", body, ours=ours, differs=NO_NUMBER)


def malformed_rows() -> list[Row]:
    bodies = [
        " ", "\n\n", "{", "[", "x", "nul", "tru", "-", "+1", ".5", "01", "1.", "1e", "'a'",
        "undefined", '"\\u00e9',
        '{"query"', '{"query":', '{"query":}', '{"query" "x"}', '{"query":"x"', '{"query":"x",',
        '{"query":"x",}', '{"query":"x" "documents":[]}', '{query:"x"}', "{'query':'x'}", "{,}",
        '{"query":"x"}}', '{"query":"x"} {}', '{"query":"x"}x', "[1,]", "[1", "[1 2]", "[,]", "[1,",
        '{"documents":[{"content":"x"]}', '{"a":[1}', '{"query":"x', '"', '"\\', '"\\u', '"\\u12',
        '"\\u12"', '"\\u12G4"', '"\\ud800\\u12"', '"\\x"', '{"query":"a\\qb"}', '{"query":"a\nb"}',
        '{"query":"tab\there"}', '"a\0b"', '{"é😀":x}', '{"query":"é😀"\n x}', "\u00a0{}", "/*x*/{}",
        '{"a":1 /*x*/}', "<html>", "query=x&top_k=1", '{"a":\n\n}', "\ufeff\ufeff{}",
    ]  # fmt: skip
    parse_error = 400, {"detail": "There was an error parsing the body"}
    utf16 = "neither UTF-16 nor UTF-32 is read"
    return [
        row("empty body", b""),
        row("empty body without content type", b"", content_type=None),
        row("byte order mark alone", b"\xef\xbb\xbf"),
        *(row(f"malformed {body!r}", body) for body in bodies),
        no_number("NaN", with_top_k("NaN")),
        no_number("-Infinity", '{"query":"q","documents":[{"content":"x","a":-Infinity}]}'),
        row("invalid UTF-8", b'{"query":"\xff\xfe"}'),
        row("Latin-1", '{"query":"é"}'.encode("latin-1")),
        row("truncated UTF-8", '{"query":"é'.encode()[:-1]),
        row("surrogate in UTF-8", b'{"query":"\xed\xa0\x80","documents":[{"content":"x"}]}',
            ours=parse_error, differs="the body is not UTF-8; the original lets surrogates pass"),
        row("UTF-16 with a mark", json.dumps(request()).encode("utf-16"), ours=parse_error,
            differs=utf16),
        row("UTF-16 without a mark", '{"query":"q"}'.encode("utf-16-le"), differs=utf16,
            ours=malformed(1, "Expecting property name enclosed in double quotes")),
        row("deep nesting unclosed", "[" * 2000, ours=malformed(2000, "Expecting value"),
            differs="depth is not limited; the original gives up at about 1000"),
        row("deep nesting", '{"query":"q","documents":' + "[" * 100 + "]" * 100 + "}"),
    ]


ROWS = [
    *valid_rows(),
    *blank_rows(),
    *top_k_rows(),
    *invalid_rows(),
    *content_type_rows(),
    *malformed_rows(),
]


# --- Running it -------------------------------------------------------------------------------


def answer(client: TestClient, sent: Row) -> tuple[int, Any]:
    headers = {} if sent.content_type is None else {"content-type": sent.content_type}
    response = client.post("/rerank", content=sent.body, headers=headers)
    try:
        return response.status_code, response.json()
    except json.JSONDecodeError:
        return response.status_code, response.text


def without_scores(response: Any) -> Any:
    documents = [
        {name: value for name, value in document.items() if name != "rerank_score"}
        for document in response["documents"]
    ]
    return {**response, "documents": documents}


def differences(sent: Row, ours: tuple[int, Any], original: tuple[int, Any]) -> Optional[str]:
    """The reasons of a row, after a check that it has one exactly when it needs one."""
    if ours == original:
        assert sent.differs is None, f"{sent.name}: a reason without a difference"
        return None
    both_ok = ours[0] == original[0] == 200
    if both_ok and without_scores(ours[1]) == original[1] and sent.differs is None:
        return SCORE_ADDED
    assert sent.differs is not None, f"{sent.name}: {ours} is not {original}"
    return f"{sent.differs}; {SCORE_ADDED}" if ours[0] == 200 else sent.differs


def record(sent: Row, original: TestClient, relaxed: TestClient) -> dict:
    theirs = answer(original, sent)
    relaxed_row = replace(sent, body=sent.as_if.encode()) if sent.as_if else sent
    status, response = ours = sent.ours or answer(relaxed, relaxed_row)
    assert status != 500, f"{sent.name}: ours must not fail"
    entry = {"name": sent.name, "content_type": sent.content_type}
    try:
        entry["body"] = sent.body.decode()
    except UnicodeDecodeError:
        entry["body_base64"] = base64.b64encode(sent.body).decode()
    entry |= {"status": status, "response": response}
    if reason := differences(sent, ours, theirs):
        entry["differs"] = reason
        if reason != SCORE_ADDED:
            entry["original"] = {"status": theirs[0], "response": theirs[1]}
    return entry


def main() -> None:
    assert sys.version_info[:2] == (3, 11), "the old image has Python 3.11"
    assert fastapi.__version__ == "0.115.0" and pydantic.VERSION == "2.10.3"
    assert len({row.name for row in ROWS}) == len(ROWS), "row names must be unique"
    original = TestClient(original_app(), raise_server_exceptions=False)
    relaxed = TestClient(relaxed_app(), raise_server_exceptions=False)
    entries = [json.dumps(record(row, original, relaxed)) for row in ROWS]
    text = "[\n" + ",\n".join(entries) + "\n]\n"
    if "--check" in sys.argv[1:]:
        assert FIXTURE.read_text() == text, f"{FIXTURE} is out of date"
    else:
        FIXTURE.parent.mkdir(parents=True, exist_ok=True)
        FIXTURE.write_text(text)
    n_marked = sum('"differs": ' in entry for entry in entries)
    print(f"{len(entries)} rows, {n_marked} marked")


if __name__ == "__main__":
    main()
