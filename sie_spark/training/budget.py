"""How a subset of the rows is fitted: with as many updates as all rows got, as far as that is worth its time.

Too few updates lose the AUC of a subset, not its rows (SCIENCE.md, measured). Smaller batches come before more
passes, because click models over-fit from the second or third pass on; validation rows stop a fit that does.
"""

from __future__ import annotations

import math

from sie_spark.platform.config import Training

SMALLEST_BATCH = 64
LARGEST_FACTOR = 4  # passes of a subset, in passes of the full fit
OVERHEAD = 200  # rows that take as long to fit as an update's own cost; measured by benchmarks/fits.py


def cost(updates: float, batch: int) -> float:
    """Time of a fit, in rows: every update has a cost of its own beside that of its rows."""
    return updates * (OVERHEAD + batch)


def budgeted(settings: Training, rows: int, full_rows: int) -> Training:
    """The settings for ``rows`` of ``full_rows`` that the settings were chosen for.

    The batch is halved, down to 64 rows, until the settings' passes make as many updates as they do over all rows;
    then passes are added, up to four times as many. Neither goes so far that the fit costs more than
    ``training.cost_cap`` of the full one. The learning rates follow the square root of the batch (Malladi et
    al. 2022, for Adam).
    """
    wanted = full_rows * settings.epochs / settings.batch_size
    cap = settings.cost_cap * cost(wanted, settings.batch_size)
    batch, epochs = settings.batch_size, settings.epochs

    def updates(batch: int, epochs: int) -> float:
        return rows * epochs / batch

    while batch // 2 >= SMALLEST_BATCH and updates(batch, epochs) < wanted:
        if cost(updates(batch // 2, epochs), batch // 2) > cap:
            break
        batch //= 2
    most = min(LARGEST_FACTOR * settings.epochs, math.ceil(wanted * batch / rows))
    while epochs < most and cost(updates(batch, epochs + 1), batch) <= cap:
        epochs += 1
    scale = math.sqrt(batch / settings.batch_size)
    table_rate = settings.embedding_learning_rate
    return settings.model_copy(
        update={
            "batch_size": batch,
            "epochs": epochs,
            "learning_rate": settings.learning_rate * scale,
            "embedding_learning_rate": table_rate and table_rate * scale,
        }
    )
