"""LiteLLM: one entry point, five ways of asking."""

import asyncio

import litellm
import pytest
from support import LONG, PASSAGES, QUERY, TOO_MANY, assert_same

# provider: what follows the server's address in `api_base`, and the path that is asked
PROVIDERS = {
    "cohere": ("", "/v2/rerank"),
    "hosted_vllm": ("", "/rerank"),
    "infinity": ("/infinity", "/infinity/rerank"),
    "jina_ai": ("", "/v1/rerank"),
    "huggingface": ("", "/rerank"),
}

both = pytest.mark.parametrize("call", ["rerank", "arerank"])
providers = pytest.mark.parametrize("provider", PROVIDERS)


def rerank(call: str, provider: str, url: str, api_key: str = "any", **options):
    options = {
        "model": f"{provider}/any",
        "query": QUERY,
        "documents": PASSAGES,
        "api_base": url + PROVIDERS[provider][0],
        "api_key": api_key,
    } | options
    answer = getattr(litellm, call)(**options)
    return asyncio.run(answer) if call == "arerank" else answer


def ranking(answer):
    return [(result["index"], result["relevance_score"]) for result in answer.results]


@both
@providers
@pytest.mark.parametrize("documents_back", [True, False, None])
def test_order_scores_and_documents(call, provider, documents_back, spy, native):
    options = {} if documents_back is None else {"return_documents": documents_back}
    answer = rerank(call, provider, spy.url, **options)
    assert_same(ranking(answer), native)
    assert spy.only().path == PROVIDERS[provider][1]
    expected = call == "rerank" if documents_back is None else documents_back
    for result in answer.results:
        text = PASSAGES[result["index"]]
        assert ("document" in result and result["document"]["text"] == text) == expected


@both
@providers
def test_top_n(call, provider, url, native):
    assert_same(ranking(rerank(call, provider, url, top_n=2)), native, top=2)


@providers
def test_tokens_are_counted(provider, url):
    meta = rerank("rerank", provider, url).meta
    if provider == "jina_ai":
        assert meta["billed_units"]["total_tokens"] > 0
    else:
        assert meta["tokens"]["input_tokens"] > 0


def test_hosted_vllm_takes_objects_and_an_address_that_ends_in_the_route(url, native):
    objects = [{"text": text} for text in PASSAGES]
    for route in ["/rerank", "/v1/rerank"]:
        answer = rerank("rerank", "hosted_vllm", url, api_base=url + route, documents=objects)
        assert_same(ranking(answer), native)


def test_infinity_needs_its_prefix_for_documents(url, native):
    without = rerank("rerank", "infinity", url, api_base=url, return_documents=False)
    assert_same(ranking(without), native)
    with pytest.raises(Exception, match="text"):
        rerank("rerank", "infinity", url, api_base=url, return_documents=True)


@both
def test_huggingface_has_long_passages_refused(call, spy):
    with pytest.raises(Exception) as caught:
        rerank(call, "huggingface", spy.url, documents=[*PASSAGES, LONG])
    assert spy.only().body()["truncate"] is False
    assert spy.only().status == 422
    assert spy.only().sentence() in str(caught.value)
    cut = rerank(call, "hosted_vllm", spy.url, documents=[*PASSAGES, LONG])
    assert len(cut.results) == len(PASSAGES) + 1


@both
@providers
def test_too_many_documents_is_said_once(call, provider, spy):
    with pytest.raises(Exception) as caught:
        rerank(call, provider, spy.url, documents=TOO_MANY)
    assert spy.only().status == 413
    assert spy.only().sentence() in str(caught.value)


@both
@pytest.mark.parametrize("provider", sorted(PROVIDERS.keys() - {"huggingface"}))  # TEI takes a blank query
def test_a_blank_query_is_said_once(call, provider, spy):
    with pytest.raises(litellm.BadRequestError) as caught:
        rerank(call, provider, spy.url, query=" ")
    assert spy.only().status == 400
    assert spy.only().sentence() in str(caught.value)


@both
@providers
def test_key(call, provider, keyed_spy, key, native):
    with pytest.raises(Exception) as caught:
        rerank(call, provider, keyed_spy.url, api_key="wrong")
    assert keyed_spy.only().sentence() in str(caught.value)
    assert_same(ranking(rerank(call, provider, keyed_spy.url, api_key=key)), native)
