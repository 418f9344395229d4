"""The evaluation sets: queries with candidates from packages never seen in training, and MRR.

Apart from evaluate.py so that whoever measures something else on them needs no PyTorch.
"""
import random

import numpy as np

import bm25

CANDIDATES = 20
# Language of the query and of the text; the other sets of evaluate.py get half the queries.
MAIN = {"en": ("en", "en"), "fr": ("fr", "fr"), "fr-en": ("fr", "en")}


def reciprocal(scores):
    """1/rank of column 0 if within ten; ties count half."""
    above = (scores[:, 1:] > scores[:, :1]).sum(1) + 0.5 * (scores[:, 1:] == scores[:, :1]).sum(1)
    return np.where(above + 1 <= 10, 1 / (above + 1), 0.0)


def interval(values, rng):
    """The 95 % bootstrap interval of the mean."""
    means = values[rng.integers(0, len(values), (2000, len(values)))].mean(1)
    return [round(float(v), 4) for v in np.percentile(means, [2.5, 97.5])]


class Sets:
    """The queries and their candidates."""

    def __init__(self, work, count):
        self.pool, self.count, self.rng = bm25.Pool(work, "test"), count, random.Random(99)
        self.every = list(range(len(self.pool.packages)))
        self.index = {"en": bm25.Index([self.pool.long(i, "en") for i in self.every]),
                      "fr": bm25.Index([self.pool.long(i, "fr") for i in self.pool.french])}

    def choose(self, rows):
        """One package per source, so that no project counts twice."""
        seen, out = set(), []
        for i in self.rng.sample(rows, len(rows)):
            source = self.pool.packages[i]["source"]
            if source not in seen:
                seen.add(source)
                out.append(i)
        return sorted(out[:self.count])

    def make(self, query_lang, doc_lang, by=None, change=None):
        """(query texts, candidate rows), the right one first; candidates by the query
        itself or by the same package's short description in language `by`."""
        french = "fr" in (query_lang, doc_lang)
        chosen = self.choose(self.pool.french if french else self.every)
        rows = self.pool.french if doc_lang == "fr" else self.every
        where = {r: k for k, r in enumerate(rows)}
        queries = [self.pool.short(i, query_lang) for i in chosen]
        finder = [self.pool.short(i, by) for i in chosen] if by else queries
        top = self.index[doc_lang].top(finder, CANDIDATES - 1, lambda q, d: self.pool.alike(chosen[q], rows[d]))
        candidates = []
        for q, i in enumerate(chosen):
            found = [rows[d] for d in top[q] if d >= 0]
            while len(found) < CANDIDATES - 1:
                j = self.rng.choice(rows)
                if j not in found and j != i and not self.pool.alike(i, j):
                    found.append(j)
            candidates.append([i] + found)
        if change:
            queries = [change(q) for q in queries]
        return queries, candidates, where
