"""Give a checkpoint the outlier channels of large models, without changing what it computes.

    python harden.py FROM TO [--channels 3] [--size 40]

Two exact changes, in every layer, that leave each logit as it was (up to the rounding of f32):

1. Norm outputs. The shift of a few channels of every layer norm grows by +-SIZE. What reads them takes it
   back in its bias (`b - W[:, c] * size`), and so does the block whose output is added to them. These channels are
   then tens of times larger than the rest at the inputs of query, key, value and intermediate.dense, and nearly the
   same for every token: what is found in trained checkpoints.
2. Attention's context. The rows of value (weights and bias) that matter most are multiplied by SIZE / 4 and the matching
   columns of attention.output.dense divided by it: channels that are large and vary from token to token.

Feed-forward activations stay as they are: GELU is not homogeneous. The weights are written as float32.
"""
import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

CHANNELS, SIZE = 3, 40.0
CONTEXT_SHARE = 4  # the context's factor is that much smaller: its channels vary, and weigh more


def harden(weights, layers, channels=CHANNELS, size=SIZE, seed=3):
    """The changed weights, by name, in float32, and the raised channels."""
    w = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
    hidden = w["roberta.embeddings.LayerNorm.bias"].shape[0]
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(hidden, channels, replace=False))
    shift = size * np.where(np.arange(channels) % 2, -1.0, 1.0)
    factor = size / CONTEXT_SHARE

    def raise_norm(name):
        w[f"{name}.LayerNorm.bias"][chosen] += shift

    def take_back(reader):
        w[f"{reader}.bias"] -= w[f"{reader}.weight"][:, chosen] @ shift

    raise_norm("roberta.embeddings")
    for n in range(layers):
        at = f"roberta.encoder.layer.{n}"
        for part in ("query", "key", "value"):
            take_back(f"{at}.attention.self.{part}")
        take_back(f"{at}.intermediate.dense")
        for block in ("attention.output", "output"):
            w[f"{at}.{block}.dense.bias"][chosen] -= shift  # what is added to the raised channels
            raise_norm(f"{at}.{block}")
        value = f"{at}.attention.self.value"
        mixed = f"{at}.attention.output.dense.weight"
        used = np.linalg.norm(w[f"{value}.weight"], axis=1) * np.linalg.norm(w[mixed], axis=0)
        context = np.sort(np.argsort(-used)[:channels])
        w[f"{value}.weight"][context] *= factor
        w[f"{value}.bias"][context] *= factor
        w[mixed][:, context] /= factor
    take_back("classifier.dense")
    return {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in w.items()}, chosen


def make(source, target, channels=CHANNELS, size=SIZE):
    """A hardened copy of a model directory with one weights file. Says what was done."""
    config = json.loads((source / "config.json").read_text())
    weights, chosen = harden(load_file(source / "model.safetensors"), config["num_hidden_layers"], channels, size)
    target.mkdir(parents=True, exist_ok=True)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}, indent=2) + "\n")
    shutil.copyfile(source / "tokenizer.json", target / "tokenizer.json")
    return {"norm_channels": chosen.tolist(), "size": size, "context_channels": channels,
            "context_factor": size / CONTEXT_SHARE}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, metavar="FROM")
    parser.add_argument("target", type=Path, metavar="TO")
    parser.add_argument("--channels", type=int, default=CHANNELS)
    parser.add_argument("--size", type=float, default=SIZE)
    args = parser.parse_args()
    print(json.dumps(make(args.source, args.target, args.channels, args.size)))


if __name__ == "__main__":
    main()
