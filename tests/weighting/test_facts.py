"""What an arm kept, counted by hand, and by pandas over what the stage wrote."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from helpers.encoded_samples import planted_rows, settings, write_samples
from sie_spark.platform.draws import uniform
from sie_spark.weighting import POLICIES, facts, weigh
from sie_spark.weighting.facts import arm_facts, fact_metrics, id_fields, miscounted, models_behind


def an_arm(policy: str, **more: Any) -> Any:
    columns = {"score_grad_norm"}
    return SimpleNamespace(name="a", policy=POLICIES[policy], constants={}, columns=columns, **more)


# four kept rows of ten: pi 1, 1, 1/2, 1/4 and weights 1, 1, 2, 4; the first alone is a click, of three
FOUND = {
    "a:kept": 4,
    "a:weight": 8.0,
    "a:squares": 22.0,
    "a:inverse": 8.0,
    "a:inverse_squares": 22.0,
    "a:least_pi": 0.25,
    "a:clicks": 1,
    "a:capped": 2,
    "a:floor": 1,
}
READ = {"rows": 10, "positive": 3}


def test_by_hand() -> None:
    arm = an_arm("horvitz_thompson")
    arm.constants["floor"] = 0.25
    found = arm_facts(arm, FOUND, READ)
    assert found == {
        "by_class": {"positive": {"kept": 1, "rows": 3}, "negative": {"kept": 3, "rows": 7}},
        "sampling_ess": pytest.approx(64 / 22),
        "largest_inverse": 4.0,
        "estimated_variance": 14.0,
        "variance_inflation": pytest.approx(4 * 22 / 64),
        "capped_share": 0.5,
        "floor_share": 0.25,
        "reads": ["score_grad_norm"],
        "models": ["pilot"],
    }
    found["ids"] = {"item": {"kept": 0.9}}
    assert fact_metrics(found) == {
        "sampling_ess": pytest.approx(64 / 22),
        "largest_inverse": 4.0,
        "variance_inflation": pytest.approx(1.375),
        "capped_share": 0.5,
        "floor_share": 0.25,
        "kept_positive": 1.0,
        "kept_negative": 3.0,
        "ids_kept_item": 0.9,
    }


def test_a_biased_policy_stands_for_nothing_by_its_pi_and_nothing_kept_divides_by_nothing() -> None:
    found = arm_facts(an_arm("exp_score"), FOUND, READ)
    assert found["sampling_ess"] is None and found["floor_share"] is None
    assert "sampling_ess" not in fact_metrics(found)
    nothing = arm_facts(an_arm("horvitz_thompson"), {}, {})
    assert nothing["largest_inverse"] == nothing["variance_inflation"] == nothing["capped_share"] == 0.0


def test_rows_that_are_counted_twice_are_named_and_chance_is_not() -> None:
    """A planted bug: the pilot's tenth is added to what was kept, with the weights it would have had."""
    pi = np.random.default_rng(0).uniform(0.02, 0.3, 50_000)
    for seed in range(20):
        kept = uniform(np.arange(50_000), seed=seed, purpose="keep") < pi
        for twice in (False, True):
            seen = uniform(np.arange(50_000), seed=seed, purpose="pilot") < 0.1
            inverse = np.concatenate([1 / pi[kept], 1 / pi[seen]] if twice else [1 / pi[kept]])
            arm = {
                "biased": False,
                "unit": "row",
                "kept": len(inverse),
                "rows": 50_000,
                "estimated_rows": inverse.sum(),
                "estimated_variance": (inverse**2).sum() - inverse.sum(),
                "largest_inverse": inverse.max(),
            }
            assert miscounted(arm) == twice
            assert not miscounted(arm | {"biased": True}) and not miscounted(arm | {"unit": "request"})


def test_models_behind_scores() -> None:
    assert models_behind([]) == []
    assert models_behind(["p", "score_logit_grad_norm"]) == ["pilot"]
    assert models_behind(["score_gradient_dot"]) == models_behind(["score_tracin"]) == ["reference"]


def test_small_fields_are_not_looked_at_and_large_ones_in_part() -> None:
    found = id_fields({"city": 20, "item": 50, "user": 1_000_000})
    assert [(field.name, field.place, field.share) for field in found] == [
        ("item", 1, 1.0),
        ("user", 2, 0.01),
    ]


