"""What all sections share: the binary, the model, the device, how much to measure."""
import contextlib
import itertools
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import nvidia
import texts
from common import metrics
from common.machine import ROOT
from systems import System

DEMO = ROOT / "models/demo"
MAKE_CHECKPOINT = ROOT / "benches/peers/make_checkpoint.py"
SIZES = {"full": [], "small": ["--layers", "2", "--hidden", "256", "--heads", "4", "--ffn", "1024", "--vocabulary", "16000"]}


@dataclass
class Amounts:
    """How much of everything."""
    golden_requests: int = 200
    torch_requests: int = 10  # of them, against torch in f32
    alone: int = 20  # pairs that are scored alone too
    overflow_requests: int = 20
    runs: int = 40  # of each number of documents, for the latency
    seconds: float = 8  # of each loop, for the throughput
    distinct: int = 128  # requests that such a loop goes round

    @classmethod
    def quick(cls):
        return cls(golden_requests=50, torch_requests=4, alone=10, overflow_requests=5, runs=10, seconds=3, distinct=32)


@dataclass
class Setup:
    """One run of the whole check."""
    binary: Path
    model: Path
    device: str
    threads: int
    amounts: Amounts
    work: Path  # for what is thrown away afterwards
    gpu: Optional[dict] = None  # as nvidia-smi describes it; None on the CPU
    environment: dict = field(default_factory=dict)  # of our binary
    missing: dict = field(default_factory=dict)  # of Python's packages: what is not there, and what follows
    numbers: itertools.count = field(default_factory=itertools.count)

    @property
    def precision(self):
        """What is benched: f16 on a GPU, and what the CPU is best at."""
        return "f16" if self.gpu else "f32"

    def ours(self, model, dtype):
        """Our server with its defaults; without the GPU it was asked for it shall not start."""
        options = ["--require-gpu"] if self.gpu else []
        server = System.ours(self.binary, model, self.threads, dtype, options, device=self.device, title="this service",
                             precision=dtype)
        server.environment.update(self.environment)
        return server

    @contextlib.contextmanager
    def running(self, server):
        """The server while it runs, its log among the things thrown away."""
        try:
            with (self.work / f"{server.key}-{next(self.numbers)}.log").open("w") as log:
                server.start(log)
            print(f"  {server.title}, {server.precision}: ready after {server.load_seconds:.1f} s", flush=True)
            yield server
        finally:
            server.stop()

    def draw(self, size, count, seed, model=None):
        """Requests of real text that differ from those of any other seed."""
        return texts.draw(self.work / f"requests-{size}-{seed}.json", model or self.model, size, count, seed)

    def lacks(self, *packages):
        """Why a section that needs these cannot be, or None."""
        reasons = [f"{package}: {self.missing[package]}" for package in packages if package in self.missing]
        return "; ".join(reasons) or None


def make_model(name, work):
    """The directory of a checkpoint: made on the spot, unless the name is one."""
    if name not in SIZES:
        return Path(name).resolve()
    print(f"making a checkpoint of random weights ({name})", flush=True)
    directory = work / "model"
    subprocess.run([sys.executable, str(MAKE_CHECKPOINT), str(directory), *SIZES[name]], check=True)
    return directory


def idle_memory(setup):
    return nvidia.memory_in_use(setup.gpu) if setup.gpu else None


def counter(server, name):
    """A counter of a server; None if it has none of that name."""
    return metrics.scrape(server.url).get(name)
