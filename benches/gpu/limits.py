"""What the figures must be."""
import bench
import overflow

LOGIT_ERROR = 1e-2
SAME_TOP5 = 0.995
GOLDEN_REQUESTS = 200
LATENCY_RATIO = 0.35  # 20 documents alone, ours over sentence-transformers
THROUGHPUT_RATIO = 3.0  # 16 x 50 documents, ours over sentence-transformers behind the old handler
END_TO_END = 0.55  # of the measured product's rate, at that load
IN_MODEL = 0.65
MEMORY = 3e9
LOAD = 16


def judge(result):
    """Every limit with its value; `passed` is None where it was not measured or says nothing on this device."""
    sections, gpu = result["sections"], bool(result["gpu"])
    rows = [*of_kernels(sections.get("kernels", {})), *of_golden(sections.get("golden", {})),
            *of_overflow(sections.get("overflow", {}), gpu),
            *of_bench(sections.get("bench", {}), sections.get("kernels", {}))]
    if not gpu:
        for row in rows:
            if row["section"] == "bench":
                row.update(passed=None, note="a limit for GPUs")
    return rows


def limit(section, what, value, relation, bound, note=""):
    """One row; a value of None was not measured."""
    passed = None if value is None else value <= bound if relation == "<=" else value >= bound
    return {"section": section, "what": what, "value": value, "relation": relation, "limit": bound, "passed": passed,
            "note": note or ("not measured" if value is None else "")}


def of_kernels(found):
    failed = sum(not check["passed"] for check in found["kernels"]) if "kernels" in found else None
    yield limit("kernels", "kernels that differ from their references", failed, "<=", 0)


def of_golden(found):
    for name in ("checkpoint", "demo"):
        row = found.get(name, {})
        yield limit("golden", f"{name}: logit error in f16, max", row.get("max_logit_error"), "<=", LOGIT_ERROR)
        few = f"of {row['requests']} requests only" if row.get("requests", GOLDEN_REQUESTS) < GOLDEN_REQUESTS else ""
        yield limit("golden", f"{name}: requests with the same top 5", row.get("same_top5"), ">=", SAME_TOP5, few)
        yield limit("golden", f"{name}: scores that are not finite", row.get("non_finite_scores"), "<=", 0)
        torch = row.get("torch", {})
        yield limit("golden", f"{name}: logit error in f16 against torch in f32, max", torch.get("f16", {}).get("max"), "<=",
                    LOGIT_ERROR, torch.get("skipped", ""))


def of_overflow(found, gpu):
    for name in overflow.FACTORS:
        row = found.get(name, {})
        yield limit("overflow", f"{name} overflow: logit error, max", row.get("logit_error", {}).get("max"), "<=", LOGIT_ERROR)
        yield limit("overflow", f"{name} overflow: scores that are not finite", row.get("non_finite_scores"), "<=", 0)
        redone = row.get("redone_batches") if gpu else None
        yield limit("overflow", f"{name} overflow: batches computed again in f32", redone, ">=", 1,
                    "" if gpu else "the CPU's f16 does not overflow")


def of_bench(found, examined):
    latency = {row["documents"]: row["systems"] for row in found.get("latency", [])}
    ratio = latency.get(20, {}).get("old", {}).get("ours_over_it")
    yield limit("bench", "20 documents alone, p50: ours / sentence-transformers", ratio, "<=", LATENCY_RATIO)
    loops, peak = found.get("loops", []), examined.get("peaks", {}).get("gemm_f16_gflop_per_s")
    ours, old = (bench.rate(loops, system, LOAD) for system in ("ours", "old"))
    yield limit("bench", f"{LOAD} x 50 documents, requests/s: ours / sentence-transformers",
                ours and old and ours / old, ">=", THROUGHPUT_RATIO)
    for what, key, bound in (("end to end", "gflop_per_s", END_TO_END), ("inside the model", "model_gflop_per_s", IN_MODEL)):
        reached = bench.rate(loops, "ours", LOAD, key)
        yield limit("bench", f"{LOAD} x 50 documents, share of cuBLASLt's f16 rate, {what}",
                    reached and peak and reached / peak, ">=", bound)
    used = [at["bytes"] for at in found.get("memory", {}).values() if at]
    yield limit("bench", "GPU memory, bytes", max(used, default=None), "<=", MEMORY)
    errors = sum(sum(row["errors"].values()) for row in loops if row["system"] == "ours") if loops else None
    yield limit("bench", "requests under load that were not answered 200", errors, "<=", 0)
