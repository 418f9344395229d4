"""Programs that bring no library: what each sends and what it reads, written down as plain HTTP."""

import math

import httpx
import pytest
from support import (
    LONG,
    PASSAGES,
    QUERY,
    TOLERANCE,
    TOO_MANY,
    assert_same,
    native_ranking,
    ragfab_document,
)

SEVEN_FIELDS = {
    "chunk_id": str,
    "document_id": str,
    "document_title": str,
    "document_source": str,
    "chunk_index": int,
    "content": str,
    "similarity": float,
}


def post(address: str, body, **options) -> httpx.Response:
    return httpx.post(address, json=body, timeout=60, **options)


def answer(address: str, body, **options):
    response = post(address, body, **options)
    response.raise_for_status()
    return response.json()


def results(address: str, body, **options):
    """Order and scores of an answer with `results`."""
    got = answer(address, body, **options)["results"]
    return [(item["index"], item["relevance_score"]) for item in got]


def ranks(address: str, body, **options):
    """Order and scores of an answer that is a bare list."""
    return [(item["index"], item["score"]) for item in answer(address, body, **options)]


# RAGFab


def test_ragfab(url, native):
    documents = [ragfab_document(i, text) for i, text in enumerate(PASSAGES)]
    with httpx.Client(timeout=60.0) as client:
        response = client.post(f"{url}/rerank", json={"query": QUERY, "documents": documents, "top_k": 5})
        response.raise_for_status()
        body = response.json()
    assert body["processing_time"] > 0
    assert body["count"] == len(body["documents"]) == 5
    assert [document["chunk_index"] for document in body["documents"]] == [i for i, _ in native[:5]]
    for document in body["documents"]:
        sent = ragfab_document(document["chunk_index"], PASSAGES[document["chunk_index"]])
        for name, kind in SEVEN_FIELDS.items():
            assert document[name] == sent[name]
            assert isinstance(document[name], kind)


@pytest.mark.parametrize("wrong", [{"query": " "}, {"documents": []}])
def test_ragfab_reads_detail_and_nothing_else_is_there(wrong, url):
    documents = [ragfab_document(0, "text")]
    response = post(f"{url}/rerank", {"query": QUERY, "documents": documents} | wrong)
    assert response.status_code == 400
    assert isinstance(response.json()["detail"], str)
    if "query" in wrong:
        assert set(response.json()) == {"detail"}


# Open WebUI: the external reranker


def test_open_webui(url, native):
    body = {"model": "any", "query": QUERY, "documents": PASSAGES, "top_n": len(PASSAGES)}
    got = results(f"{url}/v1/rerank", body)
    # It sorts by index and lays the scores beside its documents: all of them have to come back.
    scores = [score for _, score in sorted(got)]
    assert len(scores) == len(PASSAGES)
    best_first = sorted(enumerate(scores), key=lambda item: item[1], reverse=True)
    assert_same(best_first, native)


def test_open_webui_with_a_key(keyed_url, key, native):
    body = {"model": "any", "query": QUERY, "documents": PASSAGES, "top_n": len(PASSAGES)}
    headers = {"Authorization": f"Bearer {key}"}
    assert_same(results(f"{keyed_url}/v1/rerank", body, headers=headers), native)
    assert post(f"{keyed_url}/v1/rerank", body).status_code == 401


# Dify


def test_dify_tei(url, native):
    info = httpx.get(f"{url}/info").json()
    assert next(iter(info["model_type"])) == "reranker"
    assert info["max_input_length"] > 0
    assert info["max_client_batch_size"] >= len(PASSAGES)
    body = {"query": QUERY, "texts": PASSAGES, "return_text": True}
    assert_same(ranks(f"{url}/rerank", body), native)
    for item in answer(f"{url}/rerank", body):
        assert item["text"] == PASSAGES[item["index"]]


