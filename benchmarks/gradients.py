"""What exact per-sample gradient quantities cost, against an ordinary training step and against peers.

    python benchmarks/gradients.py [--runs 15] [--rows 4096] [--ids 100000]

One JSON line a measure: measure, value, bar, holds, runs, note. One thread; every value is the median
over runs of a ratio of two times taken in turn. Times are processor time, which on one thread is wall
time less what other processes of the machine take. "Step" is forward plus backward of the same batch
with sparse embedding gradients and no optimiser. Peers (opacus, captum) come with the
``bench`` extra; what is not installed is printed with a null value.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional

from sie_spark.gradients import Dots, Engine, LastLayer, Norms, gradient
from sie_spark.models.layers import CrossV2, FieldEmbedding

FIELDS, WIDTH = 26, 16
Timed = dict[str, Callable[[], object]]


class DCNv2(nn.Module):
    """Two cross layers beside an MLP 256-128, over one table of 26 fields (Wang et al. 2021)."""

    def __init__(self, ids: int) -> None:
        super().__init__()
        width = FIELDS * WIDTH
        self.table = FieldEmbedding([ids] * FIELDS, WIDTH, sparse=True)
        self.crosses = nn.ModuleList([CrossV2(width), CrossV2(width)])
        self.deep = nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU())
        self.head = nn.Linear(width + 128, 1)

    def forward(self, cat: Tensor) -> Tensor:
        x0 = x = self.table(cat).flatten(1)
        for cross in self.crosses:
            x = cross(x0, x)
        return self.head(torch.cat([x, self.deep(x0)], dim=1)).squeeze(1)


class DNN(nn.Module):
    """The same table under an MLP 256-128: most of the work is looking up."""

    def __init__(self, ids: int, *, sparse: bool) -> None:
        super().__init__()
        width = FIELDS * WIDTH
        self.table = FieldEmbedding([ids] * FIELDS, WIDTH, sparse=sparse)
        self.deep = nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU())
        self.head = nn.Linear(128, 1)

    def forward(self, cat: Tensor) -> Tensor:
        return self.head(self.deep(self.table(cat).flatten(1))).squeeze(1)


class Setting:
    def __init__(self, model: DCNv2 | DNN, rows: int, ids: int) -> None:
        torch.manual_seed(0)
        self.model = model
        nn.init.normal_(self.model.table.table.weight, std=0.05)
        self.cat = torch.randint(0, ids, (rows, FIELDS))
        self.y = (torch.rand(rows) < 0.02).float()
        self.engine = Engine(self.model)

    def loss(self, logit: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(logit, self.y, reduction="none")

    def step(self) -> None:
        self.model.zero_grad(set_to_none=True)
        self.loss(self.model(self.cat)).sum().backward()

    def vectors(self, count: int) -> Dots:
        random = {
            str(k): {name: torch.randn_like(p) for name, p in self.model.named_parameters()}
            for k in range(count)
        }
        return Dots(random)

    def first_call(self) -> None:
        """Norms by a new engine, which first tries whether samples are independent."""
        Engine(self.model)({"cat": self.cat}, self.loss, Norms())

    def measure(self, *quantities: object):
        return self.engine({"cat": self.cat}, self.loss, *quantities)

    def cheap_scores(self, dots: Dots) -> tuple[Tensor, ...]:
        """Norms, a dot product, loss, |p - y|, margin and entropy, from one pass."""
        result = self.measure(Norms(), dots)
        p = torch.sigmoid(result.output)
        entropy = functional.binary_cross_entropy_with_logits(result.output, p, reduction="none")
        return (
            result["squared_norm"],
            result[dots.key],
            result.loss,
            (p - self.y).abs(),
            (2 * p - 1).abs(),
            entropy,
        )


def interleaved(functions: Timed, runs: int) -> dict[str, list[float]]:
    """Processor seconds of each function, taken in turn; two rounds of warming up are dropped."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_number in range(runs + 2):
        for name, function in functions.items():
            began = time.process_time()
            function()
            if round_number >= 2:
                times[name].append(time.process_time() - began)
    return times


