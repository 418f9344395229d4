"""The passages that every client ranks, the ranking they must agree with, and a proxy that sees what a client sends."""

import http.client
import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import httpx

QUERY = "How do I fix error 6102 in fusappel?"

# Best ones neither first nor last, one in French, one beyond ASCII, one with blanks around it.
PASSAGES = [
    "Fusappel is the internal telephone directory.",
    "Error 6102 in fusappel: check the configuration file, then restart the service.",
    "The canteen is open from noon to two o'clock.",
    "Erreur 6102 : la configuration de fusappel est incomplète.",
    "Release notes: fusappel 3.1 fixes two errors in the search.",
    "Error 4711 means that the printer is out of paper.",
    "  To restart a service, use the control panel.  ",
    "Contact the support team for questions about 📞 telephones.",
]

# Longer than the model reads.
LONG = " ".join(["The configuration of fusappel has many sections."] * 120)

# `run` starts both servers with this limit, so that one document more is a permanent error.
MAX_DOCUMENTS = 64
TOO_MANY = [f"Section {i}" for i in range(MAX_DOCUMENTS + 1)]

TOLERANCE = 1e-6

Ranking = list[tuple[int, float]]


def ragfab_document(index: int, text: str) -> dict:
    """A search hit as RAGFab sends it, with all of its seven fields."""
    return {
        "chunk_id": f"chunk-{index}",
        "document_id": f"document-{index}",
        "document_title": f"Title {index}",
        "document_source": f"/share/{index}.pdf",
        "chunk_index": index,
        "content": text,
        "similarity": 0.5,
    }


def native_ranking(url: str, texts: list[str] = PASSAGES) -> Ranking:
    """The order and the scores of the service's own format."""
    documents = [ragfab_document(i, text) for i, text in enumerate(texts)]
    response = httpx.post(
        f"{url}/rerank",
        json={"query": QUERY, "documents": documents, "top_k": len(documents)},
        timeout=60,
    )
    response.raise_for_status()
    return [(document["chunk_index"], document["rerank_score"]) for document in response.json()["documents"]]


def assert_same(got: Ranking, native: Ranking, top: int | None = None) -> None:
    """The order must be the same, and each score within `TOLERANCE`."""
    expected = native[:top]
    assert [index for index, _ in got] == [index for index, _ in expected]
    for (index, score), (_, wanted) in zip(got, expected, strict=True):
        assert abs(score - wanted) <= TOLERANCE, (index, score, wanted)


def by_text(texts_and_scores: list[tuple[str, float]]) -> Ranking:
    """For clients that give back texts: the texts' places in the request."""
    return [(PASSAGES.index(text), score) for text, score in texts_and_scores]


@dataclass
class Exchange:
    """One request as a client sent it, and the answer as it got it."""

    method: str
    path: str
    headers: dict[str, str]
    request: bytes
    status: int
    answer: bytes

    def body(self):
        return json.loads(self.request)

    def sentence(self) -> str:
        """What the server says is wrong, in one sentence."""
        answer = json.loads(self.answer)
        assert answer["message"], answer
        assert answer["detail"], answer
        return answer["message"]


class Spy:
    """Passes requests on to a server and keeps them."""

    def __init__(self, target: str) -> None:
        self.exchanges: list[Exchange] = []
        handler = type("Handler", (_Handler,), {"target": urlsplit(target).netloc, "spy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def only(self) -> Exchange:
        """The one request there was: fails if the client tried again."""
        assert len(self.exchanges) == 1, [(e.path, e.status) for e in self.exchanges]
        return self.exchanges[0]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    target: str
    spy: Spy

    def _forward(self) -> None:
        request = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        upstream = http.client.HTTPConnection(self.target, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
        upstream.request(self.command, self.path, request, headers)
        response = upstream.getresponse()
        answer = response.read()
        upstream.close()
        self.spy.exchanges.append(
            Exchange(self.command, self.path, dict(self.headers), request, response.status, answer)
        )
        self.send_response_only(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = _forward

    def log_message(self, *_) -> None:
        pass
