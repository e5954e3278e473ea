"""Which arms the training set holds and with which policy and constants, decided on the solving sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sie_spark.importance.needs import check_needs
from sie_spark.importance.registry import SCORERS
from sie_spark.platform.config import Config
from sie_spark.platform.config.base import Settings, validate
from sie_spark.platform.config.load import digest
from sie_spark.platform.errors import ConfigError
from sie_spark.platform.sampling_rate import SamplingRate, correction_of
from sie_spark.weighting.registry import POLICIES, WeightPolicy
from sie_spark.weighting.solve import rounded
from sie_spark.weighting.solving_sample import RARITY, SolvingSample
from sie_spark.weighting.terms import NUMPY, Decision, Row

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


@dataclass(frozen=True)
class Plan:
    """What an arm asks for: a policy, what it reads and its options, checked."""

    name: str
    policy: WeightPolicy
    score: str | None
    budget: float | str
    options: Settings
    as_many_as: str | None = None
    id_floor: float = 0.0
    unit: str = "row"

    @property
    def columns(self) -> set[str]:
        """Columns of ``scores`` that the policy, or the one it falls back to, reads."""
        policies = [self.policy, *([POLICIES[self.policy.fallback]] if self.policy.fallback else [])]
        scores = [self.score, RARITY if self.id_floor else None]
        return {part for one in policies for part in one.reads} | {f"score_{name}" for name in scores if name}


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
    score: str | None
    constants: dict[str, float]
    rate: SamplingRate
    expected_fraction: float
    pi_quantiles: dict[str, float]
    typical: dict[str, float] = field(default_factory=dict)
    note: str = ""
    id_floor: float = 0.0
    unit: str = "row"

    def row(self, label: Any, column: Callable[[str], Any], ops: Any) -> Row:
        """The row as the policy sees it, from its label and the columns of ``scores``."""
        return Row(
            label,
            p=column("p") if "p" in self.policy.reads else None,
            score=column(f"score_{self.score}") if self.score else None,
            least=ops.minimum(column(f"score_{RARITY}") * self.id_floor, 1.0) if self.id_floor else None,
        )

    @property
    def columns(self) -> set[str]:
        """Columns of ``scores`` behind pi; of a request's score, the one that it sums."""
        scores = [self.score and self.score.removeprefix("request_"), RARITY if self.id_floor else None]
        return {*self.policy.reads, *(f"score_{name}" for name in scores if name)}

    @property
    def keeps_all(self) -> bool:
        """Whether it takes every row as it is: then nothing is copied, and it is fitted on ``samples``."""
        return self.expected_fraction >= 1 and not self.policy.biased and self.rate == SamplingRate()

    @property
    def policy_version(self) -> str:
        """Policy, version of its formula, hash of its constants."""
        constants = [self.constants, self.typical, self.score, self.id_floor, self.unit]
        return f"{self.policy.name}-{self.policy.version}-{digest(constants)}"

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
            "keeps_all": self.keeps_all,
            "score": self.score,
            "unit": self.unit,
            "id_floor": self.id_floor,
            "assumption": self.policy.assumption,
            "price": self.policy.price,
            "misuse": misuse(self.policy, self.score),
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
        plan = Plan(
            name,
            policy,
            (arm.score or config.weighting.score) if policy.takes != "none" else None,
            arm.budget or config.weighting.budget,
            options,
            arm.as_many_as,
            0.0 if policy.biased or policy.corrects_by == "none" else config.weighting.id_floor,
            config.weighting.unit,
        )
        _check(plan, config)
        plans.append(plan)
    return sorted(plans, key=lambda plan: plan.as_many_as is not None)


def _check(plan: Plan, config: Config) -> None:
    """Refuse a score, or a unit, that the policy's correction does not allow."""
    arm, name = config.arms[plan.name], plan.policy.name
    where = f"arms.{plan.name}.score" if arm.score else "weighting.score"
    scorer = SCORERS[plan.score] if plan.score else None  # an unknown name is refused
    if scorer and plan.policy.takes == "label-free" and scorer.uses_label:
        free = ", ".join(sorted(one for one in SCORERS if not SCORERS[one].uses_label))
        raise ConfigError(
            f"{where}: '{plan.score}' looks at the label, and an offset made of it, as by policy '{name}', would be wrong",
            remedy=f"choose one that does not ({free}), or null, or weighting.policy=horvitz_thompson",
        )
    if scorer and scorer.signed and not plan.policy.signed:
        able = ", ".join(sorted(one for one in SCORERS if not SCORERS[one].signed))
        raise ConfigError(
            f"{where}: '{plan.score}' may be negative, and policy '{name}' makes probabilities of it",
            remedy=f"choose one that is not ({able}), or null",
        )
    if plan.unit == "request" and not plan.policy.by_request:
        able = ", ".join(sorted(one for one in POLICIES if POLICIES[one].by_request))
        raise ConfigError(
            f"weighting.unit: policy '{name}' of arm '{plan.name}' corrects row by row, and whole requests are kept or"
            " dropped",
            remedy=f"use one of {able} for it, or weighting.unit=row",
        )


