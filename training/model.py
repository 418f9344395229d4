"""A lean XLMRobertaForSequenceClassification for CPU training.

The same arithmetic as Hugging Face's, with two savings: one matrix product for Q, K
and V, and in the last layer only the `<s>` row is computed past K and V, since the
classifier reads nothing else. `state()` gives the weights under Hugging Face's names.
"""
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

VOCAB, HIDDEN, LAYERS, HEADS, FFN, POSITIONS, EPS, PAD = 16_000, 256, 4, 4, 1024, 514, 1e-5, 1


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(HIDDEN, 3 * HIDDEN)
        self.out = nn.Linear(HIDDEN, HIDDEN)
        self.norm1 = nn.LayerNorm(HIDDEN, EPS)
        self.up = nn.Linear(HIDDEN, FFN)
        self.down = nn.Linear(FFN, HIDDEN)
        self.norm2 = nn.LayerNorm(HIDDEN, EPS)

    def forward(self, x, mask, first_only):
        b, n, h = x.shape
        if first_only:
            w, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(x[:, :1], w[:h], bias[:h])
            k, v = F.linear(x, w[h:], bias[h:]).split(h, -1)
            x = x[:, :1]
        else:
            q, k, v = self.qkv(x).split(h, -1)
        q, k, v = (t.view(b, -1, HEADS, h // HEADS).transpose(1, 2) for t in (q, k, v))
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = self.norm1(x + self.out(a.transpose(1, 2).reshape(b, -1, h)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Reranker(nn.Module):
    def __init__(self):
        super().__init__()
        self.word = nn.Embedding(VOCAB, HIDDEN)
        self.position = nn.Embedding(POSITIONS, HIDDEN)
        self.kind = nn.Parameter(torch.zeros(HIDDEN))
        self.norm = nn.LayerNorm(HIDDEN, EPS)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.dense = nn.Linear(HIDDEN, HIDDEN)
        self.score = nn.Linear(HIDDEN, 1)

    def forward(self, ids):
        """One logit per row of `ids`, right-padded with PAD."""
        n = ids.shape[1]
        x = self.norm(self.word(ids) + self.position.weight[PAD + 1:PAD + 1 + n] + self.kind)
        pad = ids.eq(PAD)
        mask = torch.zeros(pad.shape).masked_fill_(pad, -1e9)[:, None, None] if pad.any() else None
        for i, layer in enumerate(self.layers):
            x = layer(x, mask, i == LAYERS - 1)
        return self.score(torch.tanh(self.dense(x[:, 0]))).squeeze(-1)

    def state(self):
        """The weights under the names that Hugging Face gives them."""
        own, out = self.state_dict(), {}
        emb = "roberta.embeddings."
        out[emb + "word_embeddings.weight"] = own["word.weight"]
        out[emb + "position_embeddings.weight"] = own["position.weight"]
        out[emb + "token_type_embeddings.weight"] = own["kind"][None]
        names = {"out": "attention.output.dense", "norm1": "attention.output.LayerNorm",
                 "up": "intermediate.dense", "down": "output.dense", "norm2": "output.LayerNorm"}
        for kind in ("weight", "bias"):
            out[emb + "LayerNorm." + kind] = own["norm." + kind]
            for i in range(LAYERS):
                base = f"roberta.encoder.layer.{i}."
                for name, part in zip(("query", "key", "value"), own[f"layers.{i}.qkv.{kind}"].split(HIDDEN)):
                    out[f"{base}attention.self.{name}.{kind}"] = part
                for mine, theirs in names.items():
                    out[f"{base}{theirs}.{kind}"] = own[f"layers.{i}.{mine}.{kind}"]
            out["classifier.dense." + kind] = own["dense." + kind]
            out["classifier.out_proj." + kind] = own["score." + kind]
        return {k: v.contiguous().clone() for k, v in out.items()}


def pad(rows):
    """Lists of ids as one right-padded tensor."""
    n = max(map(len, rows))
    return torch.tensor([r + [PAD] * (n - len(r)) for r in rows])


def logits(model, rows, batch_tokens=2500, sort=True):
    """Score many sequences: sorted by length, so that little is padding."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i])) if sort else list(range(len(rows)))
    parts, start = [], 0
    while start < len(order):
        end = start + 1
        while end < len(order) and len(rows[order[end]]) * (end + 1 - start) <= batch_tokens:
            end += 1
        parts.append(model(pad([rows[i] for i in order[start:end]])))
        start = end
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(parts)[back]


def load(folder):
    """The lean model with the weights of a Hugging Face folder, in float32."""
    saved = load_file(str(folder / "model.safetensors"))
    net = Reranker()
    own = {"kind": saved.pop("roberta.embeddings.token_type_embeddings.weight")[0]}
    pairs = {"word": "roberta.embeddings.word_embeddings", "position": "roberta.embeddings.position_embeddings",
             "norm": "roberta.embeddings.LayerNorm", "dense": "classifier.dense", "score": "classifier.out_proj"}
    for i in range(LAYERS):
        base = f"roberta.encoder.layer.{i}."
        for kind in ("weight", "bias"):
            own[f"layers.{i}.qkv.{kind}"] = torch.cat(
                [saved[f"{base}attention.self.{n}.{kind}"] for n in ("query", "key", "value")])
        for mine, theirs in {"out": "attention.output.dense", "norm1": "attention.output.LayerNorm",
                             "up": "intermediate.dense", "down": "output.dense", "norm2": "output.LayerNorm"}.items():
            pairs[f"layers.{i}.{mine}"] = base + theirs
    for mine, theirs in pairs.items():
        for kind in ("weight", "bias"):
            if f"{theirs}.{kind}" in saved:
                own[f"{mine}.{kind}"] = saved[f"{theirs}.{kind}"]
    net.load_state_dict({k: v.float() for k, v in own.items()})
    return net.eval()
