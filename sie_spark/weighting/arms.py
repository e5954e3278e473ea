"""Which arms the training set holds and with which policy and constants, decided on the solving sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sie_spark.importance.registry import SCORERS
from sie_spark.platform.config import Config
from sie_spark.platform.config.base import Settings, validate
from sie_spark.platform.config.load import digest
from sie_spark.platform.errors import ConfigError
from sie_spark.platform.sampling_rate import SamplingRate, correction_of
from sie_spark.weighting.registry import POLICIES, WeightPolicy
from sie_spark.weighting.solve import rounded
from sie_spark.weighting.solving_sample import SolvingSample, columns_of
from sie_spark.weighting.terms import NUMPY, Decision, Row

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


@dataclass(frozen=True)
class Plan:
    """What an arm asks for: a policy, what it reads and its options, checked."""

    name: str
    policy: WeightPolicy
    score: str
    budget: float
    options: Settings
    as_many_as: str | None

    @property
    def columns(self) -> set[str]:
        """Columns of ``scores`` that the policy, or the one it falls back to, reads."""
        policies = [self.policy, *([POLICIES[self.policy.fallback]] if self.policy.fallback else [])]
        return {column for one in policies for column in columns_of(one.reads, self.score).values()}


@dataclass(frozen=True)
class Arm:
    """One arm of the training set, ready to run.

    Parameters
    ----------
    typical:
        part of a row -> its mean, taken for rows that the pilot was fitted on. There the pilot's p leans towards
        the row's own label, pi with it, and an offset that depends on the label makes the fit predict too many
        positives (Fithian & Hastie 2014 ask for a pilot of other rows). Empty where the policy corrects by a
        weight, which is unbiased whatever pi depends on, or where the pilot saw all rows.
    """

    name: str
    policy: WeightPolicy
    score: str
    constants: dict[str, float]
    rate: SamplingRate
    expected_fraction: float
    pi_quantiles: dict[str, float]
    typical: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def columns(self) -> dict[str, str]:
        """Part of a row -> column of ``scores``."""
        return columns_of(self.policy.reads, self.score)

    @property
    def policy_version(self) -> str:
        """Policy, version of its formula, hash of its constants."""
        return f"{self.policy.name}-{self.policy.version}-{digest([self.constants, self.typical])}"

    def decide(self, row: Row, rate: Any, ops: Any, *, seen: Any = False) -> Decision:
        """The policy's decision, with the log's own sampling rate taken into offset or weight.

        Parameters
        ----------
        seen:
            whether the pilot was fitted on the row.
        """
        decision = self.policy.decide(_blinded(row, seen, self.typical, ops), self.constants, ops)
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
            "typical": self.typical,
            "pi_quantiles": self.pi_quantiles,
            "rate_offset": self.rate.offset,
            "weight_by_rate": self.rate.weight_by_rate,
            "note": self.note,
        }


def _blinded(row: Row, seen: Any, typical: Mapping[str, float], ops: Any) -> Row:
    """The row, typical where the pilot has seen it."""
    parts = {
        part: ops.where(seen, ops.constant(getattr(row, part), mean), getattr(row, part))
        for part, mean in typical.items()
    }
    return replace(row, **parts)


def planned(config: Config) -> list[Plan]:
    """The arms that keep rows, those that follow another one last.

    Raises
    ------
    ConfigError
        for a policy, score or option that does not exist, or a score that the score stage does not compute or
        that the policy cannot use.
    """
    plans = []
    for name, arm in config.arms.items():
        if arm.rows == "all":
            continue
        policy = POLICIES[arm.policy or config.weighting.policy]
        own = arm.options if arm.options is not None else {}
        shared = config.weighting.options if policy.name == config.weighting.policy else {}
        options = validate(policy.options, {**shared, **own}, where=f"options of policy {policy.name}")
        score = arm.score or config.weighting.score
        budget = arm.budget or config.weighting.budget
        plan = Plan(name, policy, score, budget, options, arm.as_many_as)
        _check_score(plan, config)
        plans.append(plan)
    return sorted(plans, key=lambda plan: plan.as_many_as is not None)


def _check_score(plan: Plan, config: Config) -> None:
    SCORERS[plan.score]  # an unknown name is refused
    computed = {"p", *(f"score_{name}" for name in config.importance.scorers)}
    for column in sorted(plan.columns - computed):
        name = column.removeprefix("score_")
        raise ConfigError(
            f"policy '{plan.policy.name}' of arm '{plan.name}' reads score '{name}', which importance.scorers does not"
            " compute",
            remedy=f"add '{name}' to importance.scorers, which has {', '.join(config.importance.scorers)}",
        )


def check_choices(config: Config) -> None:
    """Raise :class:`ConfigError` for scorers, and policies with their scores and options, that do not fit."""
    for name in config.importance.scorers:
        SCORERS[name]  # an unknown name is refused
    planned(config)


def solve_arms(plans: list[Plan], sample: SolvingSample) -> list[Arm]:
    """Every arm with its constants; an arm ``as_many_as`` another takes the share that that one expects.

    Raises
    ------
    ConfigError
        where a score is negative and the policy needs one that is not.
    """
    arms: dict[str, Arm] = {}
    for plan in plans:
        budget = min(1.0, arms[plan.as_many_as].expected_fraction) if plan.as_many_as else plan.budget
        arms[plan.name] = _arm(replace(plan, budget=budget), sample)
    return list(arms.values())


def _arm(plan: Plan, sample: SolvingSample) -> Arm:
    policy, options = plan.policy, plan.options
    row = sample.row(plan.score)
    note = policy.unfit(row, plan.budget)
    if note and policy.fallback:
        policy = POLICIES[policy.fallback]
        shared = {
            name: value for name, value in options.model_dump().items() if name in policy.options.model_fields
        }
        options = validate(policy.options, shared, where=f"options of policy {policy.name}")
    if "score" in policy.reads and not policy.signed and row.score.min() < 0:
        raise ConfigError(
            f"weighting.score: '{plan.score}' takes negative values, which policy '{policy.name}' cannot use",
            remedy="choose a score that is at least 0: grad_norm, error, loss or entropy",
        )
    blind = policy.corrects_by == "offset" and 0 < float(np.mean(sample.seen)) < 1
    typical = {part: rounded(float(np.mean(getattr(row, part)))) for part in policy.reads} if blind else {}
    row = _blinded(row, sample.seen, typical, NUMPY)
    constants = policy.solve(row, plan.budget, options)
    decision = policy.decide(row, constants, NUMPY)
    at = np.quantile(decision.pi, QUANTILES)
    return Arm(
        name=plan.name,
        policy=policy,
        score=plan.score,
        constants=constants,
        rate=_rate(sample, by_weight=policy.corrects_by == "weight"),
        expected_fraction=float(np.mean(decision.pi)),
        pi_quantiles={f"{q:g}": float(value) for q, value in zip(QUANTILES, at, strict=True)},
        typical=typical,
        note=note,
    )


def _rate(sample: SolvingSample, *, by_weight: bool) -> SamplingRate:
    """The log's own rate: inverse weights under Horvitz-Thompson, an offset where it is one number a class."""
    if bool(np.all(sample.rate == 1.0)):
        return SamplingRate()
    positive = sample.label > 0
    if by_weight or not positive.any() or positive.all():
        return SamplingRate(weight_by_rate=True)
    one, zero = sample.rate[positive], sample.rate[~positive]
    return correction_of(zero.min(), zero.max(), one.min(), one.max())