BY_REQUEST = "request_"  # before the name of a score that was summed over requests


def misuse(policy: WeightPolicy, score: str | None) -> str:
    """Why the score is the wrong one for what the policy does with it; an empty text where it will do."""
    scorer = SCORERS[score.removeprefix(BY_REQUEST)] if score else None
    if scorer is None or policy.use in scorer.uses:
        return ""
    words = {"subsample": "draws rows by it", "weight": "makes weights of it"}
    able = sorted(one for one in SCORERS if policy.use in SCORERS[one].uses)
    label = (
        " It depends on the label: rows that are wrong or hard by chance come first."
        if scorer.uses_label
        else ""
    )
    return (
        f"score '{score}' is meant for: {', '.join(scorer.uses)}; policy '{policy.name}' {words[policy.use]}.{label}"
        f" Made for that: {', '.join(able)}"
    )


def check_choices(config: Config) -> None:
    """Raise :class:`ConfigError` for scorers that lack something, and for policies whose scores or options do not fit."""
    check_needs(config)
    asked = next((plan for plan in planned(config) if isinstance(plan.budget, str)), None)
    if asked and not config.fits_reference:
        raise ConfigError(
            f"weighting.budget: '{asked.budget}' of arm '{asked.name}' is reckoned from the reference model, which is"
            " not fitted",
            remedy="set reference.fit=true, or leave the arm 'full' in; or give a share or a number of rows",
        )


def solve_arms(plans: list[Plan], sample: SolvingSample) -> list[Arm]:
    """Every arm with its constants; an arm ``as_many_as`` another takes the share that that one expects.

    Parameters
    ----------
    plans:
        whose budgets are shares.

    Raises
    ------
    ConfigError
        where a score is negative and the policy needs one that is not, or the floor for ids asks for more rows than
        the budget has.
    """
    arms: dict[str, Arm] = {}
    for plan in plans:
        share = arms[plan.as_many_as].expected_fraction if plan.as_many_as else float(plan.budget)
        arms[plan.name] = solve_arm(plan, min(1.0, share), sample)
    return list(arms.values())


def solve_arm(plan: Plan, share: float, sample: SolvingSample) -> Arm:
    """One arm that keeps a share of the rows; raises as :func:`solve_arms` does."""
    policy, options = plan.policy, plan.options
    row = sample.row(plan.score, plan.id_floor)
    note = policy.unfit(row, share)
    if note and policy.fallback:
        policy = POLICIES[policy.fallback]
        shared = {
            name: value for name, value in options.model_dump().items() if name in policy.options.model_fields
        }
        options = validate(policy.options, shared, where=f"options of policy {policy.name}")
    score = plan.score if policy.takes != "none" else None
    row = sample.row(score, plan.id_floor)
    if row.score is not None and not policy.signed and row.score.min() < 0:
        raise ConfigError(
            f"weighting.score: '{score}' takes negative values, which policy '{policy.name}' cannot use",
            remedy="choose a score that is at least 0 (grad_norm, error, loss, entropy), or null",
        )
    blind = policy.corrects_by == "offset" and 0 < float(np.mean(sample.seen)) < 1
    parts = [*policy.reads, *(["score"] if score else [])]
    typical = {part: rounded(float(np.mean(getattr(row, part)))) for part in parts} if blind else {}
    row = _blinded(row, sample.seen, typical, NUMPY)
    constants = policy.solve(row, share, options)
    decision = policy.decide(row, constants, NUMPY)
    expected = float(np.mean(decision.pi))
    if plan.id_floor and expected > 1.001 * share:
        raise ConfigError(
            f"weighting.id_floor: {plan.id_floor:g} rows of every id are {expected:.1%} of the rows, and the budget of"
            f" arm '{plan.name}' is {share:.1%}",
            remedy="lower weighting.id_floor, or raise weighting.budget",
        )
    at = np.quantile(decision.pi, QUANTILES)
    return Arm(
        name=plan.name,
        policy=policy,
        score=score,
        constants=constants,
        rate=_rate(sample, by_weight=policy.corrects_by == "weight"),
        expected_fraction=expected,
        pi_quantiles={f"{q:g}": float(value) for q, value in zip(QUANTILES, at, strict=True)},
        typical=typical,
        note=note,
        id_floor=plan.id_floor,
        unit=plan.unit,
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
