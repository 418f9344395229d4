"""The cohere SDK: v1 and v2, waiting and not. Runs with both of its major versions that frameworks use."""

import asyncio
import inspect

import cohere
import pytest
from support import MAX_DOCUMENTS, PASSAGES, QUERY, TOO_MANY, assert_same

V1 = ["Client", "AsyncClient"]
V2 = ["ClientV2", "AsyncClientV2"]


def rerank(kind: str, base_url: str, api_key: str = "any", **request):
    async def call():
        client = getattr(cohere, kind)(api_key=api_key, base_url=base_url)
        answer = client.rerank(**({"model": "any", "query": QUERY, "documents": PASSAGES} | request))
        return await answer if inspect.isawaitable(answer) else answer

    return asyncio.run(call())


def ranking(answer):
    return [(result.index, result.relevance_score) for result in answer.results]


@pytest.mark.parametrize("kind", V1 + V2)
def test_order_and_scores(kind, url, native):
    answer = rerank(kind, url)
    assert_same(ranking(answer), native)
    assert answer.id
    assert answer.meta.billed_units.search_units == 1
    assert answer.meta.tokens.input_tokens > 0


@pytest.mark.parametrize("kind", V1 + V2)
def test_top_n(kind, url, native):
    assert_same(ranking(rerank(kind, url, top_n=3)), native, top=3)
    assert_same(ranking(rerank(kind, url, top_n=1000)), native)


@pytest.mark.parametrize("kind", V2)
def test_options_of_v2_are_accepted(kind, spy, native):
    answer = rerank(kind, spy.url, top_n=None, max_tokens_per_doc=None, priority=0)
    assert_same(ranking(answer), native)
    assert spy.only().path == "/v2/rerank"
    assert spy.only().body()["top_n"] is None


@pytest.mark.parametrize("kind", V1)
def test_documents_come_back_when_asked_for(kind, url, native):
    returned = rerank(kind, url, return_documents=True)
    assert_same(ranking(returned), native)
    assert [result.document.text for result in returned.results] == [PASSAGES[i] for i, _ in native]
    assert all(result.document is None for result in rerank(kind, url).results)


@pytest.mark.parametrize("kind", V1)
def test_documents_may_be_objects(kind, url, native):
    objects = [{"text": text, "id": str(i)} for i, text in enumerate(PASSAGES)]
    assert_same(ranking(rerank(kind, url, documents=objects)), native)


@pytest.mark.parametrize("kind", V1)
def test_rank_fields_choose_what_is_read(kind, url, native):
    titled = [{"title": "fusappel", "body": text} for text in PASSAGES]
    joined = [f"title: fusappel\nbody: {text}" for text in PASSAGES]
    by_fields = rerank(kind, url, documents=titled, rank_fields=["title", "body"])
    assert_same(ranking(by_fields), ranking(rerank(kind, url, documents=joined)))


def test_a_base_url_that_ends_in_v1_works_with_v1(spy, native):
    assert_same(ranking(rerank("Client", f"{spy.url}/v1")), native)
    assert spy.only().path == "/v1/v1/rerank"


@pytest.mark.parametrize("kind", V1 + V2)
@pytest.mark.parametrize(
    ("request_", "status", "error"),
    [
        ({"query": "  "}, 400, cohere.BadRequestError),
        ({"documents": []}, 400, cohere.BadRequestError),
        ({"documents": TOO_MANY}, 413, cohere.core.ApiError),
        ({"top_n": -1}, 422, cohere.UnprocessableEntityError),
    ],
)
def test_a_permanent_error_is_said_once(kind, request_, status, error, spy):
    with pytest.raises(error) as caught:
        rerank(kind, spy.url, **request_)
    assert caught.value.status_code == spy.only().status == status
    assert caught.value.body["message"] == spy.only().sentence()


def test_the_limit_is_in_the_sentence(url):
    with pytest.raises(cohere.core.ApiError, match=str(MAX_DOCUMENTS)):
        rerank("ClientV2", url, documents=TOO_MANY)


@pytest.mark.parametrize("kind", V1 + V2)
def test_key(kind, keyed_spy, key, native):
    with pytest.raises(cohere.UnauthorizedError) as caught:
        rerank(kind, keyed_spy.url, api_key="wrong")
    assert caught.value.body["message"] == keyed_spy.only().sentence()
    assert_same(ranking(rerank(kind, keyed_spy.url, api_key=key)), native)
