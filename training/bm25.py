"""BM25 over the descriptions: the source of hard negatives, and the baseline to beat.

    python bm25.py [--work DIR]

writes DIR/negatives.npz: for each training package the rows of the best wrong
documents, for English and French queries against documents in the same language and
for French queries against English documents.
"""
import argparse
import json
import re
import unicodedata
from pathlib import Path

import numpy as np
from scipy import sparse

from data import WORK, stem

WORD = re.compile(r"\w+")
STOP = set("a an the of for to in and or with on by is are it this that from as be at how what which do i can "
           "le la les un une des de du d l et ou pour dans en avec sur par est sont ce cet cette au aux que qui "
           "quel quelle comment je il".split())


def words(text, fold=True):
    """Lower-cased words without accents or stop words: where BM25 did best here."""
    text = text.lower()
    if fold:
        text = unicodedata.normalize("NFKD", text)
        text = "".join(c for c in text if not unicodedata.combining(c))
    return [w for w in WORD.findall(text) if w not in STOP]


class Index:
    """BM25 as one sparse matrix: a query is a row of word counts times it."""

    def __init__(self, docs, k1=1.2, b=0.75):
        self.vocab = {}
        rows, cols, vals, lengths = [], [], [], []
        for r, doc in enumerate(docs):
            tokens = words(doc)
            lengths.append(len(tokens))
            for w in tokens:
                rows.append(r)
                cols.append(self.vocab.setdefault(w, len(self.vocab)))
        tf = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, cols)), shape=(len(docs), len(self.vocab)))
        tf.sum_duplicates()
        df = np.bincount(tf.indices, minlength=len(self.vocab))
        self.idf = np.log(1 + (len(docs) - df + 0.5) / (df + 0.5)).astype(np.float32)
        lengths = np.array(lengths, np.float32)
        norm = k1 * (1 - b + b * lengths / max(lengths.mean(), 1))
        owner = np.repeat(np.arange(len(docs)), np.diff(tf.indptr))
        tf.data = tf.data * (k1 + 1) / (tf.data + norm[owner]) * self.idf[tf.indices]
        self.by_doc = tf
        self.by_word = tf.T.tocsr()

    def queries(self, texts):
        """The word counts of each text, as a sparse matrix."""
        rows, cols = [], []
        for r, text in enumerate(texts):
            for w in words(text):
                if w in self.vocab:
                    rows.append(r)
                    cols.append(self.vocab[w])
        return sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, cols)), shape=(len(texts), len(self.vocab)))

    def top(self, texts, keep, banned, chunk=256):
        """Rows of the `keep` best documents of each text, less banned(query, row)."""
        out = np.full((len(texts), keep), -1, np.int32)
        for start in range(0, len(texts), chunk):
            scores = (self.queries(texts[start:start + chunk]) @ self.by_word).tocsr()
            for i in range(scores.shape[0]):
                lo, hi = scores.indptr[i], scores.indptr[i + 1]
                data, idx = scores.data[lo:hi], scores.indices[lo:hi]
                best = np.argpartition(-data, min(3 * keep, len(data) - 1))[:3 * keep] if len(data) > 3 * keep else np.arange(len(data))
                best = idx[best[np.argsort(-data[best], kind="stable")]]
                good = [j for j in best if not banned(start + i, j)][:keep]
                out[start + i, :len(good)] = good
        return out


class Pool:
    """The packages of one split, and which of them are too alike to be negatives."""

    def __init__(self, work, side):
        records = (json.loads(line) for line in (work / "packages.jsonl").open())
        self.packages = [r for r in records if r["split"] == side]
        self.names = [r["name"] for r in self.packages]
        self.french = [i for i, r in enumerate(self.packages) if "fr" in r]
        self.keys = [{"s/" + r["source"], "t/" + stem(r["name"]), "p/" + r["en"]["long"][0],
                      "q/" + r["en"]["short"].lower()} for r in self.packages]

    def alike(self, a, b):
        return not self.keys[a].isdisjoint(self.keys[b])

    def long(self, i, lang):
        return " ".join(self.packages[i][lang]["long"])

    def short(self, i, lang):
        return self.packages[i][lang]["short"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=WORK)
    work = parser.parse_args().work
    pool = Pool(work, "train")
    every, french = np.arange(len(pool.packages)), np.array(pool.french)
    en = Index([pool.long(i, "en")[:1500] for i in every])
    fr = Index([pool.long(i, "fr")[:1500] for i in french])
    out = {"en": en.top([pool.short(i, "en") for i in every], 30, lambda q, d: pool.alike(q, d))}
    print("en done", flush=True)
    fr_short = [pool.short(i, "fr") for i in french]
    rows = fr.top(fr_short, 30, lambda q, d: pool.alike(french[q], french[d]))
    out["fr"] = np.full_like(out["en"], -1)
    out["fr"][french] = np.where(rows >= 0, french[rows], -1)
    out["fr-en"] = np.full_like(out["en"], -1)
    out["fr-en"][french] = en.top(fr_short, 30, lambda q, d: pool.alike(french[q], d))
    np.savez(work / "negatives.tmp.npz", **out)
    (work / "negatives.tmp.npz").rename(work / "negatives.npz")


if __name__ == "__main__":
    main()
