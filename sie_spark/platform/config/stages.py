"""Settings of the stages after the data: model, training, scores, weights, evaluation, report, simulator, session."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from sie_spark.platform.config.base import Settings
from sie_spark.platform.config.budget import Budget
from sie_spark.platform.config.dataset import Once
from sie_spark.platform.errors import ConfigError


def _iso_date(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError("no ISO date; write it like 2024-03-01") from None


IsoDate = Annotated[str, AfterValidator(_iso_date)]


class Model(Settings):
    """Which torch module is fitted: one of ours by name, or ``package.module:Class``."""

    name: str = Field("dcnv2", description="registry name or package.module:Class")
    embedding_dim: int = Field(16, ge=1, description="numbers of an id's embedding")
    hidden: list[int] = Field([128, 64], description="widths of the hidden layers")
    cross_layers: int = Field(2, ge=0, description="dcnv2: explicit feature crosses")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of hidden units left out in training")
    wide: bool = Field(False, description="a linear part over ids, numbers and pieces beside a deep model")
    number_bins: int = Field(
        0,
        ge=0,
        le=64,
        description="pieces that numbers are cut into at their quantiles, beside their values; 0: none",
    )
    normalise: bool = Field(False, description="layer normalisation in the hidden layers")
    options: dict[str, Any] = Field({}, description="keyword arguments of a user's own class")


class Training(Settings):
    """How a model is fitted."""

    epochs: int = Field(1, ge=1, description="passes over the training rows")
    batch_size: int = Field(2048, ge=1, description="global: shared by the processes")
    learning_rate: float = Field(1e-3, gt=0, description="of Adam, at the start")
    embedding_learning_rate: float | None = Field(None, description="default: learning_rate")
    embedding_optimizer: Literal["auto", "sparse", "dense"] = Field(
        "auto", description="auto: tables of 20,000 rows and more update only the rows of the batch"
    )
    schedule: Literal["constant", "linear"] = Field(
        "linear",
        description="linear: the rate falls to nothing; with a constant one the last batches decide calibration",
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled, of all but embedding tables")
    embedding_l2: float = Field(
        0.0,
        ge=0,
        description="L2 penalty of ids' embeddings beside the log-loss summed over all rows, as 1 / C of scikit-learn:"
        " what an id's rows must outweigh",
    )
    tune: Literal["auto", "off"] = Field(
        "auto",
        description="auto: a search on the validation rows chooses model and training settings, beginning with those"
        " given; off: those given",
    )
    tune_rows: int = Field(
        60_000, ge=100, description="training rows that the search fits on at most; half as many to judge on"
    )
    patience: int = Field(
        2, ge=1, description="epochs without a better validation loss that end a fit; its best epoch is kept"
    )
    validation_rows: int = Field(
        200_000, ge=100, description="validation rows that a fit is judged on at most"
    )
    refit: bool = Field(
        True, description="once the passes are chosen, fit again on training and validation rows together"
    )
    cost_cap: float = Field(
        0.3,
        gt=0,
        description="a subset gets as many updates as all rows did, by smaller batches, then more passes, as long as"
        " that costs at most this share of the full fit's time",
    )
    correct_intercept: bool = Field(
        False,
        description="move the intercept so that the validation rows' positives are met on average; shrunk by its"
        " standard error, and left out under 1,000 positives",
    )
    keep_epochs: list[Annotated[int, Field(ge=1)]] = Field(
        [], description="the model is kept as it was after these epochs too, for scorers that look at several"
    )
    processes: int = Field(
        2, ge=1, description="ranks of TorchDistributor; 1 with distributed=false runs in place"
    )
    distributed: bool = Field(True, description="by TorchDistributor; false: in this process")
    backend: Literal["gloo", "nccl"] = Field("gloo", description="how ranks talk: gloo on CPU, nccl on GPU")
    seed: int = Field(7, description="of start values and the order of rows")
    shuffle_rows: int = Field(
        200_000, ge=1, description="rows a rank holds decoded at most, shuffled in quarters"
    )

    @field_validator("tune", mode="before")
    @classmethod
    def _off_is_a_word(cls, given: Any) -> Any:
        """YAML reads off as false, and on as true."""
        return {False: "off", True: "auto"}[given] if isinstance(given, bool) else given

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts of the samples whose rows the last fit of an arm may take."""
        return ("train", "validation") if self.refit else ("train",)

    @model_validator(mode="before")
    @classmethod
    def _steps_budgeted(cls, given: Any) -> Any:
        if isinstance(given, dict) and "min_steps" in given:
            raise ConfigError(
                "training.min_steps is the form of earlier versions",
                remedy="leave it out: a subset gets as many updates as all rows did, see training.cost_cap",
            )
        return given


class Pilot(Settings):
    """The model whose scores decide which rows are kept: fitted on a uniform sample of the training rows."""

    fraction: float = Field(0.1, gt=0, le=1, description="share of the training rows, uniform")
    cost_cap: float = Field(
        0.15,
        gt=0,
        description="as training.cost_cap, of the pilot: ranking rows by it asks for less than serving it",
    )


