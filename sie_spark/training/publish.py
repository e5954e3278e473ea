"""A fitted model into MLflow: exported program, signature, example; safe to load, no pickle."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import torch
from torch import nn

from sie_spark.models.serving import ServedModel, flat_columns, flat_rows
from sie_spark.platform.inputs import InputSpec


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
    import numpy as np

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
