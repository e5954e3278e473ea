"""A subset gets as many updates as all rows did, within its share of the cost."""

from __future__ import annotations

import math

import pytest

from sie_spark.platform.config import Training
from sie_spark.platform.errors import ConfigError
from sie_spark.training.budget import budgeted, cost

FULL = Training(epochs=2, batch_size=512, learning_rate=0.002, cost_cap=0.5)


def updates(settings: Training, rows: int) -> float:
    return rows * settings.epochs / settings.batch_size


def test_smaller_batches_come_first_then_passes() -> None:
    found = budgeted(FULL, 50_000, 200_000)
    assert (found.batch_size, found.epochs) == (128, 2)
    found = budgeted(FULL, 20_000, 200_000)
    assert (found.batch_size, found.epochs) == (64, 3)  # 64 is the smallest
    wanted = updates(FULL, 200_000)
    assert wanted <= updates(found, 20_000) < 1.5 * wanted
    assert found.learning_rate == pytest.approx(0.002 * math.sqrt(64 / 512))


def test_the_cap_holds_and_all_rows_are_left_as_they_are() -> None:
    assert budgeted(FULL, 200_000, 200_000) == FULL
    for cap in (0.1, 0.3, 1.0):
        settings = FULL.model_copy(update={"cost_cap": cap})
        for rows in (2_000, 20_000, 60_000):
            found = budgeted(settings, rows, 200_000)
            least = cost(updates(FULL, rows), FULL.batch_size)  # the same passes of the same batches
            most = max(cap * cost(updates(FULL, 200_000), FULL.batch_size), least)
            assert cost(updates(found, rows), found.batch_size) <= most * 1.001
    assert budgeted(FULL, 100, 200_000).epochs <= 4 * FULL.epochs


def test_the_old_setting_is_refused_with_the_new_one() -> None:
    with pytest.raises(ConfigError, match="min_steps") as caught:
        Training(min_steps=3)  # type: ignore[call-arg]
    assert "cost_cap" in caught.value.remedy
