"""soak.py ADDRESS PID REQUESTS: requests of every kind to a running server; see `run`.

Bodies are valid ones of all formats, the same with a value replaced, a key dropped or bytes changed, JSON that has
nothing to do with us, and noise. Everything comes from a seed, so that a failure can be had again.
"""
import http.client
import json
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

ANY, RESULTS = ["/rerank"], ["/v1/rerank", "/v2/rerank", "/v1/v1/rerank", "/reranking", "/v1/reranking", "/infinity/rerank"]
TEI, SCORE, NONE = ["/", "/invocations"], ["/score", "/v1/score"], ["/rerank/", "/nothing"]
PATHS = ANY + RESULTS + TEI + SCORE + NONE
TYPES = ["application/json"] * 12 + ["application/json; charset=utf-8", "text/plain", "", None]
WORDS = ["serveur", "lent", "erreur", "6102", "password", "mot de passe", "Ünïcödé", "大熊猫", "👩‍👧", "<s>", "</s>", "\u0000",
         "\u200b", "▁", "e\u0301", "", " ", "\n\n", "1e400", "x" * 40]
THREADS = 8
CLIENT_TIMEOUT = 60


def text(rng):
    return " ".join(rng.choice(WORDS) for _ in range(rng.choice([0, 1, 3, 8])))


def odd(rng, depth=0):
    """Any JSON value."""
    kind = rng.randrange(10 if depth < 3 else 7)
    if kind == 7:
        return [odd(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind >= 8:
        keys = ["text", "content", "query", "documents", "type", rng.choice(WORDS)]
        return {rng.choice(keys): odd(rng, depth + 1) for _ in range(rng.randrange(4))}
    if rng.random() < 0.05:
        return "half a pair \ud83d"
    return [None, True, False, rng.randrange(-3, 9), rng.uniform(-1e9, 1e9), text(rng), rng.choice(["true", "7", "left"])][kind]


def document(rng):
    kind = rng.randrange(5)
    if kind < 2:
        return text(rng)
    if kind == 2:
        return {"text": text(rng), "title": text(rng)}
    if kind == 3:
        return {"content": [{"type": "text", "text": text(rng)}]}
    return {"content": text(rng), "metadata": odd(rng)}


def request(rng):
    """A body, and the paths that take it."""
    count = rng.choice([1, 1, 2, 5])
    kind = rng.randrange(4)
    if kind == 0:
        return ANY, {"query": text(rng) + "q", "documents": [{"content": text(rng), "n": rng.random()} for _ in range(count)],
                     "top_k": rng.choice([1, 5, None, "3"])}
    if kind == 1:
        return ANY + RESULTS[:-1] + TEI, {"query": text(rng), "texts": [text(rng) for _ in range(count)],
                                          "raw_scores": rng.random() < 0.5, "return_text": "true"}
    if kind == 2:
        return ANY + RESULTS, {"model": "m", "query": text(rng) + "q", "documents": [document(rng) for _ in range(count)],
                               "top_n": rng.choice([None, 1, 0, 99]), "return_documents": True,
                               "max_chunks_per_doc": rng.choice([None, 3])}
    return SCORE, {"text_1": [text(rng) for _ in range(count)], "text_2": [text(rng) for _ in range(count)]}


def any_request(rng):
    """A path and a body; two thirds of them are in order."""
    kind = rng.randrange(15)
    if kind == 0:
        return rng.choice(PATHS), rng.randbytes(rng.randrange(60))
    if kind == 1:
        return rng.choice(PATHS), json.dumps(odd(rng)).encode()
    paths, value = request(rng)
    if kind == 2:
        value[rng.choice(list(value))] = odd(rng)
    if kind == 3:
        del value[rng.choice(list(value))]
    encoded = json.dumps(value).encode()
    if kind == 4:
        cut = rng.randrange(len(encoded))
        encoded = encoded[:cut] + rng.randbytes(rng.randrange(3)) + encoded[cut + rng.randrange(3):]
    return rng.choice(PATHS if kind == 5 else paths), encoded


def one(connection, rng):
    headers = {"Content-Type": kind} if (kind := rng.choice(TYPES)) is not None else {}
    path, content = any_request(rng)
    connection.request("POST", path, content, headers)
    answer = connection.getresponse()
    answered = answer.read()
    if answer.status >= 500:
        raise AssertionError(f"{answer.status} for {path} {content!r}: {answered[:300]!r}")
    if answer.status != 404:
        json.loads(answered)
    return answer.status


def client(address, seed, count, statuses, failures):
    rng = random.Random(seed)
    connection = http.client.HTTPConnection(address, timeout=CLIENT_TIMEOUT)
    for _ in range(count):
        try:
            statuses[one(connection, rng)] += 1
        except Exception as error:  # whatever it is, it is what we are looking for
            failures.append(f"seed {seed}: {error!r}")
            return
        if rng.random() < 0.002:
            connection.close()  # and come back
    connection.close()


def resident(pid):
    """Resident memory in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def burst(address, first_seed, count):
    statuses, failures = [Counter() for _ in range(THREADS)], []
    threads = [threading.Thread(target=client, args=(address, first_seed + n, count // THREADS, statuses[n], failures))
               for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        sys.exit("\n".join(failures))
    return sum(statuses, Counter())


def main():
    address, pid, count = urlsplit(sys.argv[1]).netloc, int(sys.argv[2]), int(sys.argv[3])
    started, total, memory = time.time(), Counter(), []
    for tenth in range(10):
        total += burst(address, 1000 * (tenth + 1), count // 10)
        memory.append(resident(pid))
    megabytes = [round(bytes_ / 1e6, 1) for bytes_ in memory]
    print(f"{total.total()} requests in {time.time() - started:.0f} s; statuses {dict(sorted(total.items()))}")
    print(f"resident memory after each tenth, MB: {megabytes}")
    # The word memory and the allocator's pools fill up first; from the middle on nothing may.
    if memory[-1] > memory[4] * 1.10:
        sys.exit(f"memory grew from {megabytes[4]} MB to {megabytes[-1]} MB in the second half")


if __name__ == "__main__":
    main()
