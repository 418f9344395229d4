"""What was found, as a page of Markdown."""
import bench
import limits
from common.machine import headlines

NAMES = {"ours": "this service", "old": "sentence-transformers", "sdpa": "transformers, SDPA"}


def page(result):
    """Sections that were not measured say why."""
    parts = [head(result), judged(result["limits"])]
    for name, title, tell in SECTIONS:
        found = result["sections"].get(name)
        if found:
            reason = found.get("failed") or found.get("skipped")
            parts.append([f"## {title}", "", *([f"Not measured: {one_line(reason)}"] if reason else tell(found, result))])
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def table(titles, rows):
    return [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles),
            *(f"| {' | '.join(cells)} |" for cells in rows)]


def one_line(text):
    return " ".join(text.split())


def number(value, form):
    return "" if value is None else format(value, form)


def head(result):
    gpu, m = result["gpu"], result["model"]
    device = (f"{gpu['name']}, {gpu['memory_bytes'] / 2 ** 30:.0f} GiB, compute capability {gpu['compute_capability']}, "
              f"driver {gpu['driver']}; cuBLASLt: {result['cublaslt'] or 'not found'}") if gpu else "none: the CPU, to try this out"
    lines = [f"# GPU, {gpu['name'] if gpu else 'but on the CPU'}", "",
             "Written by `scripts/gpu-check.sh`; `benches/gpu/README.md` says what the figures mean.", "",
             f"- GPU: {device}", *headlines(result),
             f"- model: {m['layers']} x {m['hidden']}, feed-forward {m['ffn']}, vocabulary {m['vocabulary']:,}, "
             f"{'random weights' if m['made'] else 'as given'}",
             f"- versions: {', '.join(f'{k} {v}' for k, v in result['versions'].items() if v)}",
             f"- took {result['took_seconds']:.0f} s: "
             + ", ".join(f"{name} {seconds:.0f}" for name, seconds in result["section_seconds"].items())
             + ("; shortened (`--quick`)" if result["quick"] else "")]
    lines += [f"- without {package}: {why}" for package, why in result["missing"].items()]
    if result["plot"]:
        lines += ["", f"![Latency and throughput]({result['plot']})"]
    return lines


def judged(rows):
    words = {True: "yes", False: "**NO**", None: "-"}
    cells = [[row["what"], number(row["value"], ".3g"), f"{'≤' if row['relation'] == '<=' else '≥'} {row['limit']:g}",
              words[row["passed"]] + (f" ({row['note']})" if row["note"] else "")] for row in rows]
    return table(["limit", "found", "allowed", "met"], cells)


def kernels(found, _result):
    failed = [f"{check['kernel']} {check['shape']}: {check['error']:.2e}" for check in found["kernels"] if not check["passed"]]
    layers, peaks, all_products = found["layers"], found["peaks"], found["products"]
    lines = [f"{len(found['kernels'])} comparisons with slow references, "
             + (f"failed: {'; '.join(failed)}." if failed else "all passed."),
             f"cuBLASLt's f16 product of large matrices: {peaks['gemm_f16_gflop_per_s'] / 1e3:.1f} TFLOP/s. "
             f"A copy: {peaks['copy_gb_per_s']:.0f} GB/s. Batches of {found['model']['batch_tokens']:,} tokens.", "",
             f"A batch of {layers['sequences']} pairs, {layers['tokens']:,} tokens, takes {1e3 * layers['batch_seconds']:.2f} ms on "
             f"the GPU's clock, a layer {1e6 * layers['layer_seconds']:.0f} µs in {layers['launches_per_layer']} launches."]
    if all_products:
        lines.append(f"Its layers' products run at {all_products['of_peak']:.0%} of that rate and take "
                     f"{all_products['of_batch_seconds']:.0%} of the time.")
    cells = [[part["name"], f"{part['launches']}", f"{1e6 * part['seconds'] / part['launches']:.1f}",
              f"{part['seconds'] / layers['batch_seconds']:.1%}",
              *(number(part.get(key), form) for key, form in
                (("of_peak", ".0%"), ("gigabytes", ".3g"), ("of_copy", ".0%")))] for part in layers["parts"]]
    return [*lines, "", *table(["part", "launches", "µs each", "of the batch", "of the product's rate", "GB in all",
                                "of the copy's rate"], cells)]


def golden(found, _result):
    cells = []
    for name, row in found.items():
        torch, alone = row["torch"], row["alone"]
        cells.append([name, f"{row['requests']}", f"{row['max_logit_error']:.1e}", f"{row['mean_logit_error']:.1e}",
                      f"{row['same_top5']:.1%}", f"{row['widest_gap_of_changed_top5']:.1e}", f"{row['kendall_tau']['mean']:.4f}",
                      f"{alone['max_logit_difference']:.1e}", number(torch.get("f16", {}).get("max"), ".1e"),
                      number(torch.get("f32", {}).get("max"), ".1e"), number(row["redone_batches"], ".0f")])
    first = next(iter(found.values()))
    lines = table(["model", "requests", "logit error, max", "mean", "same top 5", "gap of those that changed", "Kendall's τ",
                   "alone / in a batch", "against torch f32, max", "our f32 against it", "batches redone"], cells)
    return [*lines, "", f"f16 against our own f32 on the same device, requests of 20 documents; {first['alone']['pairs']} pairs of a "
            f"request of {first['alone']['batch_documents']} alone too. The demo model is trained; the checkpoint may be "
            "random, and its documents then lie close together.",
            *(f"Not against torch: {first['torch']['skipped']}" for _ in range("skipped" in first["torch"]))]


