"""What nvidia-smi says, and the libraries that our binary looks for."""
import ctypes
import glob
import os
import subprocess
import sysconfig

from common.processes import tree

MIB = 1024 * 1024
LIBRARY = "libcublasLt.so"
PLACES = (f"{sysconfig.get_paths()['purelib']}/nvidia/*/lib", "/usr/local/cuda*/lib64", "/usr/lib/x86_64-linux-gnu")


class NoGpu(Exception):
    """Why there is none, in one line."""


def ask(what, fields, index=None):
    """The rows of an answer of nvidia-smi, as lists of texts."""
    where = [] if index is None else ["-i", f"{index}"]
    command = ["nvidia-smi", *where, f"--query-{what}={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise NoGpu("nvidia-smi was not found") from None
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise NoGpu(f"nvidia-smi: {' '.join((error.stdout or str(error)).split())}") from None
    return [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


def find(device):
    """The GPU of that name (`cuda:0`), as nvidia-smi describes it."""
    fields = ("index", "name", "memory.total", "driver_version", "compute_cap")
    index = device.partition(":")[2] or "0"
    for row in ask("gpu", fields):
        if row[0] == index:
            return {"index": int(index), "name": row[1], "memory_bytes": int(float(row[2])) * MIB, "driver": row[3],
                    "compute_capability": row[4]}
    raise NoGpu(f"nvidia-smi shows no GPU {index}")


def state(gpu):
    """Clocks, power and temperature now: what a share of the peak depends on. Some GPUs do not tell some of them."""
    fields = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")
    return dict(zip(("sm_mhz", "memory_mhz", "watt", "celsius"), ask("gpu", fields, gpu["index"])[0]))


def memory_in_use(gpu):
    return int(float(ask("gpu", ["memory.used"], gpu["index"])[0][0])) * MIB


def memory_of(server, gpu, idle):
    """Bytes of GPU memory that a server has; None if nobody tells.

    A container may hide the numbers of processes; then it is what is in use beyond the `idle` before the server was
    started, which is right only while nothing else has started since.
    """
    mine = {f"{pid}" for pid in tree(server.process.pid)}
    rows = ask("compute-apps", ["pid", "used_memory"], gpu["index"])
    found = [int(row[1]) * MIB for row in rows if row[0] in mine and row[1].isdigit()]
    if found:
        return {"bytes": sum(found), "counted": "of the process"}
    more = memory_in_use(gpu) - idle
    return {"bytes": more, "counted": "of the GPU, less what was in use before"} if more > 0 else None


def cublaslt(directory):
    """The environment in which our binary finds cuBLASLt, and which one it is.

    The binary asks for CUDA 12's. Where only Python's wheels or a newer toolkit have it, links in the directory lead there.
    """
    try:
        ctypes.CDLL(f"{LIBRARY}.12")
        return {}, f"{LIBRARY}.12 of the system"
    except OSError:
        pass
    for version in ("12", "13"):
        for place in PLACES:
            for path in glob.glob(f"{place}/{LIBRARY}.{version}"):
                directory.mkdir()
                for name in (LIBRARY, f"{LIBRARY}.12"):
                    (directory / name).symlink_to(path)
                paths = [f"{directory}", *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
                return {"LD_LIBRARY_PATH": ":".join(paths)}, path
    return {}, None
