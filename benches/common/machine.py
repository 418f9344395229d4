"""What was measured and on what, and how fast that machine can be at most."""
import hashlib
import json
import os
import platform
import shlex
import statistics
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16",
           "amx_tile", "amx_bf16", "amx_int8")


def git(*command):
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *command], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def provenance(binary):
    """What was measured: the commit, and whether the binary can be it."""
    sources = [ROOT / "Cargo.toml", ROOT / "Cargo.lock", *(ROOT / "src").rglob("*.rs")]
    newest = max((path.stat().st_mtime for path in sources if path.exists()), default=0)
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--", "src", "Cargo.toml", "Cargo.lock")),
        "binary_sha256": hashlib.sha256(binary.read_bytes()).hexdigest(),
        "binary_older_than_sources": binary.stat().st_mtime < newest,
    }


def machine():
    info = Path("/proc/cpuinfo").read_text().splitlines()
    values = dict(line.split(":", 1) for line in reversed(info) if ":" in line)
    values = {key.strip(): value.strip() for key, value in values.items()}
    flags = values.get("flags", "").split()
    return {
        "cpu": values.get("model name") or platform.processor(),
        "family": f"{values.get('cpu family')}/{values.get('model')}",
        "cpus": os.cpu_count(),
        "vectors": [f for f in VECTORS if f in flags],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
    }


def headlines(result):
    """The lines of a report that say what was measured, from a result that holds the two above."""
    m = result["machine"]
    lines = [f"- date: {result['date']}",
             f"- command: `{shlex.join(result['command'])}`",
             f"- machine: {m['cpu']} (family {m['family']}), {m['cpus']} CPUs, {', '.join(m['vectors'])}; "
             f"{result['threads']} threads each"]
    if result.get("commit"):
        lines.append(f"- commit: {result['commit']}{' with changes' if result['dirty'] else ''}"
                     f"{', binary older than the sources' if result['binary_older_than_sources'] else ''}")
    return lines


def write(directory, name, result, page):
    """Writes a result as JSON, which git ignores in docs/benchmarks, and as a page. Both replace those of the name before."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = directory / name
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    stem.with_suffix(".md").write_text(page, "utf-8")


def save(directory, name, result, page):
    """The same, and prints the page."""
    write(directory, name, result, page)
    print(f"\n{page}")


def instruction_peak(binary, threads):
    """`reranker peak`: what the multiply-add instructions of each precision reach out of registers."""
    env = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    done = subprocess.run([str(binary), "peak"], env=env, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def peak_of(peaks, precision):
    """The median of several measurements in GFLOP/s, or None if this machine has no such instructions."""
    rates = [peak[precision]["gflop_per_s"] for peak in peaks if peak.get(precision)]
    return statistics.median(rates) if rates else None