def test_dify_xinference(url, native):
    assert httpx.get(f"{url}/v1/cluster/auth").status_code == 404
    model = httpx.get(f"{url}/v1/models/anything").json()
    assert model["model_type"] == "rerank"
    body = {
        "model": "anything",
        "documents": PASSAGES,
        "query": QUERY,
        "top_n": 3,
        "return_documents": True,
        "max_chunks_per_doc": None,
        "return_len": None,
        "kwargs": "{}",
    }
    assert_same(results(f"{url}/v1/rerank", body), native, top=3)
    for item in answer(f"{url}/v1/rerank", body)["results"]:
        assert item["document"]["text"] == PASSAGES[item["index"]]


@pytest.mark.parametrize("route", ["/rerank", "/v1/rerank"])
@pytest.mark.parametrize("documents_back", [True, False])
def test_dify_openai_compatible_jina_localai_gpustack(route, documents_back, url, native):
    body = {"model": "any", "query": QUERY, "documents": PASSAGES, "top_n": None}
    body["return_documents"] = documents_back
    assert_same(results(url + route, body), native)
    for item in answer(url + route, body)["results"]:
        # They take a `document` that is there for an object with a `text`.
        assert ("document" in item) == documents_back
        if documents_back:
            assert item["document"]["text"] == PASSAGES[item["index"]]


def test_dify_sends_parts(url, native):
    parts = [{"content": [{"type": "text", "text": text}]} for text in PASSAGES]
    assert_same(results(f"{url}/rerank", {"model": "any", "query": QUERY, "documents": parts}), native)