def overflow(found, _result):
    cells = [[name, f"{row['factor']:.0f}", f"{row['requests']}", f"{row['logit_error']['max']:.1e}",
              f"{row['logit_error']['mean']:.1e}", f"{row['logit_deviation_within_requests']:.2f}",
              number(row["redone_batches"], ".0f"), number(row["non_finite_scores"], ".0f")] for name, row in found.items()]
    return ["The demo model with one layer's first feed-forward product multiplied, so that sums pass 65504; against f32:", "",
            *table(["overflow in", "times", "requests answered", "logit error, max", "mean", "logits deviate by", "batches redone",
                    "scores not finite"], cells)]


def benched(found, result):
    peak = result["sections"].get("kernels", {}).get("peaks", {}).get("gemm_f16_gflop_per_s")
    return [*peers(found), "", *alone(found), "", *loaded(found, peak), "", *resources(found)]


def peers(found):
    lines = [f"All in {found['precision']}, with the same weights."]
    for key, facts in found["peers"].items():
        if "skipped" in facts:
            lines.append(f"Without {NAMES[key]}: {one_line(facts['skipped'])}")
            continue
        sizes = facts.get("batch_sizes")
        lines.append(f"{facts['title']}; " + (
            f"no HTTP; of batches of {', '.join(map(str, bench.BATCHES))} pairs the best, "
            f"{', '.join(map(str, sizes.values()))} for {', '.join(map(str, sizes))} documents; " if sizes else "")
            + f"its logits are within {facts['logit_difference']['max']:.1e} of ours.")
    return [f"{line}  " for line in lines]


def alone(found):
    cells = []
    for row in found["latency"]:
        facts = found["requests"][f"{row['documents']}"]
        for key, values in row["systems"].items():
            ratio = values.get("ours_over_it")
            cells.append([f"{row['documents']}", f"{facts['tokens']:.0f}", NAMES[key], f"{1e3 * values['p50']:.2f}",
                          f"{1e3 * values['p95']:.2f}", f"**{ratio:.2f}**" if ratio else "", f"{row['runs']}"])
    limit = f"limit: 20 documents ≤ {limits.LATENCY_RATIO} of sentence-transformers"
    return [f"One request at a time, by turns ({limit}):", "",
            *table(["documents", "tokens", "system", "p50 ms", "p95 ms", "ours / it", "runs"], cells)]


def loaded(found, peak):
    cells = []
    for row in found["loops"]:
        ours = bench.rate(found["loops"], "ours", limits.LOAD if row["system"] == "sdpa" else row["clients"])
        rate = row.get("requests_per_s")
        ratio = ours / rate if row["system"] != "ours" and ours and rate else None
        shares = [row.get(key) and peak and row[key] / peak for key in ("gflop_per_s", "model_gflop_per_s")]
        cells.append([NAMES[row["system"]], "back to back" if row["system"] == "sdpa" else f"{row['clients']} clients",
                      f"{row['good']}", ", ".join(f"{n} x {e}" for e, n in row["errors"].items()), number(rate, ".2f"),
                      number(ratio, ".2f"), number(row.get("tokens_per_s"), ",.0f"),
                      number(row.get("p50") and 1e3 * row["p50"], ".0f"), number(row.get("p95") and 1e3 * row["p95"], ".0f"),
                      number(row.get("gflop_per_s") and row["gflop_per_s"] / 1e3, ".2f"),
                      number(shares[0], ".0%"), number(shares[1], ".0%"), number(row.get("batch_tokens"), ".0f")])
    limit = (f"limits at {limits.LOAD} clients: ≥ {limits.THROUGHPUT_RATIO:g} x sentence-transformers, ≥ {limits.END_TO_END:.0%} of the "
             f"product's rate end to end, ≥ {limits.IN_MODEL:.0%} inside the model")
    return [f"Requests of 50 documents, {found['loaded']['tokens']:.0f} tokens and {found['loaded']['gflop'] / 1e3:.3f} TFLOP on "
            f"average, {found['loaded']['requests']} different ones ({limit}):", "",
            *table(["system", "load", "good", "errors", "requests/s", "ours / it", "tokens/s", "p50 ms", "p95 ms", "TFLOP/s",
                    "of the product's rate", "inside the model", "tokens/batch"], cells)]


def resources(found):
    lines = []
    for when, memory in found["memory"].items():
        if memory:
            lines.append(f"GPU memory {when.replace('_', ' ')}: {memory['bytes'] / 1e9:.2f} GB ({memory['counted']}; limit "
                         f"{limits.MEMORY / 1e9:g} GB).  ")
    if found["clocks_under_load"]:
        lines.append("Just after load: " + ", ".join(f"{key} {value}" for key, value in found["clocks_under_load"].items()) + ".")
    return lines


SECTIONS = (("kernels", "Kernels and layers", kernels), ("golden", "Scores in f16", golden),
            ("overflow", "A model that overflows f16", overflow), ("bench", "Speed", benched))
