"""What `gpu-check` of our binary says: kernels against references, peaks, and where the time of a batch goes."""
import json
import os
import subprocess

PRODUCTS = ("qkv", "attention output", "up", "down")


def kernels(setup):
    """The program's own examination, with the work of each part of a layer beside its time."""
    command = [str(setup.binary), "gpu-check", "--model", str(setup.model), "--device", setup.device]
    environment = {**os.environ, **setup.environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    try:
        found = json.loads(done.stdout)
    except ValueError:
        raise SystemExit(f"gpu-check ended with {done.returncode}: {(done.stderr or done.stdout)[-1500:]}") from None
    config = json.loads((setup.model / "config.json").read_text())
    found["layers"]["parts"] = [{**part, **rates(part, config, found)} for part in found["layers"]["parts"]]
    found["products"] = products(found)
    return found


def work(config, lengths):
    """GFLOP and the fewest gigabytes of each part of a layer over sequences of these lengths, by the names of the trace.

    Activations are f16 but for what the products leave for the residual stream, which is f32; weights are f16. Every
    number is read and written once, so that a rate above the copy's means that a cache helped.
    """
    h, f = config["hidden_size"], config["intermediate_size"]
    rows = sum(lengths)

    def product(inputs, outputs, size_out):
        return 2 * rows * inputs * outputs, 2 * rows * inputs + 2 * inputs * outputs + size_out * rows * outputs

    norm = (0, rows * h * (4 + 2 + 2))
    parts = {
        "embeddings": (0, rows * h * (2 + 4 + 2)),
        "qkv": product(h, 3 * h, 2),
        "attention": (4 * h * sum(n * n for n in lengths), rows * h * (3 * 2 + 2)),
        "attention output": product(h, h, 4),
        "attention norm": norm,
        "up": product(h, f, 2),
        "GELU": (0, 4 * rows * f),
        "down": product(f, h, 4),
        "output norm": norm,
    }
    return {name: (1e-9 * flop, 1e-9 * size) for name, (flop, size) in parts.items()}


def rates(part, config, found):
    """Of all launches of a part; the last layer computes the rows of `<s>` only. Nothing for names that are new here."""
    layers = found["layers"]
    sequences = layers["sequences"]
    full = work(config, [layers["tokens"] / sequences] * sequences).get(part["name"])
    if full is None or not part["seconds"]:
        return {}
    last = work(config, [1] * sequences)[part["name"]]
    gflop, gigabytes = ((part["launches"] - 1) * whole + few for whole, few in zip(full, last))
    if part["name"] in ("embeddings", "qkv", "attention"):  # these have no launch for `<s>` alone
        gflop, gigabytes = (part["launches"] * whole for whole in full)
    return {
        "gflop": gflop, "gflop_per_s": gflop / part["seconds"],
        "of_peak": gflop / part["seconds"] / found["peaks"]["gemm_f16_gflop_per_s"],
        "gigabytes": gigabytes, "of_copy": gigabytes / part["seconds"] / found["peaks"]["copy_gb_per_s"],
    }


def products(found):
    """All products of the layers together."""
    parts = [part for part in found["layers"]["parts"] if part["name"] in PRODUCTS and "gflop" in part]
    seconds = sum(part["seconds"] for part in parts)
    if not seconds:
        return None
    rate = sum(part["gflop"] for part in parts) / seconds
    return {"gflop_per_s": rate, "of_peak": rate / found["peaks"]["gemm_f16_gflop_per_s"],
            "of_batch_seconds": seconds / found["layers"]["batch_seconds"]}
