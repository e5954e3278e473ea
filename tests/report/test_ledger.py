"""The tables of what each arm kept and what it cost."""

from __future__ import annotations

import re
from typing import Any

from helpers.stage_details import details
from sie_spark.report import ledger, words
from sie_spark.report.page import Facts, render

TITLES = {"full": "all rows", "weighted": "weighted subset", "random": "random rows"}


def arm(**more: Any) -> dict[str, Any]:
    return {
        "ess": 12_345.6,
        "by_class": {"positive": {"kept": 600, "rows": 600}, "negative": {"kept": 15_000, "rows": 155_400}},
        "sampling_ess": 4_182.4,
        "largest_inverse": 410.99,
        "variance_inflation": 1.264,
        "capped_share": 0.5433,
        "floor_share": 0.0,
        "ids": {
            "place": {"kept": 1.0, "kept_enough": 1.0, "enough_before": 1.0},
            "item": {"kept": 0.957, "kept_enough": 0.41, "enough_before": 0.6},
        },
        **more,
    }


def cost(**more: Any) -> dict[str, Any]:
    parts = {"pilot": 10.0, "reference": 0.0, "scoring": 8.0, "selection": 2.0, "retrain": 60.0}
    shares = {"total": 80.0, "share": 0.8, "retrain_share": 0.6, "pays_after": 1, "never": False}
    return {**parts, **shares, "row_seconds": 2e-5, "start": None, **more}


FULL = {"seconds": 100.0, "row_seconds": 1.2e-3}


def values(row: dict[str, Any]) -> dict[str, str]:
    return {cell["label"]: f"{cell['value']} {cell['span']}".strip() for cell in row["cells"]}


def test_what_an_arm_kept() -> None:
    biased = arm(sampling_ess=None, floor_share=None, ids={})
    rows = ledger.kept({"random": biased, "weighted": arm(), "older": {"kept": 3}}, TITLES)
    assert [row["title"] for row in rows] == ["weighted subset", "random rows"]
    assert values(rows[0]) == {
        "Positives kept": "600 of 600",
        "Others kept": "15,000 of 155,400",
        "Effective rows": "12,346",
        "By 1/π": "4,182",
        "Largest 1/π": "411",
        "Variance": "× 1.26",
        "π is 1": "54 %",
        "π at floor": "0 %",
        "Ids kept": "95.7 % of item",
        "With 10 rows": "41 % of 60 %",
    }
    assert [values(rows[1])[name] for name in ("By 1/π", "π at floor", "Ids kept")] == ["–"] * 3
    assert list(values(rows[0])) == list(values(rows[1]))


def test_what_it_cost() -> None:
    missing = cost(scoring=None, total=None, share=None, pays_after=None)
    found = {"full": FULL, "arms": {"other": missing, "weighted": cost(), "random": cost(never=True)}}
    rows = ledger.costs(found, TITLES)
    assert [row["title"] for row in rows] == ["all rows", "weighted subset", "random rows", "other"]
    assert values(rows[1]) == {
        "Pilot": "10.0 s",
        "Scoring": "8.0 s",
        "Selection": "2.0 s",
        "Retrain": "1 min 00 s",
        "Together": "1 min 20 s",
        "Of the full fit": "0.80 retrain 0.60",
        "Pays after": "1 retrain",
        "One more row": "20 µs",
    }
    assert values(rows[0])["One more row"] == "1.2 ms" and values(rows[2])["Pays after"] == "never"
    assert [values(rows[3])[name] for name in ("Scoring", "Together", "Pays after")] == ["not measured"] * 3
    assert {len(row["cells"]) for row in rows} == {8}
    audited = ledger.costs({"full": FULL, "arms": {"weighted": cost(reference=100.0)}}, TITLES)
    assert all("Reference" in values(row) for row in audited)
    assert ledger.costs({}, TITLES) == [] and ledger.started(found, TITLES) == ""
    begun = {"arms": {"weighted": cost(start="models/pilot/model.pt")}}
    assert "(weighted subset)" in ledger.started(begun, TITLES)


def test_both_are_on_the_page() -> None:
    found = details()
    assert "What each arm kept" not in render(Facts("shop", found))
    found["weigh"]["arms"]["weighted"] |= arm()
    found["evaluate"]["costs"] = {"full": FULL, "arms": {"weighted": cost()}}
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", render(Facts("shop", found))))
    assert "What each arm kept" in text and "15,000 of 155,400" in text
    assert "What it cost" in text and "0.80 retrain 0.60" in text and "left out on both sides" in text


def test_shares_near_either_end() -> None:
    said = [words.percent(share) for share in (0.0, 0.0001, 0.012, 0.58, 0.957, 0.9999, 1.0)]
    assert said == ["0 %", "< 0.1 %", "1.2 %", "58 %", "95.7 %", "> 99.9 %", "100 %"]
