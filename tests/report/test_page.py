"""The page in every state of a run, and with text that tries to be markup."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from helpers.stage_details import details, importance
from sie_spark.report import words
from sie_spark.report.page import Facts, render, view

VOID = {"meta", "br", "path", "use", "rect", "circle", "img", "hr", "input", "link"}


class Outline(HTMLParser):
    """Text, tags and attributes; fails on a tag that is closed out of order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.said: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.links += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")
        ]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")
        ]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.said.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.said))


def facts(found: dict[str, Any] | None = None, **more: Any) -> Facts:
    return Facts(
        dataset=more.pop("dataset", "shop"),
        details=details() if found is None else found,
        importance=more.pop("importance", importance()),
        tables=[("events", 1, 208_000), ("scores", 0, None)],
        made=[("Configuration", "abc123")],
        **more,
    )


def test_a_stranger_reads_the_verdict_first() -> None:
    page = Outline(render(facts()))
    text = page.text
    assert text.index("Not shown to be as good as all rows") < text.index("The models side by side")
    assert "Kept 15,600 of 156,000 training rows (10.0 %)" in text
    assert "AUC .8754 [.8714, .8794] against .8762 with all rows; calibration 1.01" in text
    assert "the same number of random rows: .8604" in text
    assert "211,328 read = 208,000 events + 1,228 set aside + 2,100 duplicates" in text
    for heading in ("Can I trust the subset?", "Which samples matter?", "What happened to the rows?"):
        assert heading in text
    assert page.tags.count("svg") == 5
    assert "i1 · query text red shoes sale · price 31.5" in text
    assert "Not run" not in text


def test_the_least_inclusion_probability_is_shown() -> None:
    from sie_spark.weighting.arms import QUANTILES

    assert (
        f"{QUANTILES[0]:g}" in details()["weigh"]["arms"]["weighted"]["pi_quantiles"]
    )  # as the weigh stage keys it
    assert "Least inclusion probability 0.003" in Outline(render(facts())).text


def test_a_split_by_hash_claims_nothing_about_time() -> None:
    text = Outline(render(facts())).text
    assert "later than every training row" in text and "2024-03-01 to 2024-03-04" in text
    found = details()
    found["encode"]["split"] = {"by": "hash", "seconds": None, "test_fraction": 0.2}
    found["impressions"]["by_date"] = [{"date": "1970-01-01"}]
    for entry in found["evaluate"]["slices"]:
        entry["slice"] = "1970-01-01" if entry["kind"] == "day" else entry["slice"]
    for entry in found["weigh"]["top"]:
        entry["event_date"] = "1970-01-01"
    text = Outline(render(facts(found))).text
    assert "set apart by a hash of their group" in text
    for claim in ("later than", "1970-01-01", "time split"):
        assert claim not in text


def test_what_feature_selection_did() -> None:
    assert "Feature selection" not in Outline(render(facts())).text
    found = details()
    votes = (("noise", True), ("price", False), ("user_id", True), ("rank", True))
    found["encode"]["selection"] = {
        "rows": 20_000,
        "applied": True,
        "dropped": {"noise": ["information: nothing"]},
        "kept_despite": {"user_id": "named in dataset.selection.keep"},
        "verdicts": [
            {
                "feature": name,
                "method": "information",
                "drop": drop,
                "value": 0.0,
                "reason": "as chance gives",
            }
            for name, drop in votes
        ],
    }
    page = Outline(render(facts(found)))
    assert "Feature selection: 1 of 4 features dropped" in page.text
    assert "noise dropped information: as chance gives" in page.text
    assert "user_id kept: named in dataset.selection.keep" in page.text and "kept: too few votes" in page.text
    assert "price" not in {row["name"] for row in view(facts(found))["selection"]["rows"]}
    found["encode"]["selection"]["applied"] = False
    assert "1 of 4 features would be dropped" in Outline(render(facts(found))).text


def test_it_stands_alone_and_is_the_same_every_time() -> None:
    page = render(facts())
    assert all(link.startswith("#") for link in Outline(page).links)
    assert not re.search(r"https?://|@import|url\((?!#)", page)
    assert "<script" not in page
    assert page == render(facts())


@pytest.mark.parametrize("missing", sorted(details()))
def test_a_missing_stage_leaves_the_rest(missing: str) -> None:
    found = {name: value for name, value in details().items() if name != missing}
    text = Outline(render(facts(found))).text
    if missing == "evaluate":
        assert "Not evaluated yet" in text and "Not run: evaluate" in text
    if missing == "ingest":
        assert "set aside" not in text and "training samples" in text


def test_nothing_has_run() -> None:
    page = Outline(render(Facts("shop")))
    assert "svg" not in page.tags
    for stage in ("evaluate", "score, weigh", "ingest"):
        assert f"Not run: {stage}" in page.text


def test_arms_switched_off_and_no_bootstrap() -> None:
    found = details()
    for arm in ("full", "random"):
        found["evaluate"]["arms"].pop(arm)
    found["evaluate"]["titles"] = [["weighted", "weighted subset"]]
    found["evaluate"]["differences"] = []
    text = Outline(render(facts(found))).text
    assert "No comparison" in text and "random rows" not in text
    found = details()
    found["evaluate"]["intervals"] = {}
    for entry in found["evaluate"]["differences"]:
        for key in ("low", "high", "verdict"):
            entry.pop(key)
    assert "Not tested" in Outline(render(facts(found))).text


def test_text_stays_text() -> None:
    evil = '<script>alert("x")</script>&amp;'
    found = details()
    found["weigh"]["top"][0]["features"] = {evil: evil[:39], "item_id": "<b>1</b>"}
    found["ingest"]["reasons"] = {evil: 3}
    found["ingest"]["warnings"] = {evil: 3}
    marked = {**importance(), "score": evil}
    page = render(facts(found, dataset=evil, importance=marked))
    assert "<script" not in page and "<b>1" not in page
    outline = Outline(page)
    assert evil in outline.text and "script" not in outline.tags


