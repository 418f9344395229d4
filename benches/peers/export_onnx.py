"""Make the ONNX models that ort_service.py runs, from a checkpoint's directory.

    python export_onnx.py MODEL_DIR ONNX_DIR f32 int8             # -> ONNX_DIR/f32, ONNX_DIR/int8
    python export_onnx.py MODEL_DIR ONNX_DIR int8 --reduce-range  # -> ONNX_DIR/int8-reduced

f32: torch's exporter, then ONNX Runtime's own optimiser for BERTs (attention, GELU and layer
normalisation become one operator each), as its users are told to. Attention is exported in its
plain form and by torch's older exporter, because that is the pattern which the optimiser knows:
of the other three combinations it fuses no attention.

int8: the same graph with ONNX Runtime's dynamic quantisation: weights as signed bytes with a scale
per output channel, activations as unsigned bytes with a scale per tensor and call. Where the CPU
has no VNNI, the products of these kernels add in 16 bits and can saturate; --reduce-range keeps
weights to 7 bits, which cannot.

What is there already for the same weights is kept.
"""
import argparse
import hashlib
import json
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_by_fusion
from transformers import AutoModelForSequenceClassification

OPSET = 17
BIG = 1 << 30  # above this, weights go beside the graph: protobuf ends at 2 GiB
LARGE = 1 << 26  # a single weight that the optimiser need not see
FUSIONS = ("Attention", "BiasGelu", "SkipLayerNormalization")


def fingerprint(model):
    """Of the weights and all that makes the graph."""
    digest = hashlib.sha256()
    for path in sorted([model / "config.json", *model.glob("*.safetensors")]):
        with path.open("rb") as f:
            digest.update(hashlib.file_digest(f, "sha256").digest())
    return digest.hexdigest()


def apart(step, *arguments):
    """In a process of its own, whose memory ends with it: at full size each step takes several times the weights."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(step, *arguments).result()


def export(model, path):
    """The graph as torch writes it; above 2 GiB with a file for each weight."""
    network = AutoModelForSequenceClassification.from_pretrained(
        model, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(5, 1000, (2, 16))
    mask = torch.ones_like(ids)
    mask[1, 10:] = 0
    both = {0: "batch", 1: "sequence"}
    torch.onnx.export(network, (ids, mask), str(path), dynamo=False, opset_version=OPSET,
                      input_names=["input_ids", "attention_mask"], output_names=["logits"],
                      dynamic_axes={"input_ids": both, "attention_mask": both, "logits": {0: "batch"}})


def optimise(source, path, config):
    """Saves the fused graph and returns how many of each operator it got.

    The optimiser holds the weights seven times at once. It has no use for those of the embeddings,
    nearly half of a model of full size, so they are kept out of it.
    """
    graph = onnx.load(source)
    kept = {w.name: w.raw_data for w in graph.graph.initializer if len(w.raw_data) > LARGE}
    for weight in graph.graph.initializer:
        if weight.name in kept:
            weight.ClearField("raw_data")
    fused = optimize_by_fusion(graph, "bert", config["num_attention_heads"], config["hidden_size"], FusionOptions("bert"))
    found = {name: count for name, count in fused.get_fused_operator_statistics().items() if count}
    if any(found.get(name, 0) < config["num_hidden_layers"] for name in FUSIONS):
        raise RuntimeError(f"the optimiser missed some fusions, so this would be no fair peer: {found}")
    for weight in fused.model.graph.initializer:
        if weight.name in kept:
            weight.raw_data = kept.pop(weight.name)
    assert not kept, f"the optimiser lost {list(kept)}"
    fused.save_model_to_file(str(path), use_external_data_format=size(source.parent) > BIG)
    return found


def size(directory):
    return sum(f.stat().st_size for f in directory.iterdir())


def make_f32(model, directory):
    config = json.loads((model / "config.json").read_text())
    with tempfile.TemporaryDirectory(dir=directory) as raw:
        apart(export, model, Path(raw) / "raw.onnx")
        found = apart(optimise, Path(raw) / "raw.onnx", directory / "model.onnx", config)
    return {"exporter": "torch.onnx.export, dynamo=False, eager attention", "opset": OPSET, "fused": found}


def make_int8(source, directory, reduce_range):
    options = {"per_channel": True, "reduce_range": reduce_range}
    quantize_dynamic(source, directory / "model.onnx", weight_type=QuantType.QInt8, **options,
                     extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT})  # unknown behind fused operators
    return {"quantised": "onnxruntime.quantization.quantize_dynamic", "weights": "QInt8", **options}


def make(model, out, name, reduce_range):
    """One of the models, if it is not there: its graph and a note of what was done."""
    directory = out / (f"{name}-reduced" if reduce_range and name == "int8" else name)
    note = directory / "made.json"
    versions = {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    wanted = {"weights_sha256": fingerprint(model), "versions": versions}
    if note.exists() and wanted.items() <= json.loads(note.read_text()).items():
        return directory
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    if name == "f32":
        done = make_f32(model, directory)
    else:
        done = make_int8(make(model, out, "f32", False) / "model.onnx", directory, reduce_range)
    note.write_text(json.dumps({**wanted, **done}, indent=1) + "\n")
    return directory


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("out", type=Path, metavar="ONNX_DIR")
    parser.add_argument("names", nargs="+", choices=["f32", "int8"])
    parser.add_argument("--reduce-range", action="store_true")
    args = parser.parse_args()
    for name in args.names:
        directory = make(args.model, args.out, name, args.reduce_range)
        print(f"{directory}: {size(directory):,} bytes")


if __name__ == "__main__":
    main()