def ratio(times: dict[str, list[float]], name: str, to: str) -> float:
    return median(a / b for a, b in zip(times[name], times[to], strict=True))


def emit(
    measure: str, value: float | None, bar: float | None, *, least: bool = False, runs: int, note: str
) -> None:
    holds = None if value is None or bar is None else (value >= bar if least else value <= bar)
    rounded = None if value is None else round(value, 3)
    print(
        json.dumps(
            {"measure": measure, "value": rounded, "bar": bar, "holds": holds, "runs": runs, "note": note}
        ),
        flush=True,
    )


def against_a_step(setting: Setting, runs: int) -> None:
    one, four = setting.vectors(1), setting.vectors(4)
    times = interleaved(
        {
            "step": setting.step,
            "norms": lambda: setting.measure(Norms()),
            "scores": lambda: setting.cheap_scores(one),
            "four": lambda: setting.measure(Norms(), four),
            "last": lambda: setting.measure(LastLayer("head")),
            "first": setting.first_call,
        },
        runs,
    )
    note = f"step {1e3 * median(times['step']):.1f} ms, norms {1e3 * median(times['norms']):.1f} ms"
    emit("norms / step", ratio(times, "norms", "step"), 0.80, runs=runs, note=note)
    emit(
        "norms + 1 dot + cheap scores / step", ratio(times, "scores", "step"), 1.2, runs=runs, note="one pass"
    )
    emit("norms + 4 dots / step", ratio(times, "four", "step"), 2.0, runs=runs, note="one pass")
    emit("last-layer norm / step", ratio(times, "last", "step"), None, runs=runs, note="forward included")
    emit(
        "norms with the probe / norms", ratio(times, "first", "norms"), None, runs=runs, note="once an engine"
    )


def against_opacus(rows: int, ids: int, runs: int) -> None:
    name = "opacus ghost norms / ours"
    try:
        from opacus.grad_sample import GradSampleModuleFastGradientClipping as Ghost
    except ImportError as error:
        return emit(
            name, None, 5.0, least=True, runs=0, note=f"skipped: {error}; pip install 'sie-spark[bench]'"
        )
    for sparse in (False, True):
        setting = Setting(DNN(ids, sparse=sparse), rows, ids)
        ours = setting.measure(Norms())["squared_norm"].sqrt()
        peer = Ghost(setting.model, loss_reduction="sum", use_ghost_clipping=True)

        def theirs(setting: Setting = setting, peer: Ghost = peer) -> Tensor:
            peer.zero_grad(set_to_none=True)
            setting.loss(peer(setting.cat)).sum().backward()
            return peer.get_norm_sample()

        gap = float(((theirs() - ours).abs() / ours).max())
        peer.remove_hooks()  # they would run, and be timed, inside our pass
        times: dict[str, list[float]] = {"theirs": [], "ours": []}
        for _ in range(runs):
            peer = Ghost(setting.model, loss_reduction="sum", use_ghost_clipping=True)
            times["theirs"] += interleaved({"theirs": lambda: theirs(peer=peer)}, 1)["theirs"]  # noqa: B023
            peer.remove_hooks()
            times["ours"] += interleaved({"ours": lambda: setting.measure(Norms())}, 1)["ours"]  # noqa: B023
        tables = "sparse=True tables" if sparse else "nn.Embedding as it comes (dense table gradient)"
        emit(
            name + (", sparse tables" if sparse else ""),
            ratio(times, "theirs", "ours"),
            None if sparse else 5.0,
            least=True,
            runs=runs,
            note=f"MLP 256-128, {tables}; opacus {1e3 * median(times['theirs']):.0f} ms, ours "
            f"{1e3 * median(times['ours']):.0f} ms; largest relative difference {gap:.1e}",
        )
    return None


