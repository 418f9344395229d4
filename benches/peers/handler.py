"""The FastAPI application of the service that this one replaces, in its exact shape, around any engine.

Its handler is a coroutine that computes in the event loop, one request at a time. An engine has
two methods over a list of [query, document] pairs: `scores`, what the service sorts by, and
`logits`, what they were before the sigmoid. `/logits` is not the old service's: it answers the
latter in the order of the request, for the comparison of scores.
"""
import time
from typing import List, Optional

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel


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


def pairs(request):
    return [[request.query, document.content] for document in request.documents]


def application(engine, name):
    app = FastAPI(title="Serveur de reranking")

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
        scored = list(zip(request.documents, engine.scores(pairs(request))))
        scored.sort(key=lambda pair: pair[1], reverse=True)
        best = [document for document, _ in scored[:min(request.top_k, len(scored))]]
        return RerankResponse(documents=best, count=len(best), model=name,
                              processing_time=time.time() - started)

    @app.post("/logits")
    async def logits(request: RerankRequest):
        return {"logits": engine.logits(pairs(request)).tolist()}

    return app
