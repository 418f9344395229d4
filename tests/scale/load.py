"""Requests to a scaled set: steady load, and single ones."""

import http.client
import itertools
import json
import threading
import uuid

# More than HAProxy keeps (tune.bufsize of deploy/scale/haproxy.cfg), so it cannot be sent again.
LARGE = 400_000
WORDS = ["fusappel", "erreur", "serveur", "configuration", "document", "réseau", "imprimante", "compte"]


def body(number, bytes_of_text=0):
    """A request of its own for each number; the same number makes the same request."""
    documents = [
        " ".join(WORDS[(number + place * 3 + word) % len(WORDS)] for word in range(12 + place))
        for place in range(8)
    ]
    documents[-1] += " x" * (bytes_of_text // 2)
    return json.dumps({"query": f"erreur fusappel {number}", "documents": documents}).encode()


def huge(megabytes):
    """A request near RERANKER_MAX_BODY_BYTES, of documents near RERANKER_MAX_DOCUMENT_CHARS."""
    return json.dumps({"query": "x", "documents": ["x " * 475_000] * megabytes}).encode()


class Answer:
    def __init__(self, identity, status, ranking, problem=None):
        self.identity, self.status, self.ranking, self.problem = identity, status, ranking, problem


def ask(connection, payload, cached=False):
    """One request; what goes wrong on the way becomes an answer without a status."""
    identity = str(uuid.uuid4())
    headers = {"Content-Type": "application/json", "X-Request-Id": identity}
    if not cached:
        headers["Cache-Control"] = "no-store"
    try:
        connection.request("POST", "/v1/rerank", payload, headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            return Answer(identity, answer.status, None, message(text))
        if answer.headers["X-Request-Id"] != identity:
            return Answer(identity, None, None, "another request's answer")
        return Answer(identity, 200, ranking(text))
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return Answer(identity, None, None, repr(error))


def message(text):
    """What an error says: HAProxy's own are to look like the servers'."""
    return json.loads(text)["message"]


def ranking(text):
    return [(each["index"], each["relevance_score"]) for each in json.loads(text)["results"]]


def once(address, payload, cached=False):
    connection = http.client.HTTPConnection(*address, timeout=90)
    try:
        return ask(connection, payload, cached)
    finally:
        connection.close()


class Load:
    """Clients that ask one request after another, each on a connection of its own."""

    def __init__(self, address, clients, expected):
        self.address, self.expected = address, expected
        self.answers, self.ending = [], threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(first,)) for first in range(clients)]
        for thread in self.threads:
            thread.start()

    def run(self, first):
        connection = http.client.HTTPConnection(*self.address, timeout=90)
        for number in itertools.count(first):
            if self.ending.is_set():
                break
            number %= len(self.expected)
            answer = ask(connection, body(number))
            if answer.status == 200 and answer.ranking != self.expected[number]:
                answer.problem = "another ranking"
            self.answers.append(answer)
        connection.close()

    def stop(self):
        self.ending.set()
        for thread in self.threads:
            thread.join()

    def lost(self):
        return [each for each in list(self.answers) if each.status != 200 or each.problem]


class Burst:
    """Requests at the same time, whose answers are waited for later."""

    def __init__(self, address, payloads):
        self.answers = [None] * len(payloads)
        self.threads = [
            threading.Thread(target=self.run, args=(address, place, payload))
            for place, payload in enumerate(payloads)
        ]
        for thread in self.threads:
            thread.start()

    def run(self, address, place, payload):
        self.answers[place] = once(address, payload)

    def wait(self):
        for thread in self.threads:
            thread.join()
        return self.answers
