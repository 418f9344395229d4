"""LangChain's two compressors that can be pointed at a server."""

import asyncio

import cohere
import pytest
from infinity_client.client import Client
from infinity_client.errors import UnexpectedStatus
from langchain_cohere import CohereRerank
from langchain_community.document_compressors.infinity_rerank import InfinityRerank
from langchain_core.documents import Document
from support import PASSAGES, QUERY, TOO_MANY, assert_same, by_text

DOCUMENTS = [Document(page_content=text, metadata={"page": i}) for i, text in enumerate(PASSAGES)]


def from_cohere(url: str, key: str = "any", top_n: int | None = None) -> CohereRerank:
    return CohereRerank(base_url=url, cohere_api_key=key, model="any", top_n=top_n)


def from_infinity(url: str, key: str | None = None, top_n: int | None = None) -> InfinityRerank:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    client = Client(base_url=url, headers=headers, raise_on_unexpected_status=True)
    return InfinityRerank(client=client, model="any", top_n=top_n)


kinds = pytest.mark.parametrize("make", [from_cohere, from_infinity])


def ranking(documents):
    assert all(PASSAGES[d.metadata["page"]] == d.page_content for d in documents)
    return by_text([(d.page_content, d.metadata["relevance_score"]) for d in documents])


@kinds
def test_order_and_scores(make, url, native):
    assert_same(ranking(make(url).compress_documents(DOCUMENTS, QUERY)), native)


@kinds
def test_top_n(make, url, native):
    assert_same(ranking(make(url, top_n=2).compress_documents(DOCUMENTS, QUERY)), native, top=2)


@kinds
def test_async(make, url, native):
    answer = make(url).acompress_documents(DOCUMENTS, QUERY)
    assert_same(ranking(asyncio.run(answer)), native)


def test_cohere_sends_nulls(spy, native):
    results = from_cohere(spy.url).rerank(PASSAGES, QUERY, top_n=None)
    assert_same([(r["index"], r["relevance_score"]) for r in results], native)
    assert spy.only().body()["max_tokens_per_doc"] is None


def test_cohere_sends_objects_as_text(url, native):
    objects = [{"title": "fusappel", "text": text} for text in PASSAGES]
    results = from_cohere(url).rerank(objects, QUERY, rank_fields=["text"], top_n=None)
    assert {r["index"] for r in results} == set(range(len(PASSAGES)))
    assert results[0]["index"] in (native[0][0], native[1][0])


@pytest.mark.parametrize(
    ("query", "documents", "error"),
    [(" ", PASSAGES, cohere.BadRequestError), (QUERY, TOO_MANY, cohere.core.ApiError)],
)
def test_cohere_says_a_permanent_error_once(query, documents, error, spy):
    with pytest.raises(error) as caught:
        from_cohere(spy.url).rerank(documents, query)
    assert caught.value.body["message"] == spy.only().sentence()


@pytest.mark.parametrize(("query", "documents"), [(" ", PASSAGES), (QUERY, TOO_MANY)])
def test_infinity_says_a_permanent_error_once(query, documents, spy):
    with pytest.raises(UnexpectedStatus) as caught:
        from_infinity(spy.url).rerank(documents, query)
    assert spy.only().sentence() in str(caught.value)


def test_key_of_cohere(keyed_spy, key, native):
    with pytest.raises(cohere.UnauthorizedError) as caught:
        from_cohere(keyed_spy.url, "wrong").rerank(PASSAGES, QUERY)
    assert caught.value.body["message"] == keyed_spy.only().sentence()
    assert_same(ranking(from_cohere(keyed_spy.url, key).compress_documents(DOCUMENTS, QUERY)), native)


def test_key_of_infinity(keyed_spy, key, native):
    with pytest.raises(UnexpectedStatus) as caught:
        from_infinity(keyed_spy.url, "wrong").rerank(PASSAGES, QUERY)
    assert keyed_spy.only().sentence() in str(caught.value)
    assert_same(ranking(from_infinity(keyed_spy.url, key).compress_documents(DOCUMENTS, QUERY)), native)
