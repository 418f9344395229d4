"""What compare.py found, as a page of Markdown."""
import statistics

from common.machine import headlines

NATIVE = {"f32": (), "bf16": ("avx512_bf16", "amx_bf16"), "int8": ("avx_vnni", "avx512_vnni", "amx_int8")}


def report(result):
    parts = [head(result), table(result["summary"]), yardstick(result)]
    if result["summary"]["operations"]:
        parts.append(operations(result["summary"]["operations"]))
    parts.append(agreement(result))
    if len(result["by_set"]) > 1:
        parts.append(sets(result))
    busy = [r["others"] for r in result["runs"]]
    parts.append([f"Other processes took {statistics.median(busy):.1%} of the machine during the median run, "
                  f"{max(busy):.1%} at worst."])
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def head(result):
    m, requests = result["model"], result["requests"]
    return [
        f"# CPU, {result['dtype']}, {'/'.join(dict.fromkeys(str(r['documents']) for r in requests))} documents", "",
        "Written by `benches/peers/compare.py`.", "",
        *headlines(result), instructions(result),
        f"- model: {m['layers']} x {m['hidden']}, feed-forward {m['ffn']}, vocabulary {m['vocabulary']:,}: "
        f"{m['weight_bytes'] / 1e9:.2f} GB in f32",
        f"- versions: {', '.join(f'{k} {v}' for k, v in result['versions'].items())}",
        f"- {len(requests)} requests, mean {statistics.mean(r['documents'] for r in requests):.0f} documents, "
        f"{statistics.mean(r['tokens'] for r in requests):.0f} tokens "
        f"({statistics.mean(r['padded_tokens'] for r in requests):.0f} if padded); "
        f"median of {result['rounds']} alternating rounds",
    ]


def instructions(result):
    """Which instructions the precision can use here."""
    dtype, vectors = result["dtype"], result["machine"]["vectors"]
    native = [name for name in NATIVE[dtype] if name in vectors]
    lacks = f"; the CPU has no {', '.join(NATIVE[dtype])}" if NATIVE[dtype] and not native else ""
    said = result["summary"]["peaks"][dtype]
    used = f"`reranker peak` used {said['instructions']}" if said else "`reranker peak` has no rate for it"
    return f"- {dtype}: {used}{lacks}; this service says that it computes in {result['dtype_said']}"


def table(s):
    lines = [
        "| system | CPU s / request | wall s / request | ours / it, CPU | ours / it, wall | load s | peak memory "
        "| / f32 weights | of its peak |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key, row in s["systems"].items():
        ratio = s["ours_over"].get(key)
        cpu, wall = (f"**{ratio['cpu']:.2f}**", f"{ratio['wall']:.2f}") if ratio else ("", "")
        share = f"{row['share_of_peak']:.0%}" if row["share_of_peak"] else "?"
        lines.append(
            f"| {row['title']} | {row['cpu_seconds_per_request']:.2f} | {row['seconds_per_request']:.2f} | {cpu} | {wall} "
            f"| {row['load_seconds']:.1f} | {row['peak_memory'] / 1e9:.2f} GB | {row['peak_memory_over_weights']:.3f} "
            f"| {share} |")
    return lines


def yardstick(result):
    s = result["summary"]
    ours, gemm = s["systems"]["ours"]["gflop_per_s"], s["gemm_gflop_per_s"]
    rates = [f"{row['gflop_per_s']:.0f} GFLOP/s in {dtype}" for dtype, row in s["peaks"].items() if row]
    return [f"Of its peak: arithmetic that the scores need, without padding, over wall time, against the multiply-add "
            f"instructions of the system's precision out of registers (`reranker peak`, median of "
            f"{len(result['peaks'])}): {', '.join(rates)}. This service: {ours:.0f} GFLOP/s, {ours / gemm:.0%} of the "
            f"{gemm:.0f} that torch's matrix product reaches in f32."]


def operations(s):
    """Where the time of this service's batches goes."""
    share = f", {s['projection_share_of_peak']:.0%} of the peak" if s["projection_share_of_peak"] else ""
    shares = ", ".join(f"{name} {part:.1%}" for name, part in s["shares"].items() if name != "projection")
    return [f"Of the time of this service's batches, {s['shares']['projection']:.1%} went to projections (products with weights, "
            f"and with them rounding, bias and GELU), at {s['projection_gflop_per_s']:.0f} GFLOP/s{share}; {shares}."]


def agreement(result):
    titles = {key: row["title"] for key, row in result["summary"]["systems"].items()}
    if result["dtype"] == "f32":
        return [f"Scores against {titles[key]}: {a['documents']} documents, logits within {a['max_logit_difference']:.1e} "
                f"(they deviate by {a['logit_deviation_within_requests']:.2f} within a request), "
                f"{a['neighbours_swapped']} neighbours swapped.  " for key, a in result["agreement"].items()]
    lines = ["| system | logit error, max | mean | Kendall's tau, mean | worst request | top 5 in common |",
             "|---|---|---|---|---|---|"]
    for key, a in result["agreement"].items():
        lines.append(
            f"| {titles[key]} | {a['max_logit_error']:.4f} | {a['mean_logit_error']:.4f} | {a['kendall_tau']['mean']:.3f} "
            f"| {a['kendall_tau']['min']:.3f} | {a['top5_overlap']:.0%} |" if a else f"| {titles[key]} | not finite | | | | |")
    deviation = next(a for a in result["agreement"].values() if a)["logit_deviation_within_requests"]
    return [*lines, "", f"Against torch in f32, whose logits deviate by {deviation:.2f} within a request. If the weights are "
            "random (`make_checkpoint.py`), unlike documents lie close together and their order says little about that of a "
            "trained model."]


def sets(result):
    keys = list(result["summary"]["systems"])
    lines = [f"| set | tokens | {' | '.join(f'{k} CPU s' for k in keys)} | {' | '.join(f'{k} wall s' for k in keys)} |",
             "|" + "---|" * (2 + 2 * len(keys))]
    for row in result["by_set"]:
        cells = [f"{row[f'{k}_{what}']:.2f}" for what in ("cpu", "wall") for k in keys]
        lines.append(f"| {row['set']} | {row['tokens']:.0f} | {' | '.join(cells)} |")
    return lines
