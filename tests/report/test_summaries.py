"""The report's aggregates over scores and training set, against pandas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sie_spark.report import report
from sie_spark.report.summaries import edges, importance

pytestmark = pytest.mark.spark
SCORES = "sample_id bigint, label double, position int, score_grad_norm double, event_date string"
SCHEMA = {"scores": SCORES, "training_set": f"{SCORES}, arm string, pi double, split string"}


def test_importance_and_the_stage(make_context: Any) -> None:
    config = {"dataset": {"name": "planted", "kind": "tabular", "columns": {"label": "label"}}}
    config["importance"] = {"scorers": ["grad_norm"]}
    ctx = make_context(config)
    assert importance(ctx) == {}
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "sample_id": range(500),
            "label": (rng.random(500) < 0.2).astype(float),
            "position": rng.integers(1, 30, 500),
            "score_grad_norm": rng.lognormal(-2, 1.5, 500),
            "event_date": "2024-03-01",
        }
    )
    rows.loc[0, "score_grad_norm"] = 0.0
    rows.position = rows.position.astype("Int32").mask(rng.random(500) < 0.3)  # where a list is not known
    kept = rows[rows.score_grad_norm > 0.2].assign(arm="weighted", pi=1.0, split="train")
    for frame, table in ((rows, "scores"), (kept, "training_set")):
        given = ctx.spark.createDataFrame(
            frame.astype({"position": object}).where(frame.notna(), None), SCHEMA[table]
        )
        ctx.catalog.replace(given, table, fingerprint="a", job="test")
    found = importance(ctx)
    assert sum(row["rows"] for row in found["histogram"]) == 500
    for row in found["histogram"][2:]:
        inside = rows[(rows.score_grad_norm >= row["low"]) & (rows.score_grad_norm < row["high"])]
        assert row["rows"] == (inside.label == row["label"]).sum()
    assert [row["rows"] for row in found["pi"]] == [(kept.label == 0).sum(), (kept.label == 1).sum()]
    assert edges(0) == (1.0, 10 ** (1 / 8)) and found["pi"][0]["low"] == 1.0
    places = {row["position"]: row for row in found["positions"]}
    assert max(places) == 21
    assert places[21]["rows"] == (rows.position > 20).sum()
    assert sum(row["rows"] for row in places.values()) == rows.position.notna().sum() < 400
    known = rows[rows.position.notna()]
    share = known[known.position == 3].score_grad_norm.sum() / known.score_grad_norm.sum()
    assert places[3]["share"] == pytest.approx(share) and places[3]["kept"] == (kept.position == 3).sum()
    assert importance(ctx) == found

    result = report.run(ctx)
    assert result.report == ctx.root.path("report.html") and result.artifacts == [result.report]
    assert result.inputs["scores"].rows == 500
    page = Path(ctx.root.path("report.html")).read_text(encoding="utf-8")
    assert "Not evaluated yet" in page and "Training rows by importance score" in page
