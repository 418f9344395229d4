"""Measure the exported model beside BM25, on packages never seen in training.

    python evaluate.py [--work DIR] [--model DIR] [--queries 400]

For each query (a short description) the candidates are its own long description and the
19 that BM25 ranks highest among the held-out packages' (near-duplicates of the right one
left out). Both systems order the same 20. Writes models/demo/evaluation.json.
"""
import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

import bm25
import checks
from data import HELD_OUT, WORK
from model import load, logits
from pairs import typo
from sets import CANDIDATES, MAIN, Sets, interval, reciprocal
from tokenizer import MODEL


class Scorer:
    """The exported model, asked as the server asks it."""

    def __init__(self, folder):
        self.net = load(folder)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(512, strategy="longest_first")

    def logits(self, pairs):
        rows = [e.ids for e in self.tokenizer.encode_batch([(q.strip(), d.strip()) for q, d in pairs])]
        with torch.inference_mode():
            return logits(self.net, rows, 4096)

    def probabilities(self, query, passages):
        return torch.sigmoid(self.logits([(query, p) for p in passages])).tolist()


def baseline(sets, queries, candidates, where, lang):
    """BM25's scores, from the variant that does best on this set."""
    best = None
    docs = [sets.pool.long(r, lang) for r in where]
    for k1 in (1.2, 1.5):
        for stop in (bm25.STOP, set()):
            kept, bm25.STOP = bm25.STOP, stop
            index = bm25.Index(docs, k1=k1)
            q = index.queries(queries)
            bm25.STOP = kept
            scores = np.stack([(index.by_doc[[where[c] for c in row]] @ q[k].T).toarray()[:, 0]
                               for k, row in enumerate(candidates)])
            mean = reciprocal(scores).mean()
            if best is None or mean > best[0]:
                best = (mean, scores, {"k1": k1, "b": 0.75, "stop_words_removed": bool(stop)})
    return best[1], best[2]


def sizes(work):
    """How many packages there are, by side and language."""
    out = {"held_out_share_of_families": HELD_OUT}
    for line in (work / "packages.jsonl").open():
        record = json.loads(line)
        for lang in ("en", "fr"):
            if lang in record:
                key = f"{record['split']}_{lang}"
                out[key] = out.get(key, 0) + 1
    return out


def save(report, out):
    """Written after each set, so that an interrupted run leaves something whole."""
    tmp = out.with_name(out.name + ".tmp")
    tmp.write_text(json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    tmp.rename(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rng = np.random.default_rng(5)
    slips = random.Random(6)
    scorer = Scorer(args.model)
    saved = torch.load(args.work / "checkpoint.pt", mmap=True)
    report = {"training": {"steps": saved["step"], "minutes": round(saved["spent"] / 60, 1)},
              "protocol": {"metric": "MRR@10", "candidates": CANDIDATES, "max_length": 512,
                           "negatives": "BM25 over held-out packages, near-duplicates left out",
                           "interval": "95 % bootstrap over queries"},
              "data": sizes(args.work), "sets": {}, "checks": checks.run(scorer.probabilities)}
    print("checks", {k: f"{g['passed']}/{g['of']}" for k, g in report["checks"]["groups"].items()}, flush=True)
    for r in report["checks"]["results"]:
        if not r["passed"]:
            print("   failed:", r, flush=True)
    sets = Sets(args.work, args.queries)
    every = {
        "en": (*MAIN["en"], None, None, "English query, English text; candidates by the query"),
        "fr": (*MAIN["fr"], None, None, "French query, French text; candidates by the query"),
        "fr-en": (*MAIN["fr-en"], None, None, "French query, English text; candidates by the French query itself"),
        "fr-en-topic": ("fr", "en", "en", None, "French query, English text; candidates by the same package's English short description"),
        "en-typo": ("en", "en", None, lambda q: typo(q, slips), "as en, candidates by the clean query, then one slip typed into it"),
    }
    for name, (ql, dl, by, change, what) in every.items():
        if args.only and name not in args.only:
            continue
        begin = time.time()
        sets.count = args.queries if name in MAIN else args.queries // 2
        queries, candidates, where = sets.make(ql, dl, by, change)
        pairs = [(q, sets.pool.long(c, dl)) for q, row in zip(queries, candidates) for c in row]
        scores = scorer.logits(pairs).view(len(queries), CANDIDATES).numpy()
        theirs, settings = baseline(sets, queries, candidates, where, dl)
        ours, base = reciprocal(scores), reciprocal(theirs)
        prob = 1 / (1 + np.exp(-scores))
        report["sets"][name] = {
            "what": what, "queries": len(queries),
            "model": {"mrr": round(float(ours.mean()), 4), "interval": interval(ours, rng),
                      "top1": round(float((ours == 1).mean()), 4)},
            "bm25": {"mrr": round(float(base.mean()), 4), "interval": interval(base, rng), **settings},
            "difference": {"mrr": round(float((ours - base).mean()), 4), "interval": interval(ours - base, rng)},
            "mean_score": {"right": round(float(prob[:, 0].mean()), 4), "wrong": round(float(prob[:, 1:].mean()), 4)},
        }
        # Absolute scores: the same queries with someone else's passage.
        turned = [(q, sets.pool.long(candidates[(k + 7) % len(queries)][0], dl)) for k, q in enumerate(queries)]
        low = torch.sigmoid(scorer.logits(turned)).numpy()
        report["sets"][name]["random_passage"] = {"mean_score": round(float(low.mean()), 4),
                                                  "share_below_0.1": round(float((low < 0.1).mean()), 4)}
        print(name, json.dumps(report["sets"][name]), f"{time.time() - begin:.0f} s", flush=True)
        save(report, args.out or args.model / "evaluation.json")


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