def test_dify_pictures_are_refused(url):
    picture = {"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}
    response = post(f"{url}/rerank", {"model": "any", "query": QUERY, "documents": [picture]})
    assert response.status_code == 422
    assert response.json()["message"]


# RAGFlow


def test_ragflow_xinference_sends_booleans_as_strings(url, native):
    body = {
        "model": "any",
        "query": QUERY,
        "return_documents": "true",
        "return_len": "true",
        "documents": PASSAGES,
    }
    assert_same(results(f"{url}/v1/rerank", body), native)
    got = answer(f"{url}/v1/rerank", body)
    assert all(item["document"]["text"] for item in got["results"])
    assert got["usage"]["total_tokens"] > 0


def test_ragflow_huggingface_asks_in_slices_of_eight(url, native):
    texts = PASSAGES + PASSAGES[:3]
    scores = [0.0] * len(texts)
    for start in range(0, len(texts), 8):
        body = {"query": QUERY, "texts": texts[start : start + 8], "raw_scores": False, "truncate": True}
        for index, score in ranks(f"{url}/rerank", body):
            scores[start + index] = score
    expected = dict(native)
    for i, score in enumerate(scores):
        assert abs(score - expected[i % len(PASSAGES)]) <= TOLERANCE


# LibreChat


def test_librechat_jina(url, native):
    body = {
        "model": "jina-reranker-v2-base-multilingual",
        "query": QUERY,
        "top_n": 5,
        "documents": PASSAGES,
        "return_documents": True,
    }
    assert_same(results(f"{url}/v1/rerank", body), native, top=5)


# vLLM, as pingcap/autoflow and others ask it


@pytest.mark.parametrize("route", ["/score", "/v1/score"])
@pytest.mark.parametrize(
    "names",
    [("text_1", "text_2"), ("data_1", "data_2"), ("queries", "documents"), ("queries", "items")],
)
def test_vllm_score(route, names, url, native):
    first, second = names
    expected = dict(native)

    def scores(left, right):
        got = answer(url + route, {"model": "any", first: left, second: right})["data"]
        assert [item["index"] for item in got] == list(range(len(got)))
        assert {item["object"] for item in got} == {"score"}
        return [item["score"] for item in got]

    one_to_one = scores(QUERY, PASSAGES[1])
    one_to_many = scores(QUERY, PASSAGES)
    many_to_many = scores([QUERY] * len(PASSAGES), PASSAGES)
    assert len(one_to_one) == 1
    assert abs(one_to_one[0] - expected[1]) <= TOLERANCE
    for got in (one_to_many, many_to_many):
        assert len(got) == len(PASSAGES)
        assert all(abs(score - expected[i]) <= TOLERANCE for i, score in enumerate(got))


def test_vllm_score_with_several_queries(url):
    queries = ["Where is the canteen?", QUERY]
    got = answer(f"{url}/score", {"text_1": queries, "text_2": [PASSAGES[2], PASSAGES[1]]})["data"]
    for item, query, text in zip(got, queries, [PASSAGES[2], PASSAGES[1]], strict=True):
        alone = answer(f"{url}/v1/rerank", {"query": query, "documents": [text]})["results"]
        assert abs(item["score"] - alone[0]["relevance_score"]) <= TOLERANCE


def test_vllm_score_refuses_lists_of_different_lengths(url):
    response = post(f"{url}/score", {"text_1": [QUERY, QUERY], "text_2": PASSAGES[:3]})
    assert 400 <= response.status_code < 500
    assert response.json()["error"]["message"]


def test_vllm_rerank(url, native):
    body = {"model": "any", "query": QUERY, "documents": PASSAGES, "top_n": 0}
    for route in ["/rerank", "/v1/rerank", "/v2/rerank"]:
        assert_same(results(url + route, body), native)
    logits = results(f"{url}/rerank", body | {"use_activation": False})
    assert_same([(i, 1 / (1 + math.exp(-logit))) for i, logit in logits], native)
    one = results(f"{url}/rerank", {"model": "any", "query": QUERY, "documents": PASSAGES[1]})
    assert one[0][0] == 0


def test_vllm_models(url):
    models = httpx.get(f"{url}/v1/models").json()["data"]
    assert models[0]["id"] == answer(f"{url}/rerank", {"query": QUERY, "documents": ["a"]})["model"]


# llama.cpp


@pytest.mark.parametrize("route", ["/rerank", "/reranking", "/v1/rerank", "/v1/reranking"])
def test_llama_cpp(route, url, native):
    assert_same(results(url + route, {"query": QUERY, "documents": PASSAGES}), native)
    assert_same(results(url + route, {"query": QUERY, "documents": PASSAGES, "top_n": 3}), native, top=3)
    assert_same(ranks(url + route, {"query": QUERY, "texts": PASSAGES}), native)


# Text Embeddings Inference


@pytest.mark.parametrize("route", ["/rerank", "/", "/invocations"])
def test_tei(route, url, native):
    body = {"query": QUERY, "texts": PASSAGES, "truncate": True, "truncation_direction": "Right"}
    response = post(url + route, body)
    got = [(item["index"], item["score"]) for item in response.json()]
    assert_same(got, native)
    assert all("text" not in item for item in response.json())
    for name in ["time", "characters", "tokens", "type"]:
        assert response.headers[f"x-compute-{name}"]
    for name in ["total", "tokenization", "queue", "inference"]:
        assert int(response.headers[f"x-{name}-time"]) >= 0
    raw = ranks(url + route, body | {"raw_scores": True})
    assert_same([(i, 1 / (1 + math.exp(-logit))) for i, logit in raw], native)


@pytest.mark.parametrize("body", [{"query": QUERY, "texts": []}, {"query": QUERY, "texts": TOO_MANY}])
def test_tei_errors(body, url):
    response = post(f"{url}/rerank", body)
    assert 400 <= response.status_code < 500
    assert isinstance(response.json()["error"], str)
    assert response.json()["error_type"][0].isupper()


def test_health_checks_need_no_key(keyed_url):
    for path in ["/health", "/ping"]:
        assert httpx.get(keyed_url + path).status_code == 200


# Every format


def test_a_long_passage_is_cut_the_same_way_in_every_format(url):
    texts = [*PASSAGES, LONG]
    native = native_ranking(url, texts)
    assert_same(results(f"{url}/v1/rerank", {"query": QUERY, "documents": texts}), native)
    assert_same(ranks(f"{url}/rerank", {"query": QUERY, "texts": texts}), native)
    scores = answer(f"{url}/score", {"text_1": QUERY, "text_2": texts})["data"]
    expected = dict(native)
    assert all(abs(item["score"] - expected[item["index"]]) <= TOLERANCE for item in scores)