@pytest.mark.parametrize(
    ("change", "half", "tone", "title"),
    [
        (0.002, 0.0005, "good", "No worse than all rows"),
        (-0.01, 0.0005, "bad", "Worse than all rows"),
        (-0.001, 0.002, "open", "Not shown to be as good as all rows"),
    ],
)
def test_verdicts(change: float, half: float, tone: str, title: str) -> None:
    said = words.headline(details(change, half)["evaluate"])
    assert (said.tone, said.title) == (tone, title)
    assert "margin" not in said.why and "{" not in said.why


def test_without_a_verdict_the_page_says_why() -> None:
    found = details()
    entry = found["evaluate"]["differences"][0]
    entry.pop("verdict")
    entry["no_verdict"] = "the users of the test rows carry as much as 3.1 independent ones"
    said = words.headline(found["evaluate"])
    assert (said.tone, said.title) == ("open", "No verdict") and "3.1 independent ones" in said.why


def test_a_recommendation_to_keep_all_rows_comes_first() -> None:
    found = details()["evaluate"] | {
        "recommended": "Keep all rows: 10.0% of them costs about 0.0200 AUC here"
    }
    said = words.headline(found)
    assert (said.tone, said.title) == ("bad", "Keep all rows")
    assert said.why == "10.0% of them costs about 0.0200 AUC here."
    assert (
        words.headline(found | {"recommended": "Keep 12.0% of the rows: predicted"}).title != "Keep all rows"
    )


def test_what_metrics_stand_on_is_shown() -> None:
    found = details()
    evaluated = found["evaluate"]
    evaluated["arms"]["full"]["auc_error_bound"] = 0.0021
    evaluated["slices"][0]["auc_error_bound"] = 0.0004
    evaluated["clusters"] |= {"by_row": True}
    text = Outline(render(facts(found))).text
    assert "(812 users)" in text and ".8762 ± .002" in text and ".8600 ± .0004" in text
    assert "bootstrap over rows, taken as independent." in text


def test_the_cautions_of_every_stage_are_shown_those_of_the_verdict_first() -> None:
    found = details()
    found["ingest"]["cautions"] = ["Of the records."]
    found["evaluate"]["cautions"] = ["Of the arms."]
    assert view(facts(found))["cautions"] == ["Of the arms.", "Of the records."]
    assert "Of the records." in Outline(render(facts(found))).text


def test_numbers_are_written_one_way() -> None:
    assert words.ratio(0.87416) == ".8742" and words.ratio(1.0) == "1.0000" and words.ratio(None) == "–"
    assert words.signed(-0.0012) == "−.0012" and words.signed(0.0) == "+.0000"
    assert words.seconds(3.21) == "3.2 s" and words.seconds(245.4) == "4 min 05 s"
    assert words.readable({"hist_click": 2, "price": 3}) == "price 3 · hist click 2"
    assert words.readable({"a": None, "b": 0, "price_eur": 1.23456, "c": "x"}) == "price eur 1.23 · c x"


def test_every_bar_fits() -> None:
    steps = view(facts())["flow"]
    assert max(step["width"] for step in steps) == 100 and min(step["width"] for step in steps) >= 0
    assert [step["name"] for step in steps][:4] == [
        "records read",
        "set aside (quarantine)",
        "duplicates dropped",
        "events",
    ]
    assert "no label, or not final yet" not in [step["name"] for step in steps]
    known = copy.deepcopy(details())
    known["encode"]["labels"]["train"] |= {"null": 5, "immature": 2_000}
    left_out = [step for step in view(facts(known))["flow"] if step["name"].startswith("no label")]
    assert [(step["kind"], step["rows"]) for step in left_out] == [("lost", "2,005")]


def test_yardsticks_stand_beside_the_arms_and_the_search_says_what_it_tried() -> None:
    found = details()
    evaluated = found["evaluate"]
    evaluated["yardsticks"] = [
        {"name": "boosted_trees", "title": "boosted trees", "rows": 1234, "chosen": {"depth": 4, "trees": 80}}
    ]
    evaluated["arms"]["boosted_trees"] = {"auc": 0.7123, "ne": 0.9, "calibration": 1.01, "logloss": 0.2}
    pair = {"name": "full - boosted_trees", "metric": "auc", "value": 0.02, "low": 0.01, "high": 0.03}
    evaluated["differences"].append({**pair, "error_bound": 0.0})
    tried = {"model": {}, "training": {}, "rows": 900, "epochs": 2, "seconds": 1.0}
    found["train"] = {
        "search": {
            "words": "embedding_dim=8",
            "rows": 900,
            "validation_rows": 300,
            "seconds": 12.0,
            "outcomes": [
                {**tried, "words": "as configured", "loss": None},
                {**tried, "words": "embedding_dim=8", "loss": 0.12345},
            ],
        }
    }
    page = Outline(render(facts(found)))
    assert "boosted trees" in page.text and "1,234" in page.text and ".7123" in page.text
    assert "all − trees" in page.text  # among the differences
    assert "Settings of all fits: embedding_dim=8" in page.text
    assert page.text.index("0.12345") < page.text.index("failed") and "no test row was read" in page.text


def test_a_model_that_predicts_no_better_than_a_constant_gets_no_verdict() -> None:
    found = details()
    found["evaluate"]["arms"]["weighted"]["ne"] = 1.02
    verdict = words.headline(found["evaluate"])
    assert verdict.title == "No better than a constant" and "weighted subset" in verdict.why
