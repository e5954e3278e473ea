"""Which arms the training set holds and with which policy and constants, decided on the solving sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sie_spark.platform.config import Weighting
from sie_spark.platform.config.load import digest
from sie_spark.platform.sampling_rate import SamplingRate, correction_of
from sie_spark.weighting.registry import POLICIES, WeightPolicy
from sie_spark.weighting.solving_sample import SolvingSample
from sie_spark.weighting.terms import NUMPY, Decision, Row

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


@dataclass(frozen=True)
class Arm:
    """One arm of the training set, ready to run."""

    name: str
    policy: WeightPolicy
    constants: dict[str, float]
    rate: SamplingRate
    expected_fraction: float
    pi_quantiles: dict[str, float]
    note: str = ""

    @property
    def policy_version(self) -> str:
        """Policy, version of its formula, hash of its constants."""
        return f"{self.policy.name}-{self.policy.version}-{digest(self.constants)}"

    def decide(self, row: Row, rate: Any, ops: Any) -> Decision:
        """The policy's decision, with the log's own sampling rate taken into offset or weight."""
        decision = self.policy.decide(row, self.constants, ops)
        if self.rate.weight_by_rate:
            return replace(decision, weight=decision.weight / rate)
        if self.rate.offset:
            return replace(decision, offset=decision.offset + self.rate.offset)
        return decision

    def describe(self) -> dict[str, Any]:
        """Plain data for the report."""
        return {
            "policy": self.policy.name,
            "policy_version": self.policy_version,
            "biased": self.policy.biased,
            "corrects_by": self.policy.corrects_by,
            "constants": self.constants,
            "pi_quantiles": self.pi_quantiles,
            "rate_offset": self.rate.offset,
            "weight_by_rate": self.rate.weight_by_rate,
            "note": self.note,
        }


def plan_arms(settings: Weighting, sample: SolvingSample, *, random: bool) -> list[Arm]:
    """Arm ``weighted`` and, where wanted, ``random`` with the same expected number of rows."""
    chosen, note = choose_policy(settings, sample)
    arms = [_arm("weighted", chosen, settings, sample, note)]
    if random:
        share = min(1.0, arms[0].expected_fraction)
        same = settings.model_copy(update={"budget": share})
        arms.append(_arm("random", POLICIES["random"], same, sample, ""))
    return arms


def choose_policy(settings: Weighting, sample: SolvingSample) -> tuple[WeightPolicy, str]:
    """The policy asked for, or capped local case-control where the positives alone exceed the budget."""
    chosen = POLICIES[settings.policy]
    positives = float(np.mean(sample.row.label > 0))
    if chosen.name == "rare_event" and positives >= settings.budget < 1:
        note = (
            f"positives are {positives:.1%} of the rows, more than the budget of {settings.budget:.1%}: keeping all "
            "of them is impossible, capped local case-control is used instead of rare_event"
        )
        return POLICIES["local_case_control"], note
    return chosen, ""


def _arm(name: str, chosen: WeightPolicy, settings: Weighting, sample: SolvingSample, note: str) -> Arm:
    constants = chosen.solve(sample.row, settings)
    decision = chosen.decide(sample.row, constants, NUMPY)
    at = np.quantile(decision.pi, QUANTILES)
    return Arm(
        name=name,
        policy=chosen,
        constants=constants,
        rate=_rate(sample, by_weight=chosen.corrects_by == "weight"),
        expected_fraction=float(np.mean(decision.pi)),
        pi_quantiles={f"{q:g}": float(value) for q, value in zip(QUANTILES, at, strict=True)},
        note=note,
    )


def _rate(sample: SolvingSample, *, by_weight: bool) -> SamplingRate:
    """The log's own rate: inverse weights under Horvitz-Thompson, an offset where it is one number a class."""
    if bool(np.all(sample.rate == 1.0)):
        return SamplingRate()
    positive = sample.row.label > 0
    if by_weight or not positive.any() or positive.all():
        return SamplingRate(weight_by_rate=True)
    one, zero = sample.rate[positive], sample.rate[~positive]
    return correction_of(zero.min(), zero.max(), one.min(), one.max())