def against_captum(runs: int) -> None:
    name = "gradient dot, 5000 rows with 500 / captum TracInCP"
    try:
        from captum.influence import TracInCP
    except ImportError as error:
        return emit(name, None, 0.33, runs=0, note=f"skipped: {error}; pip install 'sie-spark[bench]'")
    torch.manual_seed(0)
    # Dense inputs: captum's batched per-sample gradients know linear layers, not embeddings.
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))
    train, held_out = torch.randn(5000, 64), torch.randn(500, 64)
    y_train, y_held_out = (torch.rand(5000, 1) < 0.3).float(), (torch.rand(500, 1) < 0.3).float()

    def ours() -> Tensor:
        def loss(y: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda o: functional.binary_cross_entropy_with_logits(o, y, reduction="none")

        v = gradient(model, {"input": held_out}, loss(y_held_out))
        return Engine(model)({"input": train}, loss(y_train), Dots({"v": v}))["dots"][:, 0]

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = str(Path(folder) / "model.pt")
        torch.save(model.state_dict(), checkpoint)

        def load(module: nn.Module, path: str) -> float:
            module.load_state_dict(torch.load(path))
            return 1.0

        def peer(batch: int) -> Callable[[], Tensor]:
            method = TracInCP(
                model,
                torch.utils.data.TensorDataset(train, y_train),
                [checkpoint],
                checkpoints_load_func=load,
                loss_fn=nn.BCEWithLogitsLoss(reduction="sum"),
                batch_size=batch,
                sample_wise_grads_per_batch=True,
            )
            return lambda: method.influence((held_out, y_held_out), aggregate=True).flatten()

        peers = {f"captum {batch}": peer(batch) for batch in (250, 1000, 5000)}
        exact = ours()
        gap = float((next(iter(peers.values()))() - exact).abs().max() / exact.abs().max())
        times = interleaved({"ours": ours, **peers}, runs)
    best = min(peers, key=lambda key: median(times[key]))
    note = (
        f"MLP 64-128-64-1; ours {1e3 * median(times['ours']):.0f} ms, {best} rows a batch "
        f"{1e3 * median(times[best]):.0f} ms, its best of {len(peers)}; relative difference {gap:.1e}"
    )
    emit(name, ratio(times, "ours", best), 0.33, runs=runs, note=note)
    return None


def resident(field: str) -> int:
    """``VmRSS`` or ``VmHWM`` (the peak) of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def working_memory(which: str, rows: int, ids: int) -> None:
    """In a process of its own: bytes by which the resident peak rises above the built model."""
    setting = Setting(DCNv2(ids), rows, ids)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of building
    before = resident("VmRSS")
    for _ in range(3):
        setting.step() if which == "step" else setting.measure(Norms())
    print(resident("VmHWM") - before)


def memory(rows: int, ids: int, runs: int) -> None:
    name = "memory of norms over the step"

    def child(which: str) -> int:
        command = [sys.executable, __file__, "--memory", which, "--rows", str(rows), "--ids", str(ids)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    try:
        pairs = [(child("norms"), child("step")) for _ in range(runs)]
    except subprocess.CalledProcessError as error:
        return emit(
            name, None, 0.20, runs=0, note=f"skipped, needs Linux /proc: {error.stderr.splitlines()[-1]}"
        )
    value = median(ours / step for ours, step in pairs) - 1
    note = (
        f"peak resident memory above the built model: norms {median(a for a, _ in pairs) / 2**20:.0f} MiB, "
        f"step {median(b for _, b in pairs) / 2**20:.0f} MiB, each in a process of its own"
    )
    emit(name, value, 0.20, runs=runs, note=note)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--ids", type=int, default=100_000)
    parser.add_argument("--memory", choices=["step", "norms"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        return working_memory(options.memory, options.rows, options.ids)
    against_a_step(Setting(DCNv2(options.ids), options.rows, options.ids), options.runs)
    against_opacus(options.rows, options.ids, max(3, options.runs // 2))
    against_captum(options.runs)
    memory(options.rows, options.ids, max(1, options.runs // 5))
    return None


if __name__ == "__main__":
    main()
