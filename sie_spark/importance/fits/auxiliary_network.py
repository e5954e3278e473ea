"""A small network that has learnt a label-free score from the encoded features alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from sie_spark.importance.contracts import Fit, Given, State
from sie_spark.importance.fits.row_sample import SCORE, RowSample, batch_of
from sie_spark.models import Batch, build_model
from sie_spark.models.store import PILOT
from sie_spark.platform.config import Model
from sie_spark.platform.draws import uniform
from sie_spark.platform.inputs import InputSpec

NORM = "logit_grad_norm"
NETWORK = Model.model_validate({"name": "dnn", "embedding_dim": 4, "hidden": [32, 16]})
EPOCHS, BATCH, RATE = 20, 512, 1e-2
HELD_OUT, ENOUGH = 0.1, 0.9
LEAST = 1e-30  # of a score whose logarithm is taken
CENTRE, SPREAD, AGREEMENT = "_centre", "_spread", "_spearman"


@dataclass(frozen=True)
class AuxiliaryNetwork(Fit):
    """Parameters of a ``dnn`` that predicts the standardised logarithm of a score, and how well it does.

    ``_centre`` and ``_spread`` undo the standardisation; ``_spearman`` is the rank correlation with the exact scores
    of rows that were held out.

    Parameters
    ----------
    target:
        ``norm``: of the pilot's ``d logit / d theta``; ``p_norm``: that times p.
    sample_rows:
        training rows at most.
    """

    target: Literal["norm", "p_norm"]
    sample_rows: int

    name: ClassVar[str] = "auxiliary_network"
    rows: ClassVar[None] = None

    def after(self) -> tuple[Fit, ...]:
        """Rows with their exact scores."""
        return (self.sample(),)

    def sample(self) -> RowSample:
        """The same for both targets."""
        return RowSample("train", self.sample_rows, predicted=PILOT, scores=(NORM,), of_scores=(PILOT,))

    def finish(self, state: State, given: Given) -> State:
        """The fitted network."""
        sample = given.states[self.sample().key]
        exact = sample[SCORE + NORM] * (sample["p"] if self.target == "p_norm" else 1.0)
        log = np.log(np.maximum(exact, LEAST))
        centre, spread = float(log.mean()), float(log.std()) or 1.0
        wanted = torch.from_numpy((log - centre) / spread).float()
        held = torch.from_numpy(uniform(sample["sample_id"], seed=0, purpose="auxiliary") < HELD_OUT)
        rows = batch_of(sample)
        network = fitted(given.inputs, rows.take(~held), wanted[~held])
        with torch.inference_mode():
            found = network(**rows.take(held).inputs)
        agreement = float(stats.spearmanr(found.numpy(), wanted[held].numpy())[0]) if len(found) > 1 else 0.0
        parameters = {name: value.numpy() for name, value in network.state_dict().items()}
        return parameters | {
            CENTRE: np.array(centre),
            SPREAD: np.array(spread),
            AGREEMENT: np.array(np.nan_to_num(agreement)),
        }

    def cautions(self, state: State) -> list[str]:
        """That it ranks rows otherwise than the exact score does."""
        agreement = float(state[AGREEMENT])
        if agreement >= ENOUGH:
            return []
        return [
            f"The auxiliary network ranks held-out rows like the exact {self.target} score with a correlation of "
            f"{agreement:.2f} only; raise importance.auxiliary_rows, or use logit_grad_norm itself."
        ]


def fitted(inputs: InputSpec, rows: Batch, wanted: Tensor) -> nn.Module:
    """The network after ``EPOCHS`` passes of Adam with a rate that falls to nothing, in eval mode.

    Parameters
    ----------
    rows:
        N.
    wanted:
        float32 [N], of mean 0 and variance 1.
    """
    network = build_model(NETWORK, inputs, seed=0)
    steps = EPOCHS * max(1, len(rows) // BATCH)
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: max(0.0, 1 - step / steps))
    generator = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(rows), generator=generator).tensor_split(max(1, len(rows) // BATCH)):
            loss = functional.mse_loss(network(**rows.take(chosen).inputs), wanted[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            falling.step()
    return network.eval()


def restored(inputs: InputSpec, state: State) -> nn.Module:
    """The network of an artefact, in eval mode."""
    network = build_model(NETWORK, inputs, seed=0)
    network.load_state_dict(
        {name: torch.from_numpy(value) for name, value in state.items() if not name.startswith("_")}
    )
    return network.eval()
