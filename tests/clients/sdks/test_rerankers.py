"""The `rerankers` library: its rankers that ask a server, pointed at this one by `url`."""

import pytest
from rerankers import Reranker
from support import PASSAGES, QUERY, assert_same

PATHS = {"cohere": "/v1/rerank", "jina": "/v1/rerank", "text-embeddings-inference": "/rerank"}
kinds = pytest.mark.parametrize("kind", PATHS)


def ranker(kind: str, url: str, key: str = "any"):
    return Reranker("any", model_type=kind, api_key=key, url=url + PATHS[kind], verbose=0)


def ranking(answer):
    return [(result.doc_id, result.score) for result in answer.results]


@kinds
def test_order_and_scores(kind, url, native):
    answer = ranker(kind, url).rank(query=QUERY, docs=PASSAGES)
    assert_same(ranking(answer), native)
    assert [result.text for result in answer.results] == [PASSAGES[i] for i, _ in native]


@kinds
def test_key(kind, keyed_spy, key, native):
    # The library looks at neither status nor message: all it can show is that there are no results.
    with pytest.raises((KeyError, TypeError)):
        ranker(kind, keyed_spy.url, key="wrong").rank(query=QUERY, docs=PASSAGES)
    assert keyed_spy.only().status == 401
    assert_same(ranking(ranker(kind, keyed_spy.url, key=key).rank(query=QUERY, docs=PASSAGES)), native)
