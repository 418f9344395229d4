"""Haystack's three rankers that ask a server."""

import asyncio

import pytest
from cohere import BadRequestError, UnauthorizedError
from cohere.core import ApiError
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from haystack_integrations.components.rankers.huggingface_api.ranker import TruncationDirection
from haystack_integrations.components.rankers.jina import JinaRanker
from support import PASSAGES, QUERY, TOO_MANY, assert_same, by_text

KINDS = ["tei", "jina", "cohere"]
kinds = pytest.mark.parametrize("kind", KINDS)
both = pytest.mark.parametrize("call", ["run", "run_async"])


def ranker(kind: str, url: str, key: str = "any", **options):
    token = Secret.from_token(key)
    if kind == "tei":
        return HuggingFaceTEIRanker(url=url, token=token, **options)
    if kind == "jina":
        return JinaRanker(api_key=token, base_url=f"{url}/v1/rerank", **options)
    return CohereRanker(api_key=token, api_base_url=url, **options)


def run(call: str, ranker, texts=PASSAGES, query=QUERY, **options):
    documents = [Document(content=text) for text in texts]
    answer = getattr(ranker, call)(query=query, documents=documents, **options)
    return asyncio.run(answer) if call == "run_async" else answer


def ranking(answer):
    return by_text([(document.content, document.score) for document in answer["documents"]])


@both
@kinds
def test_order_and_scores(call, kind, url, native):
    assert_same(ranking(run(call, ranker(kind, url, top_k=100))), native)


@both
@kinds
def test_top_k(call, kind, url, native):
    assert_same(ranking(run(call, ranker(kind, url), top_k=2)), native, top=2)


def test_jina_tells_model_and_usage(url):
    meta = run("run", ranker("jina", url))["meta"]
    assert meta["model"]
    assert meta["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("direction", TruncationDirection)
def test_tei_truncation(direction, spy):
    answer = run("run", ranker("tei", spy.url), truncation_direction=direction)
    assert len(answer["documents"]) == len(PASSAGES)
    assert spy.only().body()["truncation_direction"] == direction.value


def test_tei_raw_scores_are_in_the_same_order(url, native):
    raw = ranking(run("run", ranker("tei", url, raw_scores=True)))
    assert [index for index, _ in raw] == [index for index, _ in native]
    assert raw[0][1] > 1
    assert raw[-1][1] < 0


@both
@kinds
def test_too_many_documents_is_said_once(call, kind, spy):
    with pytest.raises(ApiError if kind == "cohere" else RuntimeError) as caught:
        run(call, ranker(kind, spy.url), texts=TOO_MANY)
    assert spy.only().status == 413
    assert spy.only().sentence() in str(caught.value)


@both
@pytest.mark.parametrize(("kind", "error"), [("jina", RuntimeError), ("cohere", BadRequestError)])
def test_a_blank_query_is_said_once(call, kind, error, spy):
    with pytest.raises(error) as caught:
        run(call, ranker(kind, spy.url), query=" ")
    assert spy.only().status == 400
    assert spy.only().sentence() in str(caught.value)


@both
@kinds
def test_key(call, kind, keyed_spy, key, native):
    with pytest.raises((RuntimeError, UnauthorizedError)) as caught:
        run(call, ranker(kind, keyed_spy.url, key="wrong"))
    assert keyed_spy.only().sentence() in str(caught.value)
    assert_same(ranking(run(call, ranker(kind, keyed_spy.url, key=key, top_k=100))), native)
