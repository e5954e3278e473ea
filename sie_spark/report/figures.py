"""Figures as inline SVG: colours that the colour-blind can tell apart, marks besides colour, labelled axes."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from sie_spark.platform.config.arms import BASELINE, CANDIDATE, FULL

# Okabe and Ito's palette
STYLES = {FULL: ("#0072B2", "o"), CANDIDATE: ("#D55E00", "s"), BASELINE: ("#595959", "^")}
OTHERS = (("#009E73", "D"), ("#CC79A7", "v"), ("#E69F00", "P"), ("#000000", "X"), ("#56B4E9", "*"))
SHORT = {
    CANDIDATE: "important",
    FULL: "all",
    BASELINE: "random",
    "logistic_regression": "logistic",
    "boosted_trees": "trees",
}
CLICK, NO_CLICK = "#D55E00", "#56B4E9"
SIZE = (4.7, 3.2)  # inches: text stays legible at the width of a phone


def style(arm: str, arms: Sequence[str]) -> tuple[str, str]:
    """Colour and mark of an arm among ``arms``; those beside the default three take turns."""
    others = [name for name in arms if name not in STYLES]
    return STYLES[arm] if arm in STYLES else OTHERS[others.index(arm) % len(OTHERS)]


def draw(paint: Callable[[Any], None], label: str, *, size: tuple[float, float] = SIZE) -> str:
    """An ``<svg>`` element that scales to its container; ``label`` is read out to those who cannot see it."""
    import matplotlib

    style: Any = {
        "svg.hashsalt": "sie",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#777",
        "axes.grid": True,
        "grid.color": "#e3e3e3",
        "axes.axisbelow": True,
    }
    with matplotlib.rc_context(style):
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font: (\d+px) 'sans-serif'[^;\"]*", r"font: \1 sans-serif", svg)
    svg = re.sub(r'\s*xmlns(:xlink)?="[^"]*"', "", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{_attribute(label)}"', 1)


def calibration(curves: dict[str, list[dict[str, float]]], titles: dict[str, str]) -> str:
    """Observed click rate against predicted probability, by arm."""

    def paint(axes: Any) -> None:
        points = [point for curve in curves.values() for point in curve]
        top = max(max(point["p"], point["rate"]) for point in points)
        lows = [value for point in points for value in (point["p"], point["rate"]) if value > 0]
        bottom = max(min(lows), top * 1e-3)
        axes.plot([bottom, top], [bottom, top], color="#999", linestyle="--", linewidth=1, label="perfect")
        for arm, curve in curves.items():
            shown = [point for point in curve if point["rate"] > 0 and point["p"] >= bottom]
            rates = [point["rate"] for point in shown]
            errors = [
                [max(point["rate"] - point["low"], 0) for point in shown],
                [max(point["high"] - point["rate"], 0) for point in shown],
            ]
            bars = errors if arm == CANDIDATE else None
            colour, mark = style(arm, list(titles))
            axes.errorbar(
                [point["p"] for point in shown],
                rates,
                yerr=bars,
                color=colour,
                marker=mark,
                markersize=4,
                linewidth=1,
                elinewidth=0.8,
                label=titles[arm],
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        _plain_ticks(axes.xaxis)
        _plain_ticks(axes.yaxis)
        axes.set_xlabel("predicted click probability (log scale)")
        axes.set_ylabel("observed click rate")
        axes.legend(frameon=False, fontsize=9)

    return draw(paint, "Observed click rate against predicted click probability for each model")


def differences(entries: Sequence[dict[str, Any]], margin: float, arms: Sequence[str]) -> str:
    """AUC differences with their intervals beside the margin."""

    def paint(axes: Any) -> None:
        shown = [entry for entry in entries if "low" in entry]
        axes.axvline(0, color="#777", linewidth=1)
        axes.axvspan(-margin, margin, color="#009E73", alpha=0.2, linewidth=0, label=f"margin ±{margin:g}")
        for place, entry in enumerate(reversed(shown)):
            colour, mark = style(entry["name"].split(" - ")[0], arms)
            axes.errorbar(
                entry["value"],
                place,
                xerr=[[max(entry["value"] - entry["low"], 0)], [max(entry["high"] - entry["value"], 0)]],
                color=colour,
                marker=mark,
                capsize=4,
            )
        labels = [
            " − ".join(SHORT.get(arm, arm) for arm in entry["name"].split(" - ")) for entry in reversed(shown)
        ]
        axes.set_yticks(range(len(shown)), labels)
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.set_xlabel("difference in AUC (95 % interval)")
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="y", visible=False)
        axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)

    return draw(
        paint,
        "Differences in AUC between the models, with 95 % intervals",
        size=(4.7, 1.2 + 0.4 * len(entries)),
    )


def histogram(rows: Sequence[dict[str, Any]], xlabel: str, label: str) -> str:
    """Rows by value on a logarithmic axis, clicks and other rows side by side."""

    def paint(axes: Any) -> None:
        for wanted, colour, hatch, name in ((0, NO_CLICK, "", "no click"), (1, CLICK, "////", "click")):
            chosen = [row for row in rows if row["label"] == wanted and row["high"] > 1e-9]
            axes.bar(
                [row["low"] for row in chosen],
                [row["rows"] for row in chosen],
                width=[row["high"] - row["low"] for row in chosen],
                align="edge",
                color=colour,
                alpha=0.75,
                hatch=hatch,
                edgecolor="white",
                linewidth=0.3,
                label=name,
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(f"{xlabel} (log scale)")
        axes.set_ylabel("rows (log scale)")
        axes.legend(frameon=False, fontsize=9)

    return draw(paint, label)


def positions(rows: Sequence[dict[str, Any]]) -> str:
    """Share of rows, of the total importance and of the kept rows, by position."""

    def paint(axes: Any) -> None:
        total, kept = sum(row["rows"] for row in rows), max(sum(row["kept"] for row in rows), 1)
        at = [row["position"] for row in rows]
        series = (
            ("rows", "#595959", "o", [100 * row["rows"] / total for row in rows]),
            ("importance", "#0072B2", "^", [100 * row["share"] for row in rows]),
            ("kept rows", "#D55E00", "s", [100 * row["kept"] / kept for row in rows]),
        )
        for name, colour, mark, values in series:
            axes.plot(
                at, values, color=colour, marker=mark, markersize=4, linewidth=1.2, label=f"share of {name}"
            )
        axes.set_ylim(bottom=0)
        axes.set_xlabel("position in the list (1 = top)" + (", 21 = 21 and below" if max(at) > 20 else ""))
        axes.set_ylabel("share (%)")
        axes.legend(frameon=False, fontsize=9)

    return draw(paint, "Share of rows, importance and kept rows by position in the list")


def _plain_ticks(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".removeprefix("0")))
    axis.set_minor_formatter(NullFormatter())


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
