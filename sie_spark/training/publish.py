"""A fitted model into MLflow: loss curve; exported program, signature, example; no pickle."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sie_spark.features.encoder import path_of
from sie_spark.features.samples import split_rows
from sie_spark.models import Batch
from sie_spark.models.serving import ServedModel, flat_columns, flat_rows
from sie_spark.models.store import load_model, require_model
from sie_spark.platform.context import Context
from sie_spark.platform.errors import ConfigError
from sie_spark.platform.inputs import InputSpec

FROM_MLFLOW = "mlflow:"


def log_losses(arm: str, losses: list[float], validation: list[float]) -> None:
    """Mean training and validation loss of every epoch, into the active run; nothing where there is none."""
    import mlflow
    from mlflow.entities import Metric

    active = mlflow.active_run()
    if active is None:
        return
    now = int(time.time() * 1000)
    curve = [
        Metric(f"{name}_loss_{arm}", loss, now, epoch)
        for name, curve in (("train", losses), ("validation", validation))
        for epoch, loss in enumerate(curve)
    ]
    mlflow.MlflowClient().log_batch(active.info.run_id, metrics=curve)


def publish_arm(ctx: Context, arm: str) -> str | None:
    """Log an arm's current model to the active run; None where there is no run.

    Its weights and its encoder go with it, so that another root's fits can start from them.
    """
    import mlflow

    if mlflow.active_run() is None:
        return None
    saved = require_model(ctx.root, arm)
    model, spec = load_model(saved.path)
    rows = split_rows(ctx, ctx.catalog.version("samples"), "train").limit(4).toArrow()
    example = Batch.from_arrow(rows, spec).inputs
    beside = [saved.path, *([path_of(ctx.root, saved.encoder)] if saved.encoder else [])]
    return publish(
        model,
        spec,
        example,
        name=f"model_{arm}",
        register=ctx.config.mlflow.register_model,
        beside=beside if ctx.root.is_local else [],
    )


def published_model(ctx: Context, uri: str) -> str:
    """Bring a model that a run published under the root; returns the path of its ``model.pt``.

    Raises
    ------
    ConfigError
        where MLflow has no such model, or it was published without its weights.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as folder:
        try:
            found = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))
        except (MlflowException, OSError) as error:
            raise ConfigError(
                f"arms: start mlflow:{uri}: {str(error).splitlines()[0][:200]}",
                remedy="give the URI of a model that a run of this tracking store logged, models:/NAME/VERSION",
            ) from None
        weights = next(found.rglob("model.pt"), None)
        if weights is None:
            raise ConfigError(
                f"arms: start mlflow:{uri} was logged without model.pt",
                remedy="publish it with this version, from a local root",
            )
        data = weights.read_bytes()
        place = ("starts", hashlib.sha256(data).hexdigest()[:16])
        for file in weights.parent.glob("*.json"):
            ctx.root.write_bytes(file.read_bytes(), *place, file.name)
        return ctx.root.write_bytes(data, *place, "model.pt")


def publish(
    model: nn.Module,
    spec: InputSpec,
    example: dict[str, torch.Tensor],
    *,
    name: str,
    register: str | None = None,
    beside: Sequence[str] = (),
) -> str:
    """Log a model to the active MLflow run and return its URI.

    Parameters
    ----------
    example:
        inputs of at least two rows: a batch of one would be exported with a fixed size.
    beside:
        files that are logged with it.
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
            extra_files=list(beside) or None,
            serialization_format="pt2",
        )
    return str(logged.model_uri)
