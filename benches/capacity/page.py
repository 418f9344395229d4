"""docs/benchmarks/capacity.md out of what was simulated."""


def table(titles, rows):
    return [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles),
            *(f"| {' | '.join(cells)} |" for cells in rows), ""]


def ms(seconds):
    return f"{1e3 * seconds:,.0f}"


def percent(share):
    if 0 < share < 0.0005:
        return "below 0.1 %"
    return f"{100 * share:.1f} %" if 0 < share < 0.1 else f"{100 * share:.0f} %"


def load_cells(load):
    return [str(load.documents), load.arrivals, percent(load.repeats)]


def page(result):
    lines = ["# Capacity on paper", "",
             "Written by `benches/capacity/capacity.py`. **This is a simulation of the queue with service times from other "
             "pages.** The times of the T4 are predictions, those of the CPU were measured with two cores and are taken to be "
             "four times as short with eight.", "",
             f"- date: {result['date']}", f"- command: `{result['command']}`", f"- commit: {result['commit']}",
             f"- documents of {result['document_tokens']} tokens on average with their question, with the spread of real "
             "texts, cut to 512; the network is left out", "",
             *validation(result["validation"]), *services(result["studies"])]
    for study in result["studies"]:
        lines += section(study)
    return "\n".join(lines).rstrip() + "\n"


def validation(rows):
    off = [abs(row["good"] - row["measured_good"]) for row in rows]
    moderate = [deviation for row, deviation in zip(rows, off) if float(row["load"]) <= 5]
    lines = ["## Against a measurement", "",
             "The loads of [goodput](goodput.md), simulated. The only number that is fitted is the speed, to the closed loop. "
             f"Up to five times the capacity the share that is answered in time is at most {max(moderate):.2f} off, and "
             f"beyond {max(off):.2f}. The measured machine also sent the requests and refused them, which the simulation "
             "does not.", ""]
    titles = ["load / capacity", "in time / closed loop: measured", "simulated", "answered: measured", "simulated",
              "model busy: measured", "simulated", "small requests, p50 and most, ms: measured", "simulated"]
    return lines + table(titles, [[
        row["load"], f"{row['measured_good']:.2f}", f"{row['good']:.2f}", str(row["measured_answered"]),
        f"{row['answered']:.0f}", f"{row['measured_busy']:.2f}", f"{row['busy']:.2f}",
        ", ".join(f"{value:.0f}" for value in row["measured_small"]), ", ".join(f"{value:.0f}" for value in row["small"])]
        for row in rows])


def services(studies):
    lines = ["## Servers", "",
             "Alone is a request of 20 documents on an idle server. Good means that 95 % of the answers come within the bound "
             "and at most 1 % of the requests are refused. The deadline is `RERANKER_DEADLINE_MS`.", ""]
    rows = []
    for study in studies:
        server = study["server"]
        batch = server.limits.batch_tokens
        tokens = 20 * 110
        rows.append([server.name, f"{batch / server.seconds(batch):,.0f}", str(batch),
                     ms(alone(server, tokens)), f"{ms(server.p95_at_most)} ms", f"{ms(server.deadline)} ms"])
    return lines + table(["server", "tokens a second", "tokens of a batch", "alone, ms", "bound on p95", "deadline"], rows)


def alone(server, tokens):
    """Whole batches one after the other, and the rest."""
    batch = server.limits.batch_tokens
    rest = tokens % batch
    return tokens // batch * server.seconds(batch) + (server.seconds(rest) if rest else 0.0)


def section(study):
    server = study["server"]
    lines = [f"## {server.name}", "", "One server, 20 documents, Poisson, no repeats:", ""]
    lines += table(["requests/s", "utilisation", "p50, ms", "p95, ms", "p99, ms", "refused"],
                   [[f"{r['rate']:.2f}", percent(r["utilisation"]), ms(r["p50"]), ms(r["p95"]), ms(r["p99"]),
                     percent(r["refused"])] for r in study["curve"]])
    lines += [f"The largest rate of one server with p95 within {ms(server.p95_at_most)} ms:", ""]
    lines += table(["documents", "arrivals", "repeats", "requests/s", "utilisation", "p95, ms", "refused"],
                   [[*load_cells(load), *figures_of(best, f"{best['rate']:.2f}" if best else "none")]
                    for load, best in study["largest"]])
    lines += ["The same with several servers, 20 documents, no repeats:", ""]
    lines += table(["servers", "arrivals", "requests/s", "per server", "utilisation", "p95, ms", "refused"],
                   [[str(replicas), load.arrivals,
                     *([f"{best['rate']:.1f}", f"{best['rate'] / replicas:.2f}"] if best else ["none", ""]),
                     *figures_of(best)] for replicas, load, best in study["scaled"]])
    lines += ["Servers that it takes, 20 documents:", ""]
    return lines + table(["requests/s", "arrivals", "repeats", "servers", "utilisation", "p95, ms", "refused"],
                         [[f"{rate:,}", load.arrivals, percent(load.repeats),
                           *figures_of(best, str(best["replicas"]) if best else "none")]
                          for rate, load, best in study["fleets"]])


def figures_of(best, *first):
    found = [percent(best["utilisation"]), ms(best["p95"]), percent(best["refused"])] if best else ["", "", ""]
    return [*first, *found]
