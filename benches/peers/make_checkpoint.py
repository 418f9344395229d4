"""Write a random XLM-RoBERTa cross-encoder of any size, in transformers' layout.

    python make_checkpoint.py DIR                       # the size of bge-reranker-v2-m3, 2.3 GB
    python make_checkpoint.py DIR --layers 2 --hidden 64 --heads 4 --ffn 256 --vocabulary 16000
    python make_checkpoint.py DIR --shards 3            # three files and their index

The weights are float32 and depend on the seed and the tensor's name only, so the number of
shards changes nothing. They are written a stretch at a time: memory stays below 100 MB.

Speed does not depend on the values of the weights, as long as they are of ordinary size; that
is what these are for. Activations stay of order one through any number of layers (each matrix
is scaled by the square root of its inputs), and the head is scaled so that the logits of
unlike documents lie some tenths to some units apart.
"""
import argparse
import json
import math
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
from safetensors import safe_open

TOKENIZER = Path(__file__).resolve().parents[2] / "models/demo/tokenizer.json"
STRETCH = 4 * 1024 * 1024  # floats drawn at once
HEAD_GAIN = 3.0


def tensors(a):
    """Every tensor of the checkpoint: name, shape, mean and standard deviation."""
    def linear(name, out, inputs, gain=1.0):
        yield f"{name}.weight", (out, inputs), 0.0, gain / math.sqrt(inputs)
        yield f"{name}.bias", (out,), 0.0, 0.02

    def norm(name):
        yield f"{name}.weight", (a.hidden,), 1.0, 0.05
        yield f"{name}.bias", (a.hidden,), 0.0, 0.05

    at = "roberta.embeddings"
    yield f"{at}.word_embeddings.weight", (a.vocabulary, a.hidden), 0.0, 0.5
    yield f"{at}.position_embeddings.weight", (a.positions, a.hidden), 0.0, 0.1
    yield f"{at}.token_type_embeddings.weight", (1, a.hidden), 0.0, 0.1
    yield from norm(f"{at}.LayerNorm")
    for n in range(a.layers):
        at = f"roberta.encoder.layer.{n}"
        for part in ("query", "key", "value"):
            yield from linear(f"{at}.attention.self.{part}", a.hidden, a.hidden)
        yield from linear(f"{at}.attention.output.dense", a.hidden, a.hidden)
        yield from norm(f"{at}.attention.output.LayerNorm")
        yield from linear(f"{at}.intermediate.dense", a.ffn, a.hidden)
        yield from linear(f"{at}.output.dense", a.hidden, a.ffn)
        yield from norm(f"{at}.output.LayerNorm")
    yield from linear("classifier.dense", a.hidden, a.hidden)
    yield from linear("classifier.out_proj", 1, a.hidden, HEAD_GAIN)


def size(shape):
    return 4 * math.prod(shape)


def split(all_tensors, shards):
    """Cut the list into consecutive parts, as even in bytes as its large tensors allow."""
    left, parts = sum(size(shape) for _, shape, _, _ in all_tensors), [[]]
    room = left / shards
    for tensor in all_tensors:
        if room <= 0 and len(parts) < shards:
            parts.append([])
            room = left / (shards - len(parts) + 1)
        parts[-1].append(tensor)
        room -= size(tensor[1])
        left -= size(tensor[1])
    return parts


def header(part):
    """The JSON that opens a safetensors file, with its length, padded to 8 bytes."""
    fields, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _, _ in part:
        end = offset + size(shape)
        fields[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write(path, part, seed):
    """One safetensors file."""
    with path.open("wb") as out:
        out.write(header(part))
        for name, shape, mean, deviation in part:
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            left = math.prod(shape)
            while left:
                x = rng.standard_normal(min(left, STRETCH), dtype=np.float32)
                x *= np.float32(deviation)
                x += np.float32(mean)
                out.write(x.astype("<f4", copy=False).data)
                left -= x.size


def check(path, part):
    """Have the safetensors library itself read the file's header and its last tensor."""
    with safe_open(path, framework="numpy") as f:
        assert set(f.keys()) == {name for name, _, _, _ in part}, path
        name, shape, _, _ = part[-1]
        last = f.get_tensor(name)
        assert last.shape == shape and np.isfinite(last).all(), name


def config(a):
    return {
        "architectures": ["XLMRobertaForSequenceClassification"],
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": 0,
        "classifier_dropout": None,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": a.hidden,
        "id2label": {"0": "LABEL_0"},
        "initializer_range": 0.02,
        "intermediate_size": a.ffn,
        "label2id": {"LABEL_0": 0},
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": a.positions,
        "model_type": "xlm-roberta",
        "num_attention_heads": a.heads,
        "num_hidden_layers": a.layers,
        "output_past": True,
        "pad_token_id": 1,
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
        "type_vocab_size": 1,
        "use_cache": True,
        "vocab_size": a.vocabulary,
    }


# Without it transformers would build a tokenizer of its own idea around the pieces.
TOKENIZER_CONFIG = {
    "bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>",
    "model_max_length": 8192, "pad_token": "<pad>", "sep_token": "</s>",
    "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>",
}


def check_tokenizer(path, vocabulary):
    tokenizer = json.loads(path.read_text())
    ids = [*range(len(tokenizer["model"]["vocab"])), *(t["id"] for t in tokenizer["added_tokens"])]
    if max(ids) >= vocabulary:
        raise SystemExit(f"{path.name} has ids up to {max(ids)}: --vocabulary {vocabulary} is too small")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dir", type=Path, metavar="DIR")
    for name, default in [("layers", 24), ("hidden", 1024), ("heads", 16), ("ffn", 4096),
                          ("vocabulary", 250_002), ("positions", 8194), ("shards", 1), ("seed", 0)]:
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"default {default}")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER, help="a tokenizer.json to copy")
    args = parser.parse_args()
    if args.hidden % args.heads:
        parser.error("--heads must divide --hidden")
    if args.shards < 1:
        parser.error("--shards must be at least 1")
    return args


def main():
    args = arguments()
    check_tokenizer(args.tokenizer, args.vocabulary)
    args.dir.mkdir(parents=True, exist_ok=True)
    for stale in args.dir.glob("model*.safetensors*"):
        stale.unlink()
    everything = list(tensors(args))
    parts = split(everything, args.shards)
    single = args.shards == 1
    names = ["model.safetensors"] if single else [
        f"model-{i + 1:05}-of-{len(parts):05}.safetensors" for i in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        write(args.dir / name, part, args.seed)
        check(args.dir / name, part)
    total = sum(size(shape) for _, shape, _, _ in everything)
    if not single:
        where = {tensor[0]: name for name, part in zip(names, parts, strict=True) for tensor in part}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (args.dir / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    (args.dir / "config.json").write_text(json.dumps(config(args), indent=2) + "\n")
    (args.dir / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2) + "\n")
    shutil.copyfile(args.tokenizer, args.dir / "tokenizer.json")
    print(f"{total // 4:,} parameters, {total:,} bytes of float32 in {len(parts)} file(s)")


if __name__ == "__main__":
    main()
