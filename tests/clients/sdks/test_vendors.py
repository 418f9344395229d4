"""The SDKs of Voyage, Mixedbread, DashScope and NVIDIA, each pointed at this server."""

import dashscope
import mixedbread
import pytest
import voyageai
from langchain_core.documents import Document
from langchain_nvidia_ai_endpoints import NVIDIARerank
from support import PASSAGES, QUERY, TOO_MANY, assert_same


def voyage(url: str, key: str = "any", **options):
    client = voyageai.Client(api_key=key, base_url=f"{url}/v1")
    return client.rerank(QUERY, PASSAGES, model="rerank-2.5", **options)


def mixed(url: str, key: str = "any", **options):
    client = mixedbread.Mixedbread(api_key=key, base_url=url, max_retries=0)
    return client.rerank(**({"query": QUERY, "input": PASSAGES} | options))


def dash(url: str, key: str = "any", **options):
    dashscope.base_http_api_url = f"{url}/api/v1"
    request = {"model": "gte-rerank-v2", "query": QUERY, "documents": PASSAGES} | options
    return dashscope.TextReRank.call(api_key=key, **request)


def nvidia(url: str, key: str = "any", **options):
    ranker = NVIDIARerank(base_url=f"{url}/v1", model="nvidia/any", api_key=key, **options)
    return ranker.compress_documents([Document(text, metadata={"at": i}) for i, text in enumerate(PASSAGES)], QUERY)


def test_voyage(url, native):
    answer = voyage(url)
    assert_same([(result.index, result.relevance_score) for result in answer.results], native)
    assert [result.document for result in answer.results] == [PASSAGES[i] for i, _ in native]
    assert answer.total_tokens > 0
    best = voyage(url, top_k=3, truncation=True).results
    assert_same([(result.index, result.relevance_score) for result in best], native, top=3)


def test_mixedbread(url, native):
    answer = mixed(url, return_input=True)
    assert_same([(result.index, result.score) for result in answer.data], native)
    assert [result.input for result in answer.data] == [PASSAGES[i] for i, _ in native]
    best = mixed(url, top_k=3).data
    assert_same([(result.index, result.score) for result in best], native, top=3)


def test_dashscope(url, native):
    answer = dash(url, return_documents=True)
    assert answer.status_code == 200, answer
    results = answer.output.results
    assert_same([(result.index, result.relevance_score) for result in results], native)
    assert [result["document"]["text"] for result in results] == [PASSAGES[i] for i, _ in native]
    best = dash(url, top_n=3).output.results
    assert_same([(result.index, result.relevance_score) for result in best], native, top=3)


def test_nvidia_by_langchain(url, native):
    found = nvidia(url, top_n=3)
    assert [document.metadata["at"] for document in found] == [i for i, _ in native][:3]
    logits = [document.metadata["relevance_score"] for document in found]
    assert logits == sorted(logits, reverse=True) and logits[0] > 1, "NVIDIA's scores are logits"


def test_keys(keyed_url, key, native):
    with pytest.raises(voyageai.error.AuthenticationError):
        voyage(keyed_url, key="wrong")
    with pytest.raises(mixedbread.AuthenticationError):
        mixed(keyed_url, key="wrong")
    assert dash(keyed_url, key="wrong").status_code == 401
    with pytest.raises(Exception, match="401"):
        nvidia(keyed_url, key="wrong")
    assert_same([(result.index, result.relevance_score) for result in voyage(keyed_url, key=key).results], native)
    assert_same([(result.index, result.score) for result in mixed(keyed_url, key=key).data], native)
    assert dash(keyed_url, key=key).status_code == 200
    assert nvidia(keyed_url, key=key)


def test_what_is_refused_is_told(url):
    with pytest.raises(mixedbread.APIStatusError, match="64"):
        mixed(url, input=TOO_MANY)
    refused = dash(url, documents=TOO_MANY)
    assert refused.status_code == 413
    assert "64" in refused.message, refused
