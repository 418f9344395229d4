"""LlamaIndex's four postprocessors that ask a server."""

import asyncio

import cohere
import pytest
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference
from llama_index.postprocessor.xinference_rerank import XinferenceRerank
from support import PASSAGES, QUERY, TOO_MANY, assert_same, by_text


def tei(url: str, key: str | None = None, top_n: int = 100):
    # The header is sent as it is given: the word `Bearer` belongs to it.
    token = f"Bearer {key}" if key else None
    return TextEmbeddingInference(base_url=url, auth_token=token, top_n=top_n)


def jina(url: str, key: str = "any", top_n: int = 100):
    return JinaRerank(base_url=f"{url}/v1", api_key=key, model="any", top_n=top_n)


def from_cohere(url: str, key: str = "any", top_n: int = 100):
    return CohereRerank(base_url=url, api_key=key, model="any", top_n=top_n)


def xinference(url: str, top_n: int = 100):
    return XinferenceRerank(base_url=url, model="any", top_n=top_n)


kinds = pytest.mark.parametrize("make", [tei, jina, from_cohere, xinference])
with_key = pytest.mark.parametrize("make", [tei, jina, from_cohere])


def nodes(texts=PASSAGES):
    return [NodeWithScore(node=TextNode(text=text), score=0.5) for text in texts]


def ranking(nodes):
    return by_text([(node.node.text, node.score) for node in nodes])


@kinds
def test_order_and_scores(make, url, native):
    assert_same(ranking(make(url).postprocess_nodes(nodes(), query_str=QUERY)), native)


@kinds
def test_async(make, url, native):
    answer = make(url).apostprocess_nodes(nodes(), query_str=QUERY)
    assert_same(ranking(asyncio.run(answer)), native)


@kinds
def test_top_n(make, url, native):
    got = make(url, top_n=2).postprocess_nodes(nodes(), query_str=QUERY)
    assert_same(ranking(got), native, top=2)


@pytest.mark.parametrize(("query", "texts"), [(" ", PASSAGES), (QUERY, TOO_MANY)])
@pytest.mark.parametrize(
    ("make", "error"),
    [(jina, RuntimeError), (from_cohere, cohere.core.ApiError), (xinference, Exception)],
)
def test_a_permanent_error_is_said_once(make, error, query, texts, spy):
    with pytest.raises(error) as caught:
        make(spy.url).postprocess_nodes(nodes(texts), query_str=query)
    assert spy.only().sentence() in str(caught.value)


def test_tei_looks_at_no_status(spy):
    # Its own check, that there is a score for each text, is all that shows the error.
    with pytest.raises(AssertionError):
        tei(spy.url).postprocess_nodes(nodes(TOO_MANY), query_str=QUERY)
    assert spy.only().status == 413


@with_key
def test_key(make, keyed_spy, key, native):
    with pytest.raises((AssertionError, RuntimeError, cohere.UnauthorizedError)) as caught:
        make(keyed_spy.url, "wrong").postprocess_nodes(nodes(), query_str=QUERY)
    assert keyed_spy.only().status == 401
    if make is not tei:
        assert keyed_spy.only().sentence() in str(caught.value)
    got = make(keyed_spy.url, key).postprocess_nodes(nodes(), query_str=QUERY)
    assert_same(ranking(got), native)
