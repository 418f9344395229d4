"""The weights that training starts from: built, not drawn.

There are minutes, not days, of CPU time, so the model starts as a soft lexical
matcher and learns from there. The hidden dimensions are laid out as

    0..95     identity: a random unit vector per piece, for exact matching
    96..191   meaning: a cross-lingual LSA of the descriptions, a package's English and
              French text being one context, so that "serveur" starts near "server"
    192..194  inverse document frequency, "is a token" (negative for <s>), word start
    195, 196  position: fades with distance from the start, where the query is
    198..239  position: sinusoids
    240..247  where the heads of the first layers write their matches
    248..251  where <s> gathers them in the last layer, and the classifier looks

Matching heads have W_Q = W_K on identity or meaning; the position part is negated in W_K,
so that a token does not simply find itself, and <s> is the place to look when nothing
matches: what a head then reads ("is a token") tells a match from none. OPTIONS were
tuned on the untrained model, which already ranks well above chance.
"""
import json
import math

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import nnls
from sklearn.utils.extmath import randomized_svd

from model import HIDDEN, POSITIONS, VOCAB

IDENTITY, MEANING, IDF, TOKEN, BEGIN, EARLY, PLACE, FREQS, MATCH, GATHER = 0, 96, 192, 193, 194, 195, 198, 21, 240, 248
SWING, GAIN = 0.13, 10.3  # the size of a position wave, and what layer norm makes of it


def contexts(work, tokenizer):
    """Piece counts per distinct description: (matrix, document frequency)."""
    seen, texts = set(), []
    for line in (work / "packages.jsonl").open():
        r = json.loads(line)
        if r["split"] != "train" or r["en"]["long"][0] in seen:
            continue
        seen.add(r["en"]["long"][0])
        texts.append(" ".join(r["en"]["short"] for _ in range(2)) + " " + " ".join(r["en"]["long"])[:1200])
        texts.append((" ".join(r["fr"]["short"] for _ in range(2)) + " " + " ".join(r["fr"]["long"])[:1400])
                     if "fr" in r else "")
    encoded = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
    ids = np.concatenate([np.array(e, np.int64) for e in encoded])
    rows = np.repeat(np.arange(len(encoded)), [len(e) for e in encoded])
    x = sparse.csr_matrix((np.ones(len(ids), np.float32), (rows, ids)), shape=(len(encoded), VOCAB))
    x.sum_duplicates()
    df = np.bincount(x.indices, minlength=VOCAB)
    return x, df


def meaning(x, df, size):
    """Unit vectors per piece; each language's side of a package weighs the same."""
    idf = np.log(x.shape[0] / (1 + df)).clip(0)
    x = x.copy()
    x.data = (1 + np.log(x.data)) * idf[x.indices]
    norm = np.sqrt(np.asarray(x.multiply(x).sum(1)).ravel()) + 1e-6
    x = sparse.diags(1 / norm) @ x
    x = (x[0::2] + x[1::2]).tocsr()  # English + French of one package
    u, s, _ = randomized_svd(x.T.tocsr(), size + 1, n_iter=4, random_state=0)
    v = (u * s**0.4)[:, 1:]
    v -= v.mean(0)
    v /= np.linalg.norm(v, axis=1, keepdims=True) + 1e-9
    return v * np.sqrt(df / (df + 4.0))[:, None]


def words(work, tokenizer):
    """The word embeddings."""
    rng = np.random.default_rng(0)
    x, df = contexts(work, tokenizer)
    e = rng.normal(0, 0.01, (VOCAB, HIDDEN))
    ident = rng.normal(size=(VOCAB, 96))
    for h in (0, 48):  # each head's half has the same norm
        ident[:, h:h + 48] /= np.linalg.norm(ident[:, h:h + 48], axis=1, keepdims=True) * math.sqrt(2)
    e[:, IDENTITY:IDENTITY + 96] = ident
    v = meaning(x, df, 96) * math.sqrt(0.8)
    e[:, MEANING:MEANING + 96] = np.concatenate([v[:, 0::2], v[:, 1::2]], 1)
    idf = np.log(x.shape[0] / 2 / (1 + df))
    idf = (idf - idf.mean()) / idf.std()
    weight = np.log(x.shape[0] / 2 / (1 + df))
    weight = (weight - np.average(weight, weights=df)) / 3  # 0 at the average running token
    e[:, IDF] = 0.25 * weight.clip(-2, 3)
    e[:, TOKEN] = 0.3
    begins = np.array([tokenizer.id_to_token(i).startswith("▁") for i in range(VOCAB)])
    e[:, BEGIN] = np.where(begins, 0.1, -0.1)
    e[0, TOKEN], e[0, IDF], e[[1, 2], IDF], e[2, TOKEN] = -0.6, 0, 0, 0
    e[1] = 0
    return torch.tensor(e, dtype=torch.float32)


def kernel(width, count):
    """`count` frequencies and weights whose cosines sum to about a Gaussian of distance."""
    waves = frequencies()
    t = np.arange(0, 160)
    target = np.exp(-t**2 / (2 * width**2))
    basis = np.cos(np.outer(t, waves))
    weight, _ = nnls(basis, target)
    kept = np.sort(np.argsort(-weight)[:count])
    weight, _ = nnls(basis[:, kept], target)
    return list(zip(kept, weight))