class Reference(Settings):
    """The model that audits read: fitted on all training rows."""

    fit: bool | None = Field(
        None, description="null: where an arm is fitted on all rows, which then is this model"
    )
    refit_after: Annotated[float, Field(ge=0)] | Literal["drift"] | None = Field(
        None,
        description="when newer rows make pilot and reference anew: after so many days of data, or once stage score has"
        " found a drift; until then only new dates are scored. null: whenever rows changed",
    )


class Importance(Settings):
    """Which scores are computed and how the workers do it."""

    scorers: list[str] = Field(
        ["loss", "error"],
        description="names in the catalogue; the scores that weighting and arms name are computed beside them",
    )
    fit_rows: int = Field(
        200_000,
        ge=1,
        description="rows of a part at most that sums over rows (a validation gradient, curvature) are made of",
    )
    sample_rows: int = Field(
        20_000,
        ge=1,
        description="training rows at most that are held at once: by scikit-learn, by conjugate gradients, to rank"
        " scores, by exact k-NN Shapley (which refuses more)",
    )
    auxiliary_rows: int = Field(
        100_000, ge=1, description="training rows at most that the auxiliary network is fitted on"
    )
    target_rows: int = Field(
        1000, ge=1, description="validation rows at most that neighbours are looked for of"
    )
    neighbours: int = Field(
        10,
        ge=1,
        description="k of exact k-NN Shapley and of the similarity to validation rows; rows of the sample that the"
        " radius of threshold k-NN Shapley holds at least",
    )
    neighbour_share: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="threshold k-NN Shapley: its radius holds this share of the training rows of the median target",
    )
    damping: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="added to curvature before it is inverted, in units of its mean eigenvalue; null: 2 for influence_cg"
        " and trak, 4 for logra, 0.1 for influence_ekfac",
    )
    iterations: int = Field(50, ge=1, description="steps of conjugate gradients at most")
    sketch_size: int = Field(
        1024, ge=1, description="trak and logra: numbers that a row's gradient is sketched in"
    )
    parameter_group: list[str] = Field(
        ["input"],
        min_length=1,
        description="grad_norm_group: beginnings of parameter names; input: the tables of ids of the models here",
    )
    combine: list[str] = Field(
        ["error", "logit_grad_norm", "rarity"],
        description="scores that rank_average and learned_mix are made of",
    )
    mix: dict[str, float] = Field(
        {"error": 0.5, "logit_grad_norm": 0.5}, description="weighted_mix: weight of each score's rank"
    )
    by: list[str] = Field(
        [],
        description="parts within which scores are brought to one mean size: event_date, position, or categories;"
        " empty: none",
    )
    micro_batch: int = Field(4096, ge=1, description="rows a worker scores at once")
    materialise: list[str] = Field(
        [], description="small raw parameters of a user's model whose gradients may be formed entry by entry"
    )


class Weighting(Settings):
    """From scores to inclusion probabilities, offsets and weights."""

    policy: str = Field("rare_event", description="how scores become inclusion probabilities or weights")
    score: str | None = Field(
        None,
        description="the score behind pi or the weight; null: what the policy makes of the pilot's probability, from a"
        " forward pass alone; logit_grad_norm (exact) costs a backward pass over all rows",
    )
    budget: Budget = Field(
        0.1,
        description="what to keep of the training rows: a share (0.1), a number of rows (50000), so much as retraining"
        " takes in a time (600 s), or auto: the least share that small fits predict to cost no more than"
        " evaluation.margin",
    )
    options: dict[str, Any] = Field(
        {}, description="of the policy; 'sie settings weighting.options' has those of each"
    )
    unit: Literal["row", "request"] = Field(
        "row", description="request: shown lists are kept or dropped as a whole, for learners of lists"
    )
    id_floor: float = Field(
        0.0,
        ge=0,
        description="rows that every id keeps on average at least, or all it has; 0: no such floor",
    )
    trial_rows: int = Field(
        500_000, ge=1000, description="budget auto: kept rows that a trial is fitted on at most"
    )
    seed: int = Field(11, description="of the keep decision, a hash of sample id and seed")

    @model_validator(mode="before")
    @classmethod
    def _options_moved(cls, given: Any) -> Any:
        moved = [
            name for name in ("floor", "uniform_mix", "cap") if isinstance(given, dict) and name in given
        ]
        if moved:
            raise ConfigError(
                f"weighting.{moved[0]} is the form of earlier versions",
                remedy=f"write weighting.options.{moved[0]}, an option of the policies that know it",
            )
        return given


