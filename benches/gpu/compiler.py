"""What NVIDIA's compiler says of our kernels: registers, shared memory, what did not fit into registers.

    python3 benches/gpu/compiler.py [CAPABILITY ...]     # 75 80 90 if none is named; exit code 1: a kernel spills

Compiles them as build.rs does, by the NVRTC that scripts/cuda-toolkit.sh fetches. No GPU, no packages.
"""
import ctypes
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src/ops/cuda/kernels"
SHIPPED = (75, 80, 90)
ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?(?P<stack>\d+) bytes stack frame, (?P<spill_stores>\d+) bytes spill stores, "
    r"(?P<spill_loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?:, (?P<shared>\d+) bytes smem)?", re.DOTALL)


def nvrtc():
    library = ROOT / "target/cuda-12.2/lib64/libnvrtc.so.12"
    if not library.exists():
        raise SystemExit(f"{library} is not there: bash scripts/cuda-toolkit.sh fetches it")
    return ctypes.CDLL(str(library))


def log(capability):
    """What the compiler prints when told to be verbose. It leaves this thread in the C locale: name encodings from here on."""
    library, program, size = nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    text = (SOURCES / "kernels.cu").read_bytes()
    options = [option.encode() for option in (f"--gpu-architecture=sm_{capability}", f"--include-path={SOURCES}",
                                              "--std=c++17", "--ptxas-options=-v")]
    library.nvrtcCreateProgram(ctypes.byref(program), text, b"kernels.cu", 0, None, None)
    failed = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    said = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, said)
    if failed:
        raise SystemExit(f"the kernels do not compile for {capability}:\n{said.value.decode()}")
    return said.value.decode()


def report(capability):
    """By kernel: registers of a thread; bytes of shared memory of a block, of stack and spilled, of a thread."""
    found = {match["name"]: {key: int(value or 0) for key, value in match.groupdict().items() if key != "name"}
             for match in ENTRY.finditer(log(capability))}
    kernels = re.findall(r"__global__ void\s+(?:__launch_bounds__\(\d+\)\s+)?(\w+)",
                         "".join(path.read_text("utf-8") for path in sorted(SOURCES.iterdir())))
    missing = set(kernels) - set(found)
    if missing:
        raise SystemExit(f"the compiler says nothing of {', '.join(sorted(missing))}")
    return found


def main():
    spilled = False
    for capability in map(int, sys.argv[1:] or SHIPPED):
        for name, facts in report(capability).items():
            spills = facts["stack"] + facts["spill_stores"] + facts["spill_loads"] > 0
            spilled |= spills
            print(f"sm_{capability} {name}: {facts['registers']} registers, {facts['shared']} bytes shared"
                  + (f", SPILLS: {facts}" if spills else ""))
    return int(spilled)


if __name__ == "__main__":
    sys.exit(main())
