"""The service that this one replaces, in its exact shape: FastAPI around sentence-transformers.

    python old_service.py MODEL_DIR --port 8003 --threads 2
    python old_service.py MODEL_DIR --port 8003 --threads 2 --batch-size 8

Its handler is a coroutine that computes in the event loop, one request at a time. It calls
`predict` with its defaults: batches of 32 pairs, sorted by length, each padded to its longest.
With `--batch-size 8` the same sort wastes much less on padding: the best that torch does in f32
without being rewritten.

`/logits` is not the old service's: it answers what `predict` computed, before the sigmoid and the
sort, for the comparison of scores.
"""
import argparse
import time
from typing import List, Optional

import torch
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sentence_transformers import CrossEncoder


class DocumentItem(BaseModel):
    chunk_id: str
    document_id: str
    document_title: str
    document_source: str
    chunk_index: int
    content: str
    similarity: float


class RerankRequest(BaseModel):
    query: str
    documents: List[DocumentItem]
    top_k: Optional[int] = 5


class RerankResponse(BaseModel):
    documents: List[DocumentItem]
    count: int
    model: str
    processing_time: float


def application(model, name, batch_size):
    app = FastAPI(title="Serveur de reranking")

    def predict(request, **options):
        pairs = [[request.query, document.content] for document in request.documents]
        return model.predict(pairs, batch_size=batch_size, **options)

    @app.get("/health")
    async def health():
        return {"status": "healthy", "model": name}

    @app.post("/rerank", response_model=RerankResponse)
    async def rerank(request: RerankRequest):
        if not request.query or not request.query.strip():
            raise HTTPException(status_code=400, detail="La query ne peut pas être vide")
        if not request.documents:
            raise HTTPException(status_code=400, detail="La liste de documents ne peut pas être vide")
        started = time.time()
        scored = list(zip(request.documents, predict(request)))
        scored.sort(key=lambda pair: pair[1], reverse=True)
        best = [document for document, _ in scored[:min(request.top_k, len(scored))]]
        return RerankResponse(documents=best, count=len(best), model=name,
                              processing_time=time.time() - started)

    @app.post("/logits")
    async def logits(request: RerankRequest):
        return {"logits": predict(request, activation_fn=torch.nn.Identity()).tolist()}

    return app


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL_DIR")
    parser.add_argument("--port", type=int, default=8002)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = CrossEncoder(args.model, max_length=512, device="cpu")
    if model.model.dtype != torch.float32:
        raise SystemExit(f"the weights were loaded as {model.model.dtype}; the comparison is in float32")
    app = application(model, args.model, args.batch_size)
    uvicorn.run(app, host="127.0.0.1", port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
