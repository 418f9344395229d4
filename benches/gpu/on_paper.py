"""What a GPU that is not at hand should do, by arithmetic: occupancy from the compiler's report, FLOP and bytes of every kernel
against the GPU's data sheet, and the latency that follows.

    python on_paper.py                                # a Tesla T4 and an H100, the size of bge-reranker-v2-m3
    python on_paper.py --gpus t4 --out /tmp/results

Needs Python with `numpy`, `safetensors` and `tokenizers`, and `scripts/cuda-toolkit.sh` to have run. No GPU.
Writes docs/benchmarks/gpu-on-paper.*
"""
import argparse
import json
import sys
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in (HERE.parent, HERE.parent / "peers", HERE.parent / "load", HERE):
    sys.path.insert(0, str(folder))

import compiler
from common.arithmetic import lengths
from common.machine import ROOT, git, save
from kernels import PRODUCTS, work
from page import table
from tokenizers import Tokenizer

MODEL = {"num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 4096}
REQUESTS = [ROOT / "benches/peers" / name for name in ("requests_20.json", "requests_sizes.json")]
TOKENIZER = ROOT / "models/demo/tokenizer.json"  # as make_checkpoint.py takes it
BLOCK = 128  # threads of every kernel of ours
WARP = 32
TILE = 64  # keys of attention at a time
WARP_QUERIES = 16

GUIDE = {"t4": {"20": "50 to 150", "50": "100 to 200"}}  # what the guide of the service that ours replaces promises, in ms

# By the names of the trace: the kernel of each part that is ours.
OURS = {"embeddings": "embed_f16_f16", "attention": "attention_tensor", "attention norm": "add_norm_f16",
        "GELU": "gelu_f16", "output norm": "add_norm_f16"}


@dataclass
class Gpu:
    """From NVIDIA's data sheets and the tables of the CUDA programming guide; the last four are assumptions, with their reasons."""
    title: str
    capability: int
    flops: float  # of the tensor cores in f16 with sums in f32, dense
    bandwidth: float  # bytes/s
    warps: int  # of a multiprocessor, at most; so are the next three
    blocks: int
    registers: int
    shared: int
    product_flops: float
    product_reason: str
    bandwidth_share: float
    launch_seconds: float


GPUS = {
    "t4": Gpu("Tesla T4", 75, 65e12, 320e9, 32, 16, 65536, 64 << 10, 22e12,
              "what NVIDIA's FasterTransformer reached over the whole of BERT-base on a T4 at 1,590 MHz, so products alone were faster", 0.75, 3e-6),
    "h100": Gpu("H100 SXM", 90, 989e12, 3.35e12, 64, 32, 65536, 227 << 10, 600e12,
                "a guess at cuBLASLt's rate for these shapes, 60 % of the data sheet", 0.75, 2e-6),
}


def occupancy(gpu, facts):
    """Warps that a multiprocessor holds of a kernel, and what stops more. Registers are given out to warps by the 256, shared memory
    to blocks by the 256 bytes (CUDA's occupancy calculator)."""
    warps = BLOCK // WARP
    registers = -(-facts["registers"] * WARP // 256) * 256
    room = {"warps": gpu.warps // warps, "blocks": gpu.blocks, "registers": gpu.registers // registers // warps}
    if facts["shared"]:
        room["shared memory"] = gpu.shared // (-(-facts["shared"] // 256) * 256)
    limit = min(room, key=room.get)
    return {"blocks": room[limit], "share": room[limit] * warps / gpu.warps, "limited_by": limit}


def tiled(n):
    """FLOP of attention for a sequence, per number of the hidden size: whole tiles of keys, whole warps of queries."""
    queries, keys = -(-n // WARP_QUERIES) * WARP_QUERIES, -(-n // TILE) * TILE
    return 4 * queries * keys


def parts(gpu, sequences):
    """Each part of a full layer (and the embeddings): what it needs, its floor by the data sheet, and what we expect, in seconds."""
    hidden = MODEL["hidden_size"]
    found = {}
    for name, (gflop, gigabytes) in work(MODEL, sequences).items():
        flop, size = 1e9 * gflop, 1e9 * gigabytes
        computing, moving = flop / gpu.product_flops, size / (gpu.bandwidth * gpu.bandwidth_share)
        if name == "attention":  # scores, softmax and sums take turns in a warp: counted one after the other
            computing = hidden * sum(map(tiled, sequences)) / (0.5 * gpu.flops)
            expected = computing + moving
        else:
            expected = max(computing, moving)
        found[name] = {"gflop": gflop, "gigabytes": gigabytes, "floor": max(flop / gpu.flops, size / gpu.bandwidth),
                       "expected": expected + gpu.launch_seconds, "bound": "FLOP" if computing > moving else "bytes"}
    return found


def predict(gpu, sequences):
    """A batch: whole layers, and a last one of keys and values for all tokens and everything else for `<s>` alone (that its attention
    reads them all is left out: less than a thousandth)."""
    found, hidden, layers = parts(gpu, sequences), MODEL["hidden_size"], MODEL["num_hidden_layers"]
    last = parts(gpu, [1] * len(sequences))
    keys_values = 2 * sum(sequences) * hidden * 2 * hidden

    def total(key, rate):
        layer = sum(part[key] for name, part in found.items() if name != "embeddings")
        of_first = sum(part[key] for name, part in last.items() if name != "embeddings")
        return found["embeddings"][key] + (layers - 1) * layer + keys_values / rate + of_first

    products = (layers - 1) * sum(found[name]["gflop"] for name in PRODUCTS) * 1e9 + keys_values
    expected = total("expected", gpu.product_flops)
    return {"tokens": sum(sequences), "documents": len(sequences), "parts": found, "floor_seconds": total("floor", gpu.flops),
            "expected_seconds": expected, "products_share": products / gpu.product_flops / expected}


def sets():
    """Tokens of every pair of the committed requests: of each set the one in the middle."""
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    found = {}
    for path in REQUESTS:
        for request in json.loads(path.read_text("utf-8"))["requests"]:
            sequences = lengths(tokenizer, request["body"])
            found.setdefault(request.get("set", f"{len(sequences)}"), []).append(sequences)
    return {name: sorted(drawn, key=sum)[(len(drawn) - 1) // 2] for name, drawn in sorted(found.items(), key=lambda of: len(of[1][0]))}


def page(result):
    lines = [
        "# GPUs on paper", "",
        "Written by `benches/gpu/on_paper.py`. **Nothing here was measured on a GPU**: it is the compiler's report on the code that is "
        "shipped, and arithmetic.", "",
        f"- date: {result['date']}", f"- commit: {result['commit']}", ""]
    for found in result["gpus"]:
        lines += [*of_gpu(found), ""]
    lines.append("HTTP and tokenising add about 2 ms (`benches/overhead`), the network its own. A card that is hot or held to its "
                 "power limit has a lower clock and takes longer in proportion.")
    return "\n".join(lines) + "\n"


def of_gpu(found):
    gpu, kernels, requests, guide = found["gpu"], found["kernels"], found["requests"], found["guide"]
    lines = [
        f"## {gpu['title']}", "",
        "### Kernels", "",
        f"Compiled by NVRTC 12.2 for compute capability {gpu['capability'] / 10}, blocks of {BLOCK} threads.", "",
        *table(["kernel", "registers", "spilled bytes", "shared memory of a block", "blocks a multiprocessor", "occupancy", "limited by"],
               [[name, f"{k['registers']}", f"{k['spill_stores'] + k['spill_loads']}", f"{k['shared']}", f"{k['blocks']}",
                 f"{k['share']:.0%}", k["limited_by"]] for name, k in kernels.items()]), "",
        "### A layer", "",
        f"Against {gpu['flops'] / 1e12:.0f} TFLOP/s and {gpu['bandwidth'] / 1e9:.0f} GB/s of the data sheet (floor), and what we expect: products at "
        f"{gpu['product_flops'] / 1e12:.0f} TFLOP/s ({gpu['product_reason']}), memory at {gpu['bandwidth_share']:.0%} of its rate, attention's tiles at half "
        f"the tensor cores' rate and nothing of it hidden behind its own memory traffic, {1e6 * gpu['launch_seconds']:.0f} µs between launches.", ""]
    for name in ("20", "50"):
        row = requests[name]
        lines += [f"{row['documents']} documents, {row['tokens']:,} tokens:", "",
                  *table(["part", "kernel", "GFLOP", "MB", "FLOP / byte", "floor, µs", "expected, µs", "bound by"],
                         [[part, OURS.get(part, "cuBLASLt"), f"{p['gflop']:.2f}", f"{1e3 * p['gigabytes']:.1f}",
                           f"{p['gflop'] / p['gigabytes']:.0f}", f"{1e6 * p['floor']:.0f}", f"{1e6 * p['expected']:.0f}", p["bound"]]
                          for part, p in row["parts"].items()]), ""]
    return [*lines, "### A request", "",
            *table(["documents", "tokens", "floor, ms", "expected, ms", "of it products", "the old guide says, ms"],
                   [[f"{row['documents']}{' of 512' if name == 'uniform-512' else ''}", f"{row['tokens']:,}", f"{1e3 * row['floor_seconds']:.1f}",
                     f"{1e3 * row['expected_seconds']:.0f}", f"{row['products_share']:.0%}", guide.get(name, "")]
                    for name, row in requests.items()])]


def predictions(key, sets):
    """Of one GPU."""
    gpu = GPUS[key]
    reports = compiler.report(gpu.capability)
    return {"gpu": asdict(gpu), "guide": GUIDE.get(key, {}),
            "kernels": {name: {**facts, **occupancy(gpu, facts)} for name, facts in sorted(reports.items())},
            "requests": {name: predict(gpu, sequences) for name, sequences in sets.items()}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpus", nargs="+", choices=GPUS, default=list(GPUS))
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks", help="directory of the results")
    args = parser.parse_args()
    drawn = sets()  # before the compiler, which leaves this thread in the C locale
    result = {"date": datetime.now(timezone.utc).strftime("%Y-%m-%d"), "commit": git("rev-parse", "HEAD"), "model": MODEL,
              "gpus": [predictions(key, drawn) for key in args.gpus]}
    save(args.out, "gpu-on-paper", result, page(result))


if __name__ == "__main__":
    main()
