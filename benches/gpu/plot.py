"""The page's picture: latency and throughput as bars, by matplotlib if it is there, else as an SVG of a few lines."""
import importlib.util
from html import escape

import bench
from page import NAMES

COLOURS = {"ours": "#2a6fbb", "old": "#c4682b", "sdpa": "#7f7f7f"}


def panels(found):
    """Two groups of bars: title, then by group the values of the systems."""
    alone = {f"{row['documents']} documents": {key: 1e3 * values["p50"] for key, values in row["systems"].items()}
             for row in found["latency"]}
    loaded = {f"{clients} clients": {key: bench.rate(found["loops"], key, clients if key != "sdpa" else None)
                                     for key in NAMES} for clients in bench.CLIENTS}
    loaded = {name: {key: value for key, value in values.items() if value} for name, values in loaded.items()}
    return [("One request at a time: ms at the median", alone), ("50 documents each: requests/s (SDPA back to back)", loaded)]


def plot(found, stem):
    """Writes the picture beside the page; returns its name."""
    if importlib.util.find_spec("matplotlib"):
        path = stem.with_suffix(".png")
        by_matplotlib(panels(found), path)
    else:
        path = stem.with_suffix(".svg")
        path.write_text(svg(panels(found)))
    return path.name


def by_matplotlib(both, path):
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axis, (title, groups) in zip(axes, both):
        for place, (key, name) in enumerate(NAMES.items()):
            at = [n + 0.27 * (place - 1) for n, values in enumerate(groups.values()) if key in values]
            bars = axis.bar(at, [values[key] for values in groups.values() if key in values], 0.25, label=name,
                            color=COLOURS[key])
            axis.bar_label(bars, fmt="%.3g", fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(len(groups)), groups)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)


def svg(both):
    """The same by hand."""
    shapes = [panel(title, groups, 20 + 460 * n) for n, (title, groups) in enumerate(both)]
    legend = "".join(f'<rect x="{20 + 200 * n}" y="282" width="12" height="12" fill="{COLOURS[key]}"/>'
                     f'<text x="{38 + 200 * n}" y="293">{escape(name)}</text>' for n, (key, name) in enumerate(NAMES.items()))
    return ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 920 305" font-family="sans-serif" font-size="12">'
            f'<rect width="920" height="305" fill="white"/>{"".join(shapes)}{legend}</svg>\n')


def panel(title, groups, left, width=420, bottom=250, height=190):
    most = max((value for values in groups.values() for value in values.values()), default=1.0)
    step = width / max(1, len(groups))
    shapes = [f'<text x="{left}" y="24" font-size="14">{escape(title)}</text>',
              f'<path d="M{left} {bottom}h{width}" stroke="black"/>']
    for n, (name, values) in enumerate(groups.items()):
        shapes.append(f'<text x="{left + step * (n + 0.5):.0f}" y="{bottom + 18}" text-anchor="middle">{escape(name)}</text>')
        for key, value in values.items():
            tall, wide = height * value / most, step / 4
            x = left + step * n + wide * (0.5 + list(NAMES).index(key))
            shapes.append(f'<rect x="{x:.1f}" y="{bottom - tall:.1f}" width="{0.94 * wide:.1f}" height="{tall:.1f}" '
                          f'fill="{COLOURS[key]}"/><text x="{x + wide / 2:.1f}" y="{bottom - tall - 4:.1f}" font-size="10" '
                          f'text-anchor="middle">{value:.3g}</text>')
    return "".join(shapes)
