"""The other end of torch_worker.py."""
import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent / "torch_worker.py"


class Worker:
    """transformers in a process of its own, which is told what to do."""

    def __init__(self, setup, model, dtype):
        self.log = setup.work / f"torch-{dtype}-{next(setup.numbers)}.log"
        self.command = [sys.executable, str(SCRIPT), str(model), "--device", setup.device, "--dtype", dtype,
                        "--threads", f"{setup.threads}"]
        self.dtype = dtype

    def __enter__(self):
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(self.command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=log, text=True)
        try:
            self.answer()
        except BaseException:
            self.process.kill()
            raise
        print(f"  torch, {self.dtype}: ready", flush=True)
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"torch ended: {self.log.read_text()[-1500:]}")
        return json.loads(line)

    def ask(self, **command):
        try:
            print(json.dumps(command), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass  # the answer says why
        return self.answer()

    def logits(self, pairs, batch_size):
        return self.ask(do="logits", pairs=pairs, batch_size=batch_size)

    def seconds(self, pairs, batch_size):
        return self.ask(do="seconds", pairs=pairs, batch_size=batch_size)

    def back_to_back(self, requests, batch_size, seconds):
        return self.ask(do="back_to_back", requests=requests, batch_size=batch_size, seconds=seconds)
