"""Servers that a bench starts, and what they use, from /proc."""
import http.client
import json
import os
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

TICKS = os.sysconf("SC_CLK_TCK")
LOAD_TIMEOUT = 600
ANSWER_TIMEOUT = 3600  # torch's bf16 without instructions for it takes minutes


@dataclass
class Usage:
    """What a process and its children have used since they started."""
    cpu: float
    user: float
    faults: int

    def since(self, earlier):
        return Usage(self.cpu - earlier.cpu, self.user - earlier.user, self.faults - earlier.faults)


def stat_fields(pid):
    """/proc/PID/stat from the third field on (the second may contain anything)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def tree(root):
    """The process and all its descendants."""
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                children.setdefault(int(stat_fields(entry.name)[1]), []).append(int(entry.name))
            except OSError:
                pass  # gone meanwhile
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def usage(root):
    user = system = faults = 0
    for pid in tree(root):
        fields = stat_fields(pid)
        user, system = user + int(fields[11]), system + int(fields[12])
        faults += int(fields[7])
    return Usage((user + system) / TICKS, user / TICKS, faults)


def peak_memory(root):
    """VmHWM, in bytes, of the process and its descendants together."""
    total = 0
    for pid in tree(root):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                total += int(line.split()[1]) * 1024
    return total


def machine_busy():
    """CPU seconds that all processes together have used since boot, stolen time included."""
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:])
    return (user + nice + system + irq + softirq + steal) / TICKS


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@dataclass
class Server:
    """A process that answers on a loopback port."""
    key: str
    command: list
    port: int
    environment: dict
    load_seconds: float = 0.0
    process: Optional[subprocess.Popen] = None

    @classmethod
    def ours(cls, binary, model, threads, dtype, options=(), device="cpu", **more):
        """This project's server, with a deadline that no request meets, however slow the machine. It has no cache of
        scores: benchmarks send the same requests again to time the model."""
        port = free_port()
        command = [str(binary), "--model", str(model), "--device", device, "--host", "127.0.0.1", "--port", str(port),
                   "--deadline-ms", "900000", "--dtype", dtype, *options]
        environment = {"RAYON_NUM_THREADS": str(threads), "RERANKER_CACHE_MB": "0"}
        return cls("ours", command, port, environment, **more)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self, log):
        """Until it is ready; what it says goes into the open file `log`."""
        env = {**os.environ, **self.environment}
        started = time.perf_counter()
        self.process = subprocess.Popen(self.command, env=env, stdout=log, stderr=subprocess.STDOUT)
        while not self.is_ready():
            if self.process.poll() is not None:
                raise SystemExit(f"{self.key} ended while loading:\n{Path(log.name).read_text()[-3000:]}")
            if time.perf_counter() - started > LOAD_TIMEOUT:
                raise SystemExit(f"{self.key} is not ready after {LOAD_TIMEOUT} s")
            time.sleep(0.02)
        self.load_seconds = time.perf_counter() - started

    def is_ready(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def post(self, path, body):
        """The answer to a request, decoded."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_TIMEOUT)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise SystemExit(f"{self.key} answers {answer.status}: {text[:500]}")
        return json.loads(text)

    def usage(self):
        return usage(self.process.pid)

    def peak_memory(self):
        return peak_memory(self.process.pid)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
