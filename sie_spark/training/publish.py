"""A fitted model into MLflow: loss curve; exported program, signature, example; no pickle."""

from __future__ import annotations

import contextlib
import io
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from sie_spark.features.samples import split_rows
from sie_spark.models import Batch
from sie_spark.models.serving import ServedModel, flat_columns, flat_rows
from sie_spark.models.store import load_model, require_model
from sie_spark.platform.context import Context
from sie_spark.platform.inputs import InputSpec


def log_losses(arm: str, losses: list[float]) -> None:
    """The mean training loss of every epoch, into the active run; nothing where there is none."""
    import mlflow
    from mlflow.entities import Metric

    active = mlflow.active_run()
    if active is None:
        return
    now = int(time.time() * 1000)
    curve = [Metric(f"train_loss_{arm}", loss, now, epoch) for epoch, loss in enumerate(losses)]
    mlflow.MlflowClient().log_batch(active.info.run_id, metrics=curve)


def publish_arm(ctx: Context, arm: str) -> str | None:
    """Log an arm's current model to the active run; None where there is no run."""
    import mlflow

    if mlflow.active_run() is None:
        return None
    model, spec = load_model(require_model(ctx.root, arm).path)
    rows = split_rows(ctx, ctx.catalog.version("samples"), "train").limit(4).toArrow()
    example = Batch.from_arrow(rows, spec).inputs
    return publish(model, spec, example, name=f"model_{arm}", register=ctx.config.mlflow.register_model)


def publish(
    model: nn.Module,
    spec: InputSpec,
    example: dict[str, torch.Tensor],
    *,
    name: str,
    register: str | None = None,
) -> str:
    """Log a model to the active MLflow run and return its URI.

    Parameters
    ----------
    example:
        inputs of at least two rows: a batch of one would be exported with a fixed size.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    served = ServedModel(model.eval(), spec).eval()
    rows = flat_rows(example)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float64"), (-1, rows.shape[1]))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1,))]),
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        logged: Any = mlflow.pytorch.log_model(
            served,
            name=name,
            signature=signature,
            input_example=rows.numpy(),
            registered_model_name=register,
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}", f"mlflow=={mlflow.__version__}"],
            metadata={"columns": flat_columns(spec)},
            serialization_format="pt2",
        )
    return str(logged.model_uri)
