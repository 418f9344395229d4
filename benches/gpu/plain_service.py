"""benches/peers/old_service.py without FastAPI, where that is not installed: Python's own HTTP server around the same engine.

It computes one request at a time, as the old service's handler does, and checks less of it, so it is the faster of both.
"""
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "peers"))
from old_service import arguments, engine


class Listener(HTTPServer):
    request_queue_size = 1024


def handler(model, name):
    def pairs(body):
        return [[body["query"], document["content"]] for document in body["documents"]]

    def rerank(body):
        scored = list(zip(body["documents"], map(float, model.scores(pairs(body)))))
        scored.sort(key=lambda pair: pair[1], reverse=True)
        best = [document for document, _ in scored[:body.get("top_k", 5)]]
        return {"documents": best, "count": len(best), "model": name}

    def logits(body):
        return {"logits": model.logits(pairs(body)).tolist()}

    paths = {"/rerank": rerank, "/logits": logits}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/health":
                self.answer({"status": "healthy"})
            else:
                self.send_error(404)

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(paths[self.path](body))

        def answer(self, value):
            text = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", f"{len(text)}")
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass  # a line for every request

    return Handler


def main():
    args = arguments()
    Listener(("127.0.0.1", args.port), handler(engine(args), args.model)).serve_forever()


if __name__ == "__main__":
    main()
