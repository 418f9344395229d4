"""Requests of real text, as many and as large as a bench wants, drawn from those that are committed.

benches/peers has hundreds of package descriptions at their natural length. Drawn anew, with another of them as the query,
they make requests that no server has seen before, on a machine without internet.
"""
import json
import random

from common.arithmetic import by_set, read_requests
from common.machine import ROOT

SOURCES = [ROOT / "benches/peers" / name for name in ("requests_20.json", "requests_sizes.json")]
LENGTHENED = "uniform-512"  # documents that were glued together until they are cut


def pool():
    """Every document once, by language."""
    found = {}
    for source in SOURCES:
        for request in json.loads(source.read_text())["requests"]:
            if request.get("set") != LENGTHENED:
                documents = found.setdefault(request["language"], {})
                documents.update((d["content"], d) for d in request["body"]["documents"])
    return {language: list(documents.values()) for language, documents in found.items()}


def body(rng, documents, size):
    """A request: one of its documents is the answer, and its title what is asked."""
    chosen = rng.sample(documents, size)
    numbered = [{**document, "chunk_id": f"{i}", "chunk_index": i} for i, document in enumerate(chosen)]
    return {"query": rng.choice(chosen)["document_title"], "documents": numbered, "top_k": size}


def draw(path, model, size, count, seed):
    """So many requests of that size, languages by turns, with what they ask of the model; written to the path besides."""
    rng, documents = random.Random(seed), pool()
    languages = [list(documents)[n % len(documents)] for n in range(count)]
    requests = [{"set": f"{size}", "language": language, "body": body(rng, documents[language], size)}
                for language in languages]
    path.write_text(json.dumps({"requests": requests}))
    return read_requests(path, model)


def pairs(request):
    """As the peers take them."""
    return [[request["body"]["query"], document["content"]] for document in request["body"]["documents"]]


def facts(requests):
    """What a report says of them: by size, the means."""
    return {name: {"requests": len(chosen), **{key: sum(requests[i][key] for i in chosen) / len(chosen)
                                               for key in ("tokens", "padded_tokens", "gflop")}}
            for name, chosen in by_set(requests).items()}
