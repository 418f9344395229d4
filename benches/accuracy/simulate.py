"""int8 in torch, apart from the server's code: what rotation brings, and a check on the server's errors.

    python simulate.py [--model DIR] [--queries 100] [--hard]     # a table of schemes

Every linear layer of the encoder is computed with operands that were rounded to 8 bits and back: weights symmetric with a
scale per output, activations with a scale per token. The products themselves are in f32, which holds them
exactly enough. Embeddings, norms, attention's own products and the classifier are left alone.

`block` channels are mixed by an orthonormal Hadamard matrix, after random signs, before they are rounded; 1 is no
rotation ("naive"). `centred` takes a norm's shift away before rounding and adds `W shift` to the bias instead.
"""
import argparse
import contextlib
import dataclasses
import json
import math
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "training"))

import model as twin  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

BATCH_TOKENS = 4096


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How linear layers are rounded."""
    block: int = 64
    symmetric: bool = False
    centred: bool = False
    bits: int = 8  # of the activations
    weight_bits: int = 8

    def title(self):
        parts = ["naive" if self.block == 1 else f"blocks of {self.block}"]
        parts += ["symmetric activations"] if self.symmetric else []
        parts += ["centred"] if self.centred else []
        parts += [f"{self.bits} bits"] if self.bits != 8 else []
        parts += [f"weights of {self.weight_bits} bits"] if self.weight_bits != 8 else []
        return ", ".join(parts)


NAIVE, ROTATED = Scheme(block=1), Scheme()


def hadamard(n):
    h = torch.ones(1, 1)
    while len(h) < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h / math.sqrt(n)


def address(tensor):
    """Of the whole that a tensor is part of."""
    return tensor.untyped_storage().data_ptr()


class Rounded:
    """Stands in for `torch.nn.functional.linear`."""

    def __init__(self, scheme, net):
        self.scheme, self.plain, self.weights = scheme, F.linear, {}
        self.exact = {address(net.dense.weight), address(net.score.weight)}
        self.shifts = {}
        before = net.norm
        for layer in net.layers if scheme.centred else ():
            self.shifts[address(layer.qkv.weight)] = before.bias
            self.shifts[address(layer.up.weight)] = layer.norm1.bias
            before = layer.norm2
        self.hadamard = hadamard(scheme.block)

    def rotate(self, x):
        """Channels that are mixed lie far apart; the signs depend on the width only."""
        if self.scheme.block == 1:
            return x
        width, shape = x.shape[-1], x.shape
        signs = torch.randint(0, 2, (width,), generator=torch.Generator().manual_seed(width)) * 2.0 - 1
        blocks = (x * signs).reshape(*shape[:-1], self.scheme.block, width // self.scheme.block)
        return (blocks.transpose(-1, -2) @ self.hadamard).reshape(shape)

    def weight(self, weight, bias):
        key = (weight.data_ptr(), tuple(weight.shape))
        if key not in self.weights:
            rotated, most = self.rotate(weight), 2 ** (self.scheme.weight_bits - 1) - 1
            scale = rotated.abs().amax(1, keepdim=True) / most
            shift = self.shifts.get(address(weight))
            self.weights[key] = (rotated / scale).round() * scale, shift, bias if shift is None else bias + weight @ shift
        return self.weights[key]

    def activations(self, x):
        if self.scheme.symmetric:
            most = 2 ** (self.scheme.bits - 1) - 1
            scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-12) / most
            return (x / scale).round_().mul_(scale)
        most = 2**self.scheme.bits - 1
        low, high = x.amin(-1, keepdim=True).clamp_max(0), x.amax(-1, keepdim=True).clamp_min(0)
        scale = (high - low).clamp_min(1e-12) / most
        zero = (-low / scale).round()
        return (x / scale + zero).round_().clamp_(0, most).sub_(zero).mul_(scale)

    def __call__(self, x, weight, bias=None):
        if address(weight) in self.exact:
            return self.plain(x, weight, bias)
        weight, shift, bias = self.weight(weight, bias)
        x = x if shift is None else x - shift
        return self.plain(self.activations(self.rotate(x)), weight, bias)

    @contextlib.contextmanager
    def in_place(self):
        F.linear = self
        try:
            yield
        finally:
            F.linear = self.plain


def possible(folder):
    """Whether training's network has this model's shape."""
    config = json.loads((folder / "config.json").read_text())
    return (config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"], config["vocab_size"],
            config["num_attention_heads"]) == (twin.HIDDEN, twin.LAYERS, twin.FFN, twin.VOCAB, twin.HEADS)


class Simulator:
    """A model and tokenised queries."""

    def __init__(self, folder, queries, max_length):
        """`queries`: (query, passages), each with as many passages."""
        self.net = twin.load(folder)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.enable_truncation(max_length, strategy="longest_first")
        pairs = [(query.strip(), passage.strip()) for query, passages in queries for passage in passages]
        self.rows = [encoded.ids for encoded in tokenizer.encode_batch(pairs)]
        self.shape = (len(queries), -1)

    def logits(self, scheme=None):
        """In f32, or by a scheme."""
        place = Rounded(scheme, self.net).in_place() if scheme else contextlib.nullcontext()
        with torch.inference_mode(), place:
            return twin.logits(self.net, self.rows, BATCH_TOKENS).double().numpy().reshape(self.shape)


def main():
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import accuracy
    import harden
    import measures
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models/demo")
    parser.add_argument("--work", type=Path, default=ROOT / "training/work")
    parser.add_argument("--queries", type=int, default=100, help="of each set")
    parser.add_argument("--hard", action="store_true", help="with outlier channels, by harden.py")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    queries = [q for part in accuracy.make_sets(args.work, args.queries).values() for q in part]
    with tempfile.TemporaryDirectory() as scratch:
        if args.hard:
            print(harden.make(args.model, Path(scratch)))
        simulator = Simulator(Path(scratch) if args.hard else args.model, queries, accuracy.MAX_LENGTH)
    reference = simulator.logits()
    every = [Scheme(block=b, symmetric=s) for b in (1, 16, 64, 256) for s in (False, True)]
    every += [Scheme(block=b, centred=True) for b in (1, 64)] + [Scheme(bits=7), Scheme(weight_bits=7)]
    print("| scheme | " + " | ".join(accuracy.COLUMNS) + " |\n|" + "---|" * (1 + len(accuracy.COLUMNS)))
    for scheme in every:
        row = measures.compare(simulator.logits(scheme), reference)
        print(f"| {scheme.title()} | " + " | ".join(accuracy.cells(row)) + " |", flush=True)


if __name__ == "__main__":
    main()
