"""The sentences of the report: what was found, said so that nobody has to read a number twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sie_spark.platform.config.arms import BASELINE, CANDIDATE, FULL

KEEP_ALL = "Keep all rows"  # how the recommendation of weighting.budget=auto begins where no share will do
DERIVED = ("hist_", "count_", "rate_")
VERDICTS = {
    "equivalent": ("good", "✓", "As good as all rows", "less than {margin} either way"),
    "no worse": (
        "good",
        "✓",
        "No worse than all rows",
        "a loss of more than {margin} is excluded with {sure} confidence",
    ),
    "worse": ("bad", "✗", "Worse than all rows", "more than {margin} was lost"),
    "not shown": (
        "open",
        "?",
        "Not shown to be as good as all rows",
        "a loss of more than {margin} is not excluded",
    ),
}


@dataclass(frozen=True)
class Headline:
    """The verdict: ``tone`` is good, open or bad; ``mark`` and ``title`` say it without colour."""

    tone: str
    mark: str
    title: str
    why: str


def headline(evaluated: dict[str, Any]) -> Headline:
    """The verdict over weighted against full, at the margin that was set before."""
    entry = next((e for e in evaluated.get("differences", []) if e["name"] == f"{CANDIDATE} - {FULL}"), None)
    known = _without_a_test(evaluated, entry is not None)
    return known or _verdict(entry or {}, _plain(evaluated.get("margin", 0.001)))


def _without_a_test(evaluated: dict[str, Any], compared: bool) -> Headline | None:
    """What can be said without looking at the difference; None where the difference decides."""
    if not evaluated.get("arms"):
        return Headline("open", "–", "Not evaluated yet", "Run 'sie evaluate' to judge the subset.")
    if not compared:
        return Headline(
            "open", "?", "No comparison", f"One of the arms '{CANDIDATE}' and '{FULL}' is switched off."
        )
    useless = [arm for arm in (FULL, CANDIDATE) if (evaluated["arms"].get(arm, {}).get("ne") or 0.0) >= 1.0]
    if useless:
        called = dict(evaluated.get("titles", []))
        named = " and ".join(called.get(arm, arm) for arm in useless)
        return Headline(
            "bad",
            "✗",
            "No better than a constant",
            f"The model on {named} predicts no better than the click rate.",
        )
    recommended = evaluated.get("recommended", "")
    if recommended.startswith(KEEP_ALL):
        why = recommended.removeprefix(KEEP_ALL).lstrip(": ")
        return Headline("bad", "✗", KEEP_ALL, f"{why[:1].upper()}{why[1:]}.")
    return None


def _verdict(entry: dict[str, Any], margin: str) -> Headline:
    change = signed(entry["value"])
    if "no_verdict" in entry:
        reason = entry["no_verdict"]
        return Headline("open", "?", "No verdict", f"AUC changed by {change}, but {reason}.")
    if "verdict" not in entry:
        return Headline(
            "open", "?", "Not tested", f"AUC changed by {change}; there are no bootstrap replicates."
        )
    verdict = entry["verdict"]
    span = f"{signed(verdict['low'])} to {signed(verdict['high'])}"
    sure = f"{100 * (1 - verdict['alpha']):.0f} %"
    tone, mark, title, ending = VERDICTS[verdict["word"]]
    why = f"AUC changed by {change} (90 % interval {span}): {ending.format(margin=margin, sure=sure)}."
    return Headline(tone, mark, title, why)


def summary(kept: dict[str, Any], evaluated: dict[str, Any]) -> str:
    """One sentence: rows kept, AUC of the subset beside all rows and a random subset, calibration."""
    arms = evaluated.get("arms", {})
    parts = []
    if kept.get("rows"):
        share = f"{kept['kept_fraction']:.1%}".replace("%", " %")
        parts.append(f"Kept {kept['kept']:,} of {kept['rows']:,} training rows ({share})")
    if CANDIDATE in arms:
        text = f"AUC {ratio(arms[CANDIDATE].get('auc'))}{_span(evaluated, f'auc_{CANDIDATE}')}"
        if FULL in arms:
            text += f" against {ratio(arms[FULL].get('auc'))} with all rows"
        parts.append(text)
        parts.append(f"calibration {number(arms[CANDIDATE].get('calibration'), 2)}")
    if BASELINE in arms:
        parts.append(f"the same number of random rows: {ratio(arms[BASELINE].get('auc'))}")
    return "; ".join(parts) + "." if parts else ""


def split(encoded: dict[str, Any]) -> str:
    """How the test rows were set apart."""
    return "set apart by a hash of their group" if _by_hash(encoded) else "later than every training row"


def ratio(value: float | None) -> str:
    """.874 for 0.8741: AUC-like values."""
    return "–" if value is None else f"{value:.4f}".removeprefix("0")


def number(value: float | None, digits: int) -> str:
    """A number with so many decimals, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def about(value: float | None, bound: float | None) -> str:
    """An AUC-like value, with how far off it may be where that shows in its digits: .8741, .8741 ± .002."""
    if value is None or bound is None or bound < 5e-5:
        return ratio(value)
    return f"{ratio(value)} ± {_plain(float(f'{bound:.1g}'))}"


def signed(value: float) -> str:
    """+.0012 or −.0040."""
    return ("+" if value >= 0 else "−") + f"{abs(value):.4f}".removeprefix("0")


def seconds(value: float) -> str:
    """3.2 s, 4 min 05 s."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s"


def small_seconds(value: float) -> str:
    """20 µs, 1.2 ms."""
    return f"{value * 1e6:.0f} µs" if value < 1e-3 else f"{value * 1e3:.1f} ms"


def percent(share: float) -> str:
    """58 %, and 95.7 % near either end; 100 % is said of all alone, 0 % of nothing."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    return f"{100 * share:.{1 if 0 < share < 0.1 or 0.9 < share < 1 else 0}f} %"


def readable(features: dict[str, Any], limit: int = 6) -> str:
    """The features of a sample in one line, those that say nothing (null, 0) left out."""
    said = []
    # what was shown comes before what was counted about it
    for name, value in sorted(features.items(), key=lambda item: item[0].startswith(DERIVED)):
        if value in (None, 0, 0.0, "", []):
            continue
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        shown = ", ".join(map(str, value)) if isinstance(value, list) else shown
        said.append(f"{name.replace('_', ' ')} {shown[:40]}")
    return " · ".join(said[:limit])


def _by_hash(encoded: dict[str, Any]) -> bool:
    return bool(encoded.get("split", {}).get("by") == "hash")


def _span(evaluated: dict[str, Any], name: str) -> str:
    span = evaluated.get("intervals", {}).get(name)
    return f" [{ratio(span[0])}, {ratio(span[1])}]" if span else ""


def _plain(value: float) -> str:
    return f"{value:g}".removeprefix("0")
