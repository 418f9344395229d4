"""What was measured or predicted elsewhere, read from the pages of docs/benchmarks."""
import re

SPREAD = re.compile(r"mean \d+ documents, (\d+) tokens")


def rows(page, begins_with):
    """The cells of the table whose first title is this."""
    found, inside = [], False
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] == begins_with:
            inside = True
        elif inside and line.startswith("|"):
            if not set(line) <= set("|-"):
                found.append(cells)
        else:
            inside = False
    return found


def cpu_tokens_per_second(folder, dtype):
    """What two threads were measured to do, with 20 and 50 documents: the lower of both."""
    rates = []
    for name in (f"cpu-{dtype}", f"cpu-{dtype}-50"):
        page = (folder / f"{name}.md").read_text("utf-8")
        ours = next(row for row in rows(page, "system") if row[0] == "this service")
        rates.append(int(SPREAD.search(page)[1]) / float(ours[2]))
    return min(rates)


def t4_points(folder):
    """(tokens, predicted seconds) of requests with documents of usual length, the shortest first."""
    page = (folder / "gpu-on-paper.md").read_text("utf-8").split("## H100")[0]
    points = [(int(tokens.replace(",", "")), float(expected) / 1e3)
              for documents, tokens, _, expected, *_ in rows(page, "documents") if documents.isdigit()]
    return sorted(points)


def goodput(folder):
    """The closed loop's rate, the deadline and the rows of the overload measurement."""
    page = (folder / "goodput.md").read_text("utf-8")
    titles = ("load", "sent", "good", "busy", "useful", "200", "429", "504", "other", "refused_after", "small")
    measured = [dict(zip(titles, row)) for row in rows(page, "load / capacity")]
    closed = float(re.search(r"does ([\d.]+) of them a second", page)[1])
    return closed, float(re.search(r"deadline of (\d+) s", page)[1]), measured
