"""soak.py ADDRESS PID SECONDS: requests of every kind to a running server; see `run`.

Bodies are valid ones of all formats, the same with a value replaced, a key dropped or bytes changed, JSON that has
nothing to do with us, and noise. Beside these there are clients that send the largest bodies, plain and packed, that
send a byte now and then, that break off in the middle, and that leave without waiting for the answer. Everything comes
from a seed, so that a failure can be had again.
"""
import gzip
import http.client
import json
import random
import socket
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

ANY, RESULTS = ["/rerank"], ["/v1/rerank", "/v2/rerank", "/v1/v1/rerank", "/reranking", "/v1/reranking", "/infinity/rerank"]
TEI, SCORE, NONE = ["/", "/invocations"], ["/score", "/v1/score"], ["/rerank/", "/nothing"]
HEAD = "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{more}Content-Length: {length}\r\n\r\n"
PATHS = ANY + RESULTS + TEI + SCORE + NONE
TYPES = ["application/json"] * 12 + ["application/json; charset=utf-8", "text/plain", "", None]
WORDS = ["serveur", "lent", "erreur", "6102", "password", "mot de passe", "Ünïcödé", "大熊猫", "👩‍👧", "<s>", "</s>", "\u0000",
         "\u200b", "▁", "e\u0301", "", " ", "\n\n", "1e400", "x" * 40]
CLIENT_TIMEOUT = 60
LARGEST = 33_554_432


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


class Soak:
    """Clients of several kinds until a time, and what they saw."""

    def __init__(self, address, until):
        self.address, self.until = address, until
        self.statuses, self.failures, self.lock = Counter(), [], threading.Lock()

    def goes_on(self):
        return time.time() < self.until and not self.failures

    def saw(self, kind, status):
        with self.lock:
            self.statuses[kind, status] += 1

    def connect(self):
        host, port = self.address.split(":")
        return socket.create_connection((host, int(port)), timeout=CLIENT_TIMEOUT)

    def run(self, kind, seed):
        """One client; whatever goes wrong is what we are looking for."""
        rng = random.Random(seed)
        try:
            getattr(self, kind)(rng)
        except Exception as error:
            self.failures.append(f"{kind}, seed {seed}: {error!r}")

    def ordinary(self, rng):
        """Requests in order and not, one after the other on a connection that is closed now and then."""
        connection = http.client.HTTPConnection(self.address, timeout=CLIENT_TIMEOUT)
        while self.goes_on():
            self.saw("ordinary", one(connection, rng))
            if rng.random() < 0.002:
                connection.close()  # and come back
        connection.close()

    def huge(self, rng):
        """Bodies of the largest size, of long texts or many empty ones, plain or packed."""
        plain = json.dumps({"query": "a", "documents": ["a " * 490_000] * 30}).encode()
        empty = b'{"query":"a","documents":[' + b'"",' * 8_000_000 + b'""]}'
        bodies = [(plain, ""), (empty, ""), *((gzip.compress(b, 1), "Content-Encoding: gzip\r\n") for b in (plain, empty))]
        while self.goes_on():
            content, more = rng.choice(bodies)
            status = self.send(content, more)
            if status not in (200, 413, 429):
                raise AssertionError(f"{status} for a body of {len(content)} bytes {more}")
            self.saw("huge", status)
            time.sleep(rng.uniform(0, 1))

    def send(self, content, more=""):
        """The status of an answer that may come before the body was sent."""
        with self.connect() as connection:
            head = HEAD.format(path="/v1/rerank", more="Connection: close\r\n" + more, length=len(content))
            try:
                connection.sendall(head.encode() + content)
            except OSError:
                pass  # refused meanwhile; the answer is there
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            answer.read()
            return answer.status

    def slow(self, rng):
        """A byte now and then, of the head or of the body, and then nothing more."""
        while self.goes_on():
            content = HEAD.format(path="/rerank", more="", length=1000).encode() + b"{" * 900
            with self.connect() as connection:
                at = rng.randrange(len(content))
                connection.sendall(content[:at])
                for byte in content[at:at + 20]:
                    time.sleep(0.05)
                    connection.sendall(bytes([byte]))
            self.saw("slow", "left")

    def cut_off(self, rng):
        """A body that breaks off, a reset in the middle of it, packed bytes that are none."""
        while self.goes_on():
            content = json.dumps(request(rng)[1]).encode()
            more = rng.choice(["", "Content-Encoding: gzip\r\n"])
            with self.connect() as connection:
                head = HEAD.format(path="/rerank", more=more, length=len(content) + 10)
                connection.sendall(head.encode() + content[:rng.randrange(len(content))])
                if rng.random() < 0.5:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.saw("cut off", "left")
            time.sleep(0.01)

    def cancelled(self, rng):
        """A whole request, and nobody who waits for its answer."""
        while self.goes_on():
            documents = [" ".join(rng.choices(WORDS, k=100)) for _ in range(rng.choice([1, 20, 200]))]
            content = json.dumps({"query": "a", "documents": documents}).encode()
            with self.connect() as connection:
                connection.sendall(HEAD.format(path="/v1/rerank", more="", length=len(content)).encode() + content)
                time.sleep(rng.choice([0, 0.01, 0.2]))
            self.saw("cancelled", "left")
            time.sleep(0.1)


KINDS = ["ordinary"] * 6 + ["huge"] * 2 + ["slow"] * 4 + ["cut_off"] * 2 + ["cancelled"] * 2


def usage(pid):
    """Resident memory in bytes, threads, and open descriptors."""
    process = Path(f"/proc/{pid}")
    resident = int((process / "statm").read_text().split()[1]) * 4096
    return resident, len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))


def at_rest(pid):
    """What is used when nobody asks; freed memory goes back within seconds."""
    time.sleep(5)
    return usage(pid)


def main():
    address, pid, seconds = urlsplit(sys.argv[1]).netloc, int(sys.argv[2]), float(sys.argv[3])
    total, used = Counter(), []
    for part in range(4):
        soak = Soak(address, time.time() + seconds / 4)
        threads = [threading.Thread(target=soak.run, args=(kind, 100 * part + n)) for n, kind in enumerate(KINDS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if soak.failures:
            sys.exit("\n".join(soak.failures))
        total += soak.statuses
        used.append(at_rest(pid))
    for (kind, status), count in sorted(total.items(), key=str):
        print(f"{kind}: {status}: {count}")
    print("at rest after each quarter (MB, threads, descriptors):",
          [(round(memory / 1e6, 1), threads, files) for memory, threads, files in used])
    # The word memory and the allocator's pools fill up first; after the first quarter nothing may.
    for name, first, last, slack in zip(("memory", "threads", "descriptors"), used[0], used[-1], (40e6, 4, 4)):
        if last > first * 1.10 + slack:
            sys.exit(f"{name} grew from {first} to {last}")


if __name__ == "__main__":
    main()