def ids_of(frame: pd.DataFrame) -> pd.Series:
    """Rows by id of field ``item``, without id 0."""
    counted = frame["cat"].str[0].value_counts()
    return counted[counted.index > 0]


@pytest.mark.spark
def test_the_stage_counts_what_it_wrote(make_context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyspark.sql import functions as F

    weighting = {"policy": "horvitz_thompson", "score": "grad_norm", "budget": 0.1}
    weighting |= {"options": {"floor": 0.8, "uniform_mix": 0.0}}
    context = make_context(settings(weighting=weighting, importance={"scorers": ["grad_norm"]}))
    write_samples(context, planted_rows(900))
    score = F.exp(4 * F.col("dense")[0])  # few rows have nearly all of it: some pi are 1, many at the floor
    frame = context.catalog.read("samples").withColumns({"score_grad_norm": score, "p": F.lit(0.1)})
    context.catalog.replace(frame, "scores", fingerprint="t", job="test")
    result = weigh.run(context)
    all_rows = context.catalog.read("scores").toPandas()
    training = context.catalog.read("training_set").toPandas()
    clicks = int((all_rows["label"] > 0).sum())
    for name, arm in result.details["arms"].items():
        kept = training[training["arm"] == name]
        pi, weight = kept["pi"], kept["weight"].astype(float)
        mine = int((kept["label"] > 0).sum())
        assert arm["by_class"] == {
            "positive": {"kept": mine, "rows": clicks},
            "negative": {"kept": len(kept) - mine, "rows": 900 - clicks},
        }
        assert arm["sampling_ess"] == pytest.approx((1 / pi).sum() ** 2 / (1 / pi**2).sum())
        assert arm["largest_inverse"] == pytest.approx((1 / pi).max())
        inflation = len(kept) * (weight**2).sum() / weight.sum() ** 2
        assert arm["variance_inflation"] == pytest.approx(inflation) == len(kept) / arm["ess"]
        assert arm["capped_share"] == pytest.approx((pi == 1).mean())
        before, after = ids_of(all_rows), ids_of(kept)
        assert list(arm["ids"]) == ["item"]  # city has 20 ids
        assert arm["ids"]["item"] == {
            "ids": len(before),
            "counted": 1.0,
            "kept": pytest.approx(len(after) / len(before)),
            "kept_enough": pytest.approx((after >= 10).sum() / len(before)),
            "enough_before": pytest.approx((before >= 10).sum() / len(before)),
        }
    weighted = training[training["arm"] == "weighted"]
    found = result.details["arms"]["weighted"]
    floor = found["constants"]["floor"]
    assert found["floor_share"] == pytest.approx(np.isclose(weighted["pi"], floor).mean()) and floor > 0
    assert 0 < found["floor_share"] < 1 and 0 < found["capped_share"] < 1
    assert (found["models"], result.details["arms"]["random"]["reads"]) == (["pilot"], [])
    assert result.details["seconds"] > 0
    assert result.metrics["kept_positive"] + result.metrics["kept_negative"] == len(weighted)
    assert result.metrics["ids_kept_item_random"] > 0
    again = weigh.run(context)
    assert again.skipped and again.details == result.details

    def covered(kept: Any) -> dict[str, Any]:
        arms = ["weighted", "random"]
        return facts.id_coverage(context, context.catalog.read("scores"), kept, arms, seed=11)

    # of a field with more ids than are counted, those that a hash of the id draws
    kept_table = context.catalog.read("training_set")
    monkeypatch.setattr(facts, "MOST_IDS", 25)
    item = covered(kept_table)["weighted"]["item"]
    before, after = ids_of(all_rows), ids_of(weighted)
    drawn = [one for one in before.index if uniform(np.array([one]), seed=11, purpose="ids_item")[0] < 0.5]
    assert item["counted"] == 0.5 and item["ids"] == len(drawn) < len(before)
    assert item["kept"] == pytest.approx(np.mean([one in after.index for one in drawn]))
    # an arm that keeps no row with an id of its own
    found = covered(kept_table.where("arm = 'random'"))
    assert found["weighted"]["item"] == {**item, "kept": 0.0, "kept_enough": 0.0}
    assert found["random"]["item"]["kept"] > 0
    # scores of another encoder have other ids
    context.save_details("score", {"encoder": "another"})
    assert covered(kept_table) == {}
