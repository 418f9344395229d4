"""The processes of a scaled set: servers, HAProxy, Redis, and the names that lead to them."""

import csv
import http.client
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = (ROOT / "deploy/scale/docker-compose.scale.yml").read_text()
PATIENCE = 60  # seconds: a busy machine takes its time


def free_port(address="127.0.0.1"):
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


def wait_for(what, condition, patience=PATIENCE):
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            if value := condition():
                return value
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.05)
    raise AssertionError(f"waited {patience} s in vain until {what}")


def get(address, path):
    """(status, body) of a GET."""
    connection = http.client.HTTPConnection(*address, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


class Names(threading.Thread):
    """A name server with one name: all addresses in `addresses`, as Docker's tells a service's."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.addresses = []
        self.start()

    def run(self):
        while True:
            query, client = self.socket.recvfrom(4096)
            self.socket.sendto(self.answer(query), client)

    def answer(self, query):
        end = query.index(0, 12) + 5  # the name, its type and class
        kind = struct.unpack("!H", query[end - 4 : end - 2])[0]
        addresses = list(self.addresses) if kind == 1 else []
        header = query[:2] + struct.pack("!HHHHH", 0x8180, 1, len(addresses), 0, 0)
        records = b"".join(
            struct.pack("!HHHIH", 0xC00C, 1, 1, 1, 4) + socket.inet_aton(address) for address in addresses
        )
        return header + query[12:end] + records


class Process:
    def __init__(self, work, name, command, environment):
        self.name = name
        self.log = work / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def text(self):
        return self.log.read_text(errors="replace")


class Replica(Process):
    def __init__(self, work, server, number, port, redis):
        self.host = f"127.77.0.{number}"
        self.address = (self.host, port)
        environment = {
            "HOME": "/nonexistent",
            "RERANKER_MODEL": "demo",
            "DEVICE": "cpu",
            "RERANKER_HOST": self.host,
            "RERANKER_PORT": str(port),
            "RERANKER_REDIS_URL": f"redis://127.0.0.1:{redis}/0",
            # A busy machine is no reason to leave Redis out here.
            "RERANKER_REDIS_TIMEOUT_MS": "2000",
            "RAYON_NUM_THREADS": "1",
        }
        super().__init__(work, f"replica-{number}", [server, "serve"], environment)

    def wait_until_ready(self):
        wait_for(f"{self.name} is ready", lambda: get(self.address, "/health")[0] == 200)

    def metric(self, name):
        """The sum of the samples whose name and labels begin so."""
        text = get(self.address, "/metrics")[1]
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


class Redis(Process):
    """Redis with the very arguments of the compose file."""

    def __init__(self, work):
        self.port = free_port()
        command = json.loads(re.search(r'command: (\["redis-server".*\])', COMPOSE)[1])
        command += ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(work)]
        super().__init__(work, "redis", command, dict(os.environ))
        wait_for("Redis answers", lambda: self.ask("PING").startswith("+PONG"))

    def ask(self, command):
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(command.encode() + b"\r\n")
            return connection.recv(4096).decode()

    def entries(self):
        return int(self.ask("DBSIZE").strip().lstrip(":"))


class Balancer(Process):
    """HAProxy with the very file of deploy/scale. A second file adds what only this test needs."""

    def __init__(self, work, names, port):
        self.socket = work / "haproxy.sock"
        extra = work / "extra.cfg"
        extra.write_text(f"global\n    stats socket {self.socket} level admin\n")
        self.address = ("127.0.0.1", free_port())
        self.status = ("127.0.0.1", free_port())
        environment = dict(os.environ) | {
            "LISTEN": "{}:{}".format(*self.address),
            "STATUS": "{}:{}".format(*self.status),
            "REPLICA_PORT": str(port),
            "RESOLVER": f"127.0.0.1:{names.port}",
        }
        command = ["haproxy", "-db", "-f", str(ROOT / "deploy/scale/haproxy.cfg"), "-f", str(extra)]
        super().__init__(work, "haproxy", command, environment)

    def servers(self):
        """What HAProxy knows of each replica, by its address."""
        rows = csv.DictReader(io.StringIO(get(self.status, "/;csv")[1].removeprefix("# ")))
        own = [row for row in rows if row["pxname"] == "rerankers" and row["svname"].startswith("replica")]
        return {row["addr"].rpartition(":")[0]: row for row in own if row["addr"]}

    def server(self, replica):
        return self.servers().get(replica.host)

    def is_up(self, replica):
        row = self.server(replica)
        return row is not None and row["status"].startswith("UP")

    def is_gone(self, replica):
        row = self.server(replica)
        return row is None or not row["status"].startswith("UP")

    def tell(self, replica, state):
        """As an operator would: `drain` and `ready`."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.socket))
            connection.sendall(f"set server rerankers/{self.server(replica)['svname']} state {state}\n".encode())
            assert connection.recv(4096).strip() == b"", "HAProxy refused"

    def lines(self):
        """What the log says of each request, by its id: (status, how often it was sent again)."""
        found = re.findall(r"id=(\S+) \S+ \S+ (\d+) \d+ \S+ retries=\+?(\d+) ", self.text())
        return {identity: (int(status), int(retries)) for identity, status, retries in found}


def end(processes):
    for process in processes:
        if process.process.poll() is None:
            process.signal(signal.SIGCONT)
            process.kill()