def frequencies():
    """Wavelengths from 4 to 400 tokens."""
    return 2 * math.pi / (4 * 100 ** (np.arange(FREQS) / (FREQS - 1)))


def places():
    """Sinusoidal positions in their own dimensions, and two that fade with distance from the start."""
    p = torch.zeros(POSITIONS, HIDDEN)
    t = torch.arange(POSITIONS).float() - 2
    for f, w in enumerate(frequencies()):
        p[:, PLACE + 2 * f] = SWING * torch.sin(w * t)
        p[:, PLACE + 2 * f + 1] = SWING * torch.cos(w * t)
    p[:, EARLY] = 0.6 * torch.exp(-t / 8)
    p[:, EARLY + 1] = 0.4 * torch.exp(-t / 24)
    p[:3] = 0  # <s> has no place: it is equally far from every token
    return p


def matching(layer, heads, o):
    """Heads that look for equal or related pieces elsewhere, else at <s>."""
    w = layer.qkv.weight.data.view(3, 4, 64, HIDDEN)
    out = layer.out.weight.data
    for h in heads:
        w[:, h] = torch.randn_like(w[:, h]) * 0.01
        base = (IDENTITY, IDENTITY + 48, MEANING, MEANING + 48)[h]
        scale = o["identity"] if h < 2 else o["meaning"]
        for d in range(48):
            w[0, h, d, base + d] = w[1, h, d, base + d] = scale
        for j, (f, share) in enumerate(kernel(o["width"], 7)):
            g = math.sqrt(8 * o["away"] * share) / (SWING * GAIN)
            for s in range(2):
                w[0, h, 48 + 2 * j + s, PLACE + 2 * f + s] = g
                w[1, h, 48 + 2 * j + s, PLACE + 2 * f + s] = -g
        g = math.sqrt(8 * (o["sink"] if h < 2 else o["meaning_sink"]) / 27)
        w[0, h, 62, TOKEN], w[1, h, 62, TOKEN] = g, -g
        w[2, h] = torch.randn_like(w[2, h]) * 0.03
        w[2, h, :2] = 0
        w[2, h, 0, TOKEN], w[2, h, 1, IDF] = 1.0, 1.0
        out[:, h * 64:h * 64 + 64] = torch.randn(HIDDEN, 64) * 0.02
        out[:, h * 64:h * 64 + 2] = 0
        out[MATCH + 2 * h, h * 64] = 0.4
        out[MATCH + 2 * h + 1, h * 64 + 1] = 0.4


def gathering(layer, o):
    """<s> reads the matches of the early (query) tokens, the rarer the more; a head for each kind."""
    w = layer.qkv.weight.data.view(3, 4, 64, HIDDEN)
    out = layer.out.weight.data
    for h in range(4):
        w[:, h] = torch.randn_like(w[:, h]) * 0.02
        w[0, h, 0, TOKEN] = -8 / 6.0  # about 8 where <s> asks
        w[1, h, 0, IDF] = o["rare"]
        w[1, h, 0, EARLY] = o["early"] * (1 if h < 3 else 0.3)
        w[1, h, 0, TOKEN] = 0.3
        w[2, h, :8] = 0
        for d in range(8):
            w[2, h, d, MATCH + d] = 1.0
        out[:, h * 64:h * 64 + 64] = torch.randn(HIDDEN, 64) * 0.02
        out[:, h * 64:h * 64 + 8] = 0
        weights = o["weights"]
        for d in range(8):
            out[GATHER + h, h * 64 + d] = weights[d]


OPTIONS = {"identity": 1.15, "meaning": 1.35, "width": 4, "away": 14.0, "sink": 5.0, "meaning_sink": 5.0,
           "rare": 0.25, "early": 1.0, "weights": (1, 0, 1, 0, 1, 0, 1, 0)}


def build(model, work, tokenizer, o=OPTIONS):
    """Fill the model with the starting weights."""
    torch.manual_seed(0)
    model.word.weight.data.copy_(words(work, tokenizer))
    model.position.weight.data.copy_(places())
    for i, layer in enumerate(model.layers):
        for linear in (layer.qkv, layer.out, layer.up, layer.down):
            linear.bias.data.zero_()
            linear.weight.data.normal_(0, {layer.qkv: 0.045, layer.up: 0.045}.get(linear, 0.012))
    matching(model.layers[0], range(4), o)
    matching(model.layers[1], (2, 3), o)
    gathering(model.layers[3], o)
    model.dense.weight.data.normal_(0, 0.04)
    model.score.weight.data.normal_(0, 0.03)
    model.dense.bias.data.zero_()
    model.dense.weight.data[:4] = 0
    for h in range(4):
        model.dense.weight.data[h, GATHER + h] = 0.3
        model.score.weight.data[0, h] = 0.8
    model.score.bias.data.fill_(-1.5)  # most candidates are wrong
    return model