class Evaluation(Settings):
    """How the arms are judged on the untouched test rows."""

    bootstrap: int = Field(200, ge=0, description="replicates, over dataset.group")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the intervals")
    margin: float = Field(0.001, gt=0, description="AUC loss that still counts as 'no worse' (TOST)")
    yardstick_rows: int = Field(
        60_000,
        ge=0,
        description="training rows that logistic regression and boosted trees are fitted on at most, for the arms to"
        " be compared with; 0: no yardsticks",
    )
    seed: int = Field(3, description="of the bootstrap and of the yardsticks' rows")


class Report(Settings):
    """What rides along with the rows, for whoever reads them outside."""

    key: Once = Field(
        [],
        description="columns of impressions that samples, scores, training_set and exported rows carry as text, to find"
        " a row in other systems by; dataset.identifiers are pseudonyms there; no model reads them",
    )


class Explain(Settings):
    """How ``sie explain`` looks for the training rows that are nearest to one row."""

    candidates: int = Field(
        500_000,
        ge=1,
        description="training rows at most that are looked at: those of smallest hash where there are more",
    )
    neighbours: int = Field(5, ge=1, description="rows shown that helped, and as many that harmed")


class Simulator(Settings):
    """A clickstream whose truth is known."""

    impressions: int = Field(200_000, ge=1, description="shown items")
    days: int = Field(4, ge=1, description="length of the log")
    start: IsoDate = Field("2024-03-01", description="its first date")
    users: int = Field(5_000, ge=1, description="who search")
    items: int = Field(2_000, ge=2, description="what is shown")
    queries: int = Field(200, ge=1, description="what is searched for")
    list_length: int = Field(10, ge=1, description="items of a result list")
    zipf: float = Field(1.1, gt=0, description="exponent of the items' popularity")
    base_rate: float = Field(0.04, gt=0, lt=1, description="P(click), on average")
    position_bias: float = Field(0.6, ge=0, description="examination = position ** -position_bias")
    drift: float = Field(0.1, ge=0, description="sd of the daily random walk of item appeal, in logits")
    purchase_rate: float = Field(0.08, ge=0, lt=1, description="P(purchase | click), on average")
    purchase_delay_hours: float = Field(8.0, gt=0, description="mean of the exponential delay")
    bots: float = Field(0.0, ge=0, lt=1, description="share of impressions that come from bots")
    fake_clicks: float = Field(0.0, ge=0, description="random extra clicks, as a share of the true ones")
    missed_clicks: float = Field(0.0, ge=0, lt=1, description="share of clicks that are not logged")
    duplicates: float = Field(0.0, ge=0, lt=1, description="share of records written twice")
    malformed: float = Field(0.0, ge=0, lt=1, description="share of records that are broken")
    compression: Literal["none", "gzip"] = Field("gzip", description="of the raw JSON lines")
    seed: int = Field(1, description="the same seed, the same log")


class Session(Settings):
    """The Spark session; cluster and Databricks leave everything to the platform."""

    mode: Literal["auto", "local", "existing"] = Field(
        "auto", description="auto: what spark-submit or the platform started, else a local session"
    )
    cores: int = Field(0, ge=0, description="local: 0 means every core, at most 8")
    memory: str = Field("4g", description="local: heap of the one JVM")
    shuffle_partitions: int = Field(4, ge=1, description="local only")
    jit: Literal["full", "quick"] = Field(
        "full",
        description="local: quick has the JVM compile lightly: half the processor time of a job of seconds, and a slower"
        " one of minutes; 'sie explain' takes it unless told otherwise",
    )
    conf: dict[str, str] = Field({}, description="Spark settings beside ours")


class Tracking(Settings):
    """MLflow."""

    tracking_uri: str | None = Field(None, description="default: sqlite under a local root")
    experiment: str = Field("sie_spark", description="experiment that runs are logged to")
    register_model: str | None = Field(None, description="name in the model registry; null: not registered")


class Run(Settings):
    """Which dates a job works on; both ends included, ISO dates; null: all."""

    date_from: IsoDate | None = Field(None, description="first date")
    date_to: IsoDate | None = Field(None, description="last date")
    before: IsoDate | None = Field(
        None,
        description="instead of date_to, the first date left out: a scheduler's date gives the last closed day",
    )
    force: bool = Field(
        False,
        description="rebuild even what is up to date; events and quarantine are made anew where they hold nothing but"
        " what came from this source",
    )

    @model_validator(mode="before")
    @classmethod
    def _last_closed_day(cls, data: Any) -> Any:
        """``before`` becomes ``date_to``, so that both ways to say a date are one to every stage."""
        if not isinstance(data, dict) or data.get("before") is None:
            return data
        if data.get("date_to") is not None:
            raise ValueError("before and date_to both say where the dates end; give one of them")
        day = date.fromisoformat(_iso_date(str(data["before"]))) - timedelta(days=1)
        return {**data, "before": None, "date_to": day.isoformat()}

    @model_validator(mode="after")
    def _ordered(self) -> Run:
        if self.date_from and self.date_to and self.date_from > self.date_to:
            raise ValueError("date_from is after date_to")
        return self
