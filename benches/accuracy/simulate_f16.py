"""f16 as a GPU computes it, in torch on the CPU: what rounding costs by scheme, and whether an overflow shows in the score.

    python simulate_f16.py [--models demo hard deep] [--queries 20] [--out FILE.json]

Rounding is f32 to f16 and back, to the nearest, and beyond 65504 to infinity. The products of two f16 values are exact in
f32 and are summed in f32, as tensor cores do (in another order). In all schemes but the first:

- Weights are rounded, and so are the operands of every product.
- Query, key, value and the pre-activations (product + rounded bias, in f32) are rounded once.
- Scores and softmax are in f32. exp(score - largest) is rounded before it multiplies V; its sum is not.
- GELU is exact, from the rounded pre-activation, and rounded.
- Attention's output and the FFN's second product stay in f32; + bias + residual and the norm are in f32.

They differ in the residual stream and in the last point; see `SCHEMES`. The head multiplies f16 operands too, unless it says otherwise.

The models: `demo` is --model; `hard` is the same with outlier channels (harden.py); `deep` is random, of --layers and
--hidden (benches/peers/make_checkpoint.py); `deep-hard` is that with outlier channels. All is compared with f32. The second
table has the largest values by place, in scheme A.

The third is about overflow (--overflow queries of each set; 0: none). One place of one layer is rescaled so that it passes 65504
in about half of the sequences: FFN-up (times s, FFN-down by s), queries or keys (times s, the other by s), values (times s, the
output's weights by s). A logit that is finite although something overflowed would be a wrong score that nobody notices. Rules:

- ieee: infinities and NaN go where arithmetic takes them; gelu(-inf) is -inf * 0 = NaN.
- scores: a score of -inf becomes NaN as well, since exp would make it a harmless-looking 0.
- rounding: what overflows when it is rounded becomes NaN instead of infinity.
"""
import argparse
import collections
import contextlib
import copy
import dataclasses
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "training")]

import accuracy  # noqa: E402
import harden  # noqa: E402
import measures  # noqa: E402
import model as twin  # noqa: E402
import simulate  # noqa: E402

LARGEST = 65504.0
OVERFLOWS = 65520.0  # from here on the nearest f16 is infinity
SAME = 1e-4  # how far this file's network may be from training's where nothing is rounded
CHECKED = 40  # sequences, for that
COLUMNS = ("mean", "max", "RMS", "τ mean", "τ worst", "same top 5", "same order", "top 1 changed")
ROUNDED = ("Q", "K", "V", "context", "pre-GELU", "GELU")  # places that every f16 scheme rounds
PLACES = (*ROUNDED[:3], "q·k", "context", "attention output", "pre-GELU", "FFN-down output", "sum before norm", "norm output")
OVERFLOWING = ("pre-GELU", "Q", "K", "V")
RULES = ("ieee", "scores", "rounding")


# --- The network ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scheme:
    """What is rounded to f16."""
    weights: bool = True
    activations: bool = True
    residual: bool = True  # the norm's output, also where it is the residual
    products: bool = False  # attention's output and FFN-down
    everything: bool = False  # also the sums, the norms' weights, all biases, the head and the logit
    rule: str = "ieee"


EXACT = Scheme(weights=False, activations=False, residual=False)
A, B = Scheme(), Scheme(residual=False)
C = Scheme(products=True)
SCHEMES = {
    "weights only": Scheme(activations=False, residual=False),
    "A: norm's output in f16, also as residual": A,
    "B: residual in f32": B,
    "C: A, and all products rounded": C,
    "plain .half(): C, and sums, head, logit": Scheme(products=True, everything=True),
}


def half(x):
    return x.half().float()


def half_or_nan(x):
    y = half(x)
    return torch.where(y.isinf(), math.nan, y)


def same(x):
    return x


def gelu(x):
    """By the formula: -inf becomes NaN."""
    return 0.5 * x * (1 + torch.erf(x * math.sqrt(0.5)))


