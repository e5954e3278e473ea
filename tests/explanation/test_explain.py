"""The job on planted rows, against pandas and one backward pass a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from helpers.encoded_samples import SPEC, planted_rows, settings, write_samples
from sie_spark.explanation import explain
from sie_spark.explanation.direction import direction, kept_basis
from sie_spark.explanation.one_row import reference_of
from sie_spark.explanation.rows import Standing, chosen_score, find, low_is_worst, standings
from sie_spark.importance.contracts import state_from_bytes
from sie_spark.importance.fits.ekfac_direction import USUAL
from sie_spark.models import Batch
from sie_spark.models.store import load_model
from sie_spark.platform.errors import ConfigError, DataError, SieError, StageOrderError

HELD = ["loss", "influence_ekfac"]


def test_the_worst_rows_go_by_a_score_that_is_there() -> None:
    assert chosen_score(None, ["rarity", "error", "loss"]) == "loss"
    assert chosen_score(None, ["rarity", "error"]) == "error" and chosen_score(None, ["rarity"]) == "rarity"
    assert chosen_score("score_rarity", ["rarity"]) == "rarity"
    with pytest.raises(ConfigError, match="rarty") as caught:
        chosen_score("rarty", ["loss", "rarity"])
    assert "did you mean 'rarity'?" in caught.value.remedy
    with pytest.raises(ConfigError) as caught:
        chosen_score("grad_norm", ["loss"])
    assert "importance.scorers=[loss, grad_norm]" in caught.value.remedy
    # a low score means harm where the sign says whether a row helps
    assert low_is_worst("tracin") and not low_is_worst("loss") and not low_is_worst("of another version")


@pytest.mark.parametrize("text", ["abc", "1.5", str(2**63), ""])
def test_what_is_wrong_with_the_arguments_is_said_before_spark_starts(text: str) -> None:
    nothing: Any = None
    with pytest.raises(ConfigError, match="sample_id") as caught:
        explain.run(nothing, sample_id=text)
    assert "--worst" in caught.value.remedy
    with pytest.raises(ConfigError, match="--by"):
        explain.run(nothing, query_row="7", by="loss")


def by_hand(ctx: Any, samples: pd.DataFrame, sample_id: int) -> pd.Series:
    """sample_id of every other training row -> its influence on the one, through the kept basis."""
    given = reference_of(ctx, "planted")
    model, _ = load_model(given.models["reference"].uri)
    table = ctx.catalog.read("samples").toArrow()
    rows = {int(row.sample_id[0]): row for row in Batch.from_arrow(table, SPEC).split(1)}
    basis = kept_basis(ctx, given)
    assert basis is not None
    along = direction(model, rows[sample_id], basis, USUAL)
    names, values = zip(*model.named_parameters(), strict=True)
    found = {}
    for one in samples.loc[(samples.split == "train") & (samples.sample_id != sample_id), "sample_id"]:
        loss = functional.binary_cross_entropy_with_logits(model(**rows[one].inputs), rows[one].label)
        grads = torch.autograd.grad(loss, values)
        found[one] = sum(float((g * along[n]).sum()) for n, g in zip(names, grads, strict=True))
    return pd.Series(found).sort_values(ascending=False)


@pytest.mark.spark
def test_explain(make_context: Any) -> None:
    from sie_spark.importance import score
    from sie_spark.training import train

    ctx = make_context(settings(importance={"scorers": HELD}, explain={"neighbours": 4}))
    write_samples(ctx, planted_rows(700, base=-1.0), validation_rows=60, test_rows=40, files=1)
    train.run(ctx)
    with pytest.raises(StageOrderError, match="scores"):
        explain.run(ctx, worst=2)
    score.run(ctx)
    samples = ctx.catalog.read("samples").toPandas()
    scores = ctx.catalog.read("scores").toPandas().set_index("sample_id")

    # the mean over validation rows of what is done to one row's gradient is what the scorer used
    given = reference_of(ctx, "planted")
    model, _ = load_model(given.models["reference"].uri)
    basis = kept_basis(ctx, given)
    held = ctx.catalog.read("samples").where("split = 'validation'").toArrow()
    each = [direction(model, row, basis, 0.1) for row in Batch.from_arrow(held, SPEC).split(1)]
    (place,) = Path(ctx.root.path("artefacts")).glob("ekfac_direction-reference-0.1/*/state.npz")
    for name, value in state_from_bytes(place.read_bytes()).items():
        if not name.startswith("_"):
            mean = torch.stack([one[name] for one in each]).mean(dim=0)
            np.testing.assert_allclose(mean, value, rtol=1e-3, atol=1e-3 * np.abs(value).max())

    worst = scores.sort_values("score_loss", ascending=False).index[0]
    expected = by_hand(ctx, samples, worst)
    for arguments in ({"worst": 3}, {"query_row": str(worst)}):
        found = explain.run(ctx, **arguments)
        details = found.details
        assert details["sample_id"] == str(worst) and "EK-FAC" in details["how"]
        for side, right in (("helpful", expected.iloc[:4]), ("harmful", expected.iloc[:-5:-1])):
            assert [int(one) for one in details[side]] == list(right.index)
            np.testing.assert_allclose(list(details[side].values()), right, rtol=1e-3)
        page = Path(found.report).read_text()
        assert str(worst) in page and "<script" not in page and "http" not in page
        assert set(found.inputs) == {"samples", "scores"}
    assert not [name for name in ctx.root.entries("explanations") if not name.endswith(".html")]

    chosen = scores.index[17]
    label = scores.label[chosen]
    table = ctx.catalog.read("scores")
    for one in standings(table, find(table, int(chosen))):
        column = scores[f"score_{one.name}"]
        same = column[scores.label == label]
        assert one == Standing(
            one.name,
            column[chosen],
            int((column > column[chosen]).sum()),
            len(column),
            int((same > column[chosen]).sum()),
            len(same),
        )

    tested = int(samples.loc[samples.split == "test", "sample_id"].iloc[0])
    found = explain.run(ctx, query_row=str(tested))
    assert found.details["split"] == "test" and len(found.details["helpful"]) == 4
    with pytest.raises(DataError, match="test row") as caught:
        explain.run(ctx, sample_id=str(tested))
    assert f"--query-row={tested}" in caught.value.remedy
    for arguments in ({"sample_id": "12345"}, {"query_row": "12345"}):
        with pytest.raises(DataError, match="sample_id 12345") as caught:
            explain.run(ctx, **arguments)
        assert "sie explain --worst" in caught.value.remedy
    details = ctx.load_details("score")
    ctx.save_details("score", {**details, "encoder": "older"})
    with pytest.raises(StageOrderError, match="encoder older"):
        explain.run(ctx, worst=1)
    ctx.save_details("score", details)
    ctx.root.remove("models", "reference", "current.json")
    with pytest.raises(SieError, match="no model 'reference'") as caught:
        explain.run(ctx, query_row=str(tested))
    assert "reference.fit=true" in caught.value.remedy
