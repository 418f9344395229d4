"""The systems that compare.py starts: this service and its peers."""
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from common.machine import ROOT
from common.processes import Server, free_port, machine_busy

HERE = Path(__file__).resolve().parent
SETTLE = 0.1  # seconds after an answer whose CPU time still counts: threads may spin on

# Each peer's title, precision, script and options.
PEERS = {
    "old": ("old service", "f32", "old_service.py", []),
    "sorted": ("torch, length-sorted batches of 8", "f32", "old_service.py", ["--batch-size", "8"]),
    "ort": ("ONNX Runtime, length-sorted batches of 8", "f32", "ort_service.py", []),
    "old-bf16": ("old service in bf16", "bf16", "old_service.py", ["--dtype", "bf16"]),
    "sorted-bf16": ("torch in bf16, length-sorted batches of 8", "bf16", "old_service.py",
                    ["--dtype", "bf16", "--batch-size", "8"]),
    "ort-int8": ("ONNX Runtime in int8, length-sorted batches of 8", "int8", "ort_service.py", []),
}
PEERS_OF = {"f32": ["old", "sorted", "ort"], "bf16": ["old-bf16", "sorted-bf16"], "int8": ["old", "ort-int8"]}
EXACT = ("old", "sorted")  # torch in f32: what the lower precisions are held against


@dataclass
class System(Server):
    """A server under test."""
    title: str = ""
    precision: str = "f32"

    def measure(self, body):
        """One request: wall and CPU seconds, page faults, and the share of the machine that others took."""
        busy, before, started = machine_busy(), self.usage(), time.perf_counter()
        self.post("/rerank", body)
        wall = time.perf_counter() - started
        time.sleep(SETTLE)
        spent = self.usage().since(before)
        others = max(0.0, machine_busy() - busy - spent.cpu)
        share = others / (time.perf_counter() - started) / os.cpu_count()
        return {"wall": wall, "cpu": spent.cpu, "user": spent.user, "faults": spent.faults, "others": share}


def ours(args):
    return System.ours(args.binary, args.model, args.threads, args.dtype, ["--max-length", "512"],
                       title="this service", precision=args.dtype)


def peer(key, args):
    title, precision, script, options = PEERS[key]
    if script == "ort_service.py":
        options = [*options, "--onnx", str(onnx_model(args, precision))]
        title += ", 7-bit weights" if precision == "int8" and args.reduce_range else ""
    return python_server(key, HERE / script, args.model, args.threads, options, title=title, precision=precision)


def python_server(key, script, model, threads, options, **more):
    """A peer's script as a server, with so many threads and no way to the internet."""
    port, threads = free_port(), str(threads)
    command = [sys.executable, str(script), str(model), "--port", str(port), "--threads", threads, *options]
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads,
                   "TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1"}
    return System(key, command, port, environment, **more)


def onnx_model(args, precision):
    """The path of ONNX Runtime's model, which is made first where it is not there."""
    reduced = ["--reduce-range"] if args.reduce_range else []
    print(f"{precision} model for ONNX Runtime in {args.onnx.name}", flush=True)
    command = [sys.executable, str(HERE / "export_onnx.py"), str(args.model), str(args.onnx), precision, *reduced]
    done = subprocess.run(command, capture_output=True, text=True)  # its many warnings are of no use, unless it fails
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    suffix = "-reduced" if precision == "int8" and args.reduce_range else ""
    return args.onnx / f"{precision}{suffix}" / "model.onnx"


def gemm_peak(threads):
    """What torch's own matrix product reaches in f32."""
    command = [sys.executable, str(HERE / "gemm_peak.py"), "--threads", str(threads)]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)