def batches(rows, tokens):
    """Indices of sequences of one length, at most so many tokens at once: nothing is padded."""
    lengths = collections.defaultdict(list)
    for i, row in enumerate(rows):
        lengths[len(row)].append(i)
    for length, indices in sorted(lengths.items()):
        step = max(1, tokens // length)
        yield from (indices[i:i + step] for i in range(0, len(indices), step))


class Network:
    """training's network, computed by a scheme."""

    def __init__(self, net, scheme, watch=False):
        """`watch`: keep each sequence's smallest and largest value by place and layer."""
        self.net, self.scheme, self.watch, self.heads = net, scheme, watch, twin.HEADS
        every = scheme.everything
        round_ = half_or_nan if scheme.rule == "rounding" else half
        self.half = round_ if scheme.activations else same
        self.keep = round_ if scheme.residual else same
        self.product = round_ if scheme.products else same
        self.rest = round_ if every else same
        weight = half if scheme.weights else same
        self.embeddings = [weight(t.detach()) for t in (net.word.weight, net.position.weight, net.kind)]
        self.layers = []
        for layer in net.layers:
            early = {"qkv": layer.qkv, "up": layer.up}  # their biases are added before the rounding
            late = {"out": layer.out, "down": layer.down}
            parts = {name: (weight(part.weight), weight(part.bias)) for name, part in early.items()}
            parts |= {name: (weight(part.weight), weight(part.bias) if every else part.bias) for name, part in late.items()}
            self.layers.append(parts | {"norm1": self.norm(layer.norm1), "norm2": self.norm(layer.norm2)})
        self.first_norm = self.norm(net.norm)
        self.span = {}  # of the current batch

    def norm(self, part):
        return self.rest(part.weight.detach()), self.rest(part.bias.detach())

    def note(self, place, n, x):
        if self.watch:
            low, high = x.flatten(1).aminmax(dim=1)
            self.span[place, n] = torch.stack([low, high], 1)

    def normed(self, x, norm, n):
        x = self.rest(x)
        self.note("sum before norm", n, x)
        x = F.layer_norm(x, x.shape[-1:], *norm, twin.EPS)
        self.note("norm output", n, x)
        return self.keep(x)

    def attention(self, q, k, v, n):
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        scores = q @ k.transpose(-1, -2)
        self.note("q·k", n, scores)
        scores = scores / math.sqrt(q.shape[-1])
        if self.scheme.rule == "scores":
            scores = torch.where(scores == -math.inf, math.nan, scores)
        p = torch.exp(scores - scores.amax(-1, keepdim=True))
        context = self.half(p) @ v / p.sum(-1, keepdim=True)
        return context.transpose(1, 2).flatten(-2)

    def rounded(self, place, n, x):
        self.note(place, n, x)
        return self.half(x)

    def layer(self, x, n):
        """In the last layer only the first row is computed past K and V."""
        parts, size = self.layers[n], x.shape[-1]
        into = self.half(x)
        if n == len(self.layers) - 1:
            weight, bias = parts["qkv"]
            q = F.linear(into[:, :1], weight[:size], bias[:size])
            k, v = F.linear(into, weight[size:], bias[size:]).split(size, -1)
            x = x[:, :1]
        else:
            q, k, v = F.linear(into, *parts["qkv"]).split(size, -1)
        q, k, v = (self.rounded(place, n, t) for place, t in zip("QKV", (q, k, v)))
        out = F.linear(self.rounded("context", n, self.attention(q, k, v, n)), *parts["out"])
        self.note("attention output", n, out)
        x = self.normed(x + self.product(out), parts["norm1"], n)
        up = self.rounded("pre-GELU", n, F.linear(self.half(x), *parts["up"]))
        down = F.linear(self.rounded("GELU", n, gelu(up)), *parts["down"])
        self.note("FFN-down output", n, down)
        return self.normed(x + self.product(down), parts["norm2"], n)

    def states(self, ids):
        """The last layer's first row."""
        word, position, kind = self.embeddings
        x = self.rest(word[ids] + kind) + position[twin.PAD + 1:twin.PAD + 1 + ids.shape[1]]
        x = self.normed(x, self.first_norm, -1)
        for n in range(len(self.layers)):
            x = self.layer(x, n)
        return x[:, 0]

    def head(self, states, exact=False):
        """`exact`: weights and operands in f32."""
        dense, score = self.net.dense, self.net.score
        weight = half if self.scheme.weights and not exact else same
        into = same if exact else self.half
        bias = weight if self.scheme.everything else same
        x = torch.tanh(self.rest(F.linear(into(states), weight(dense.weight), bias(dense.bias))))
        return self.rest(F.linear(into(x), weight(score.weight), bias(score.bias))).squeeze(-1)

    def run(self, rows):
        """All states, and by (place, layer) the span of each sequence's values."""
        states, spans = torch.empty(len(rows), self.net.score.in_features), {}
        with torch.inference_mode():
            for indices in batches(rows, simulate.BATCH_TOKENS):
                self.span = {}
                states[indices] = self.states(torch.tensor([rows[i] for i in indices]))
                for key, span in self.span.items():
                    spans.setdefault(key, torch.full((len(rows), 2), math.nan))[indices] = span
        return states, spans

    def logits(self, rows, exact_head=False):
        return self.scored(self.run(rows)[0], exact_head)

    def scored(self, states, exact_head=False):
        with torch.inference_mode():
            return self.head(states, exact_head)


# --- Accuracy ---------------------------------------------------------------------------------


def take_shape(folder):
    """Give training's network this model's sizes."""
    config = json.loads((folder / "config.json").read_text())
    for name, key in {"VOCAB": "vocab_size", "HIDDEN": "hidden_size", "LAYERS": "num_hidden_layers", "EPS": "layer_norm_eps",
                      "HEADS": "num_attention_heads", "FFN": "intermediate_size", "POSITIONS": "max_position_embeddings"}.items():
        setattr(twin, name, config[key])


def check(simulator):
    """Where nothing is rounded, this network must be training's."""
    rows = simulator.rows[:CHECKED]
    with torch.inference_mode():
        theirs = twin.logits(simulator.net, rows, simulate.BATCH_TOKENS)
    worst = float((Network(simulator.net, EXACT).logits(rows) - theirs).abs().max())
    if not worst < SAME:
        raise SystemExit(f"the two networks differ by {worst:.1e} in f32; allowed is {SAME:.0e}")


def cells(row):
    error = row["error"]
    return [*(f"{error[key]:.2g}" for key in ("mean", "max", "rms")), f"{row['tau_mean']:.5f}", f"{row['tau_worst']:.3f}",
            f"{row['top5_same']:.1%}", f"{row['order_same']:.1%}", f"{row['top1_changed']:.2%}"]


def line(*texts):
    print("| " + " | ".join(texts) + " |", flush=True)


def head_line(*texts):
    line(*texts)
    print("|" + "---|" * len(texts), flush=True)


def peaks(spans):
    """The largest magnitude by place, over sequences and layers."""
    return {place: max(float(span.abs().max()) for (at, _), span in spans.items() if at == place) for place in PLACES}


def compare(name, simulator):
    """Every scheme on one model: prints the rows; returns them, and the largest values in scheme A."""
    check(simulator)
    reference, result, largest = simulator.logits(), {}, {}
    spread = float(reference.std(axis=1).mean())
    for title, scheme in SCHEMES.items():
        network = Network(simulator.net, scheme, watch=scheme == A)
        states, spans = network.run(simulator.rows)
        for exact in (False, True) if scheme in (A, B) else (False,):
            full = title + (", head in f32" if exact else "")
            logits = network.scored(states, exact).double().numpy().reshape(simulator.shape)
            result[full] = measures.compare(logits, reference)
            line(name, full, *cells(result[full]))
        if spans:
            largest = peaks(spans)
    return {"queries": len(reference), "sequences": len(simulator.rows), "tokens": sum(map(len, simulator.rows)),
            "logits_deviation_within_query": spread, "schemes": result, "largest": largest}


def print_largest(models):
    print()
    head_line("largest value, scheme A", *models)
    for place in PLACES:
        values = [model["largest"][place] for model in models.values()]
        line(place, *(f"{value:.4g} ({value / LARGEST:.3%})" for value in values))
    line("(deviation of a query's logits)", *(f"{model['logits_deviation_within_query']:.3g}" for model in models.values()))
    print()


# --- Overflow ---------------------------------------------------------------------------------


def rescaled(net, place, n, factor):
    """A copy in which this place of layer n is `factor` times larger, and what reads it takes that back."""
    changed = copy.deepcopy(net)
    layer, size = changed.layers[n], twin.HIDDEN
    with torch.no_grad():
        if place == "pre-GELU":
            layer.up.weight *= factor
            layer.up.bias *= factor
            layer.down.weight /= factor
        else:
            mine = "QKV".index(place)
            for t in (layer.qkv.weight, layer.qkv.bias):
                t[mine * size:(mine + 1) * size] *= factor
                if place != "V":
                    t[(1 - mine) * size:(2 - mine) * size] /= factor
            if place == "V":
                layer.out.weight /= factor
    return changed


def overflowed(spans):
    """By sequence, whether something was rounded to -inf and to +inf. Where NaN came in, it was counted before."""
    spans = torch.stack([span for (place, _), span in spans.items() if place in ROUNDED])
    return (spans[..., 0] <= -OVERFLOWS).any(0), (spans[..., 1] >= OVERFLOWS).any(0)


def overflow(name, simulator):
    """Let one place of one layer overflow, by each rule."""
    _, spans = Network(simulator.net, EXACT, watch=True).run(simulator.rows)
    result = []
    for place in OVERFLOWING:
        for n in range(twin.LAYERS):
            middle = spans[place, n].abs().amax(1).median()
            factor = OVERFLOWS / float(middle)
            net = rescaled(simulator.net, place, n, factor)
            exact = Network(net, EXACT).logits(simulator.rows)
            for rule in RULES:
                network = Network(net, dataclasses.replace(A, rule=rule), watch=True)
                states, seen = network.run(simulator.rows)
                logits, (low, high) = network.scored(states), overflowed(seen)
                any_, finite = low | high, logits.isfinite()
                silent = any_ & finite
                error = (logits - exact).abs()
                row = {"place": place, "layer": n + 1, "layers": twin.LAYERS, "rule": rule, "factor": factor, "sequences": len(any_),
                       "overflowed": int(any_.sum()), "only_negative": int((low & ~high).sum()), "only_positive": int((high & ~low).sum()),
                       "silent": int(silent.sum()), "silent_error": float(error[silent].max()) if silent.any() else 0.0,
                       "needless": int((~any_ & ~finite).sum()), "f32_finite": bool(exact.isfinite().all()),
                       "error_elsewhere": float(error[~any_].max()) if not any_.all() else None}
                result.append(row)
                line(name, place, f"{n + 1} of {twin.LAYERS}", rule, f"{factor:.3g}", f"{row['overflowed']} of {len(any_)}",
                     f"{row['only_negative']}, {row['only_positive']}", str(row["silent"]), f"{row['silent_error']:.2g}",
                     str(row["needless"]))
    return result


# --- The models -------------------------------------------------------------------------------


@contextlib.contextmanager
def folders(args):
    """Gives the directory of a model by its name, making it where needed."""
    with tempfile.TemporaryDirectory() as scratch:
        made = {"demo": args.model}

        def folder(name):
            if name not in made:
                target = Path(scratch) / name
                if name == "deep":
                    sizes = {"layers": args.layers, "hidden": args.hidden, "heads": args.hidden // 64, "ffn": 4 * args.hidden,
                             "vocabulary": twin.VOCAB, "positions": twin.POSITIONS}
                    options = [f"--{key}={value}" for key, value in sizes.items()]
                    subprocess.run([sys.executable, str(ROOT / "benches/peers/make_checkpoint.py"), str(target), *options],
                                   check=True, stdout=subprocess.DEVNULL)
                else:
                    harden.make(folder({"hard": "demo", "deep-hard": "deep"}[name]), target)
                made[name] = target
            return made[name]

        yield folder


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", choices=("demo", "hard", "deep", "deep-hard"), default=["demo", "hard", "deep"])
    parser.add_argument("--model", type=Path, default=ROOT / "models/demo")
    parser.add_argument("--layers", type=int, default=24, help="of the deep model; default 24")
    parser.add_argument("--hidden", type=int, default=256, help="of the deep model, a multiple of 64; default 256")
    parser.add_argument("--work", type=Path, default=ROOT / "training/work", help="where training/data.py puts its data")
    parser.add_argument("--queries", type=int, default=20, help="of each of three sets, with 20 passages each")
    parser.add_argument("--overflow", type=int, default=2, metavar="N", help="queries of each set that overflow is tried with; 0: none")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, metavar="FILE", help="all figures, as JSON")
    return parser.parse_args()


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    sets = accuracy.make_sets(args.work, max(args.queries, args.overflow)).values()
    result = {"command": ["simulate_f16.py", *sys.argv[1:]], "torch": torch.__version__, "models": {}, "overflow": {}}

    def load(name, count):
        take_shape(folder(name))
        return simulate.Simulator(folder(name), [query for part in sets for query in part[:count]], accuracy.MAX_LENGTH)

    with folders(args) as folder:
        if args.models:
            head_line("model", "scheme: error of the logit, order", *COLUMNS)
            for name in args.models:
                result["models"][name] = compare(name, load(name, args.queries))
            print_largest(result["models"])
        if args.overflow:
            head_line("model", "overflows", "layer", "rule", "times", "sequences", "only -, only +", "finite all the same", "by up to", "NaN without")
            result["overflow"]["demo"] = overflow("demo", load("demo", args.overflow))
    if args.out:
        args.out.write_text(json.dumps(accuracy.rounded(result), indent=2) + "\n")


if __name__ == "__main__":
    main()
