"""A sequence of shifts: each target becomes the next source, on one schedule made with ``join``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

import segue
from segue.analysis.stability import min_accuracy, worst_case_accuracy
from segue.checks import check_count
from segue.experiments.supervised.config import AdaptationConfig, OptimizerConfig, SourceConfig
from segue.experiments.supervised.grids import FRESH_SEEDS, Grid, chosen_rates
from segue.experiments.supervised.loop import (
    build_optimizer,
    evaluate,
    evaluation_steps,
)
from segue.experiments.supervised.methods import MethodConfig, build_schedule, make_method
from segue.experiments.supervised.models import build_model
from segue.experiments.supervised.setting import SHORT
from segue.experiments.supervised.shifts import ShiftConfig
from segue.experiments.supervised.task import AdaptationTask, load_adaptation
from segue.experiments.training import Curves, learning_rate
from segue.runs.context import RunContext, RunResult
from segue.runs.grid import RunConfig

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = ["SequenceConfig", "SequenceShift", "sequence_grid"]

_SUPPORTED = MethodConfig("")


@dataclass(frozen=True)
class SequenceShift:
    """Shifts in turn, all of the same source task.

    Attributes:
        name: Name in tables.
        parts: Names of the shifts.
    """

    name: str
    parts: tuple[str, ...]

    def __post_init__(self) -> None:
        tasks = {ShiftConfig(part).shift.source_task for part in self.parts}
        if len(self.parts) < 2 or len(tasks) > 1:
            raise ValueError(
                f"parts must be at least two shifts of one source task, got {self.parts}"
            )


@dataclass(frozen=True)
class SequenceConfig:
    """Adapt a source model to several targets in turn.

    At each switch the replay bank is filled anew, from the training set of the task before. The
    learning rate follows half a cosine to 0 in each part.

    Attributes:
        shift: The sequence.
        source: The run that trains the source model, of the same seed.
        method: Schedule, source term and warm-up of every part. Methods with other parts (new heads,
            freezing, anchors, SAM) are not supported here.
        seed: As in an adaptation.
        num_target_examples: Training examples of every target; the same images, shifted differently.
        num_target_steps: Optimizer steps of every part.
        batch_size: Target examples per step.
        optimizer: Optimizer of the adaptation.
        num_curve_examples: Test examples per point of the accuracy curves.
    """

    shift: SequenceShift
    source: SourceConfig
    method: MethodConfig
    seed: int
    num_target_examples: int
    num_target_steps: int
    batch_size: int = 64
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    num_curve_examples: int = 500

    family: ClassVar[str] = "supervised"
    kind: ClassVar[str] = "sequence"

    def __post_init__(self) -> None:
        check_count("seed", self.seed)
        for name in (
            "initialization", "num_head_first_steps", "num_unfreezing_steps", "l2sp_scale",
            "sam_radius", "mode",
        ):  # fmt: skip
            if getattr(self.method, name) != getattr(_SUPPORTED, name):
                raise ValueError(
                    f"{name} of a method in a sequence must be {getattr(_SUPPORTED, name)!r}, "
                    f"got {getattr(self.method, name)!r}"
                )

    def requires(self) -> tuple[RunConfig, ...]:
        """The source model."""
        return (self.source,)

    def cost(self) -> float:
        """Examples that pass forward and backward."""
        return sum(self.part(name).cost() for name in self.shift.parts)

    def part(self, name: str) -> AdaptationConfig:
        """The adaptation that one part would be by itself."""
        return AdaptationConfig(
            ShiftConfig(name),
            self.source,
            self.method,
            self.seed,
            self.num_target_examples,
            self.num_target_steps,
            self.batch_size,
            self.optimizer,
        )

    def execute(self, context: RunContext) -> RunResult:
        """Run the sequence."""
        return _run(self, context)


def sequence_grid(parts: Sequence[str], methods: Iterable[str]) -> Grid:
    """A sequence at the short budget, at the learning rates chosen for its first shift."""

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        rates = chosen_rates(records, SHORT)
        found: list[RunConfig] = []
        for seed in FRESH_SEEDS:
            for name in methods:
                rate = rates.get((parts[0], name), rates[parts[0], "smoothing"])
                single = SHORT.adaptation(parts[0], name, seed, rate)
                found.append(
                    SequenceConfig(
                        SequenceShift(" > ".join(parts), tuple(parts)),
                        single.source,
                        make_method(
                            name,
                            num_smoothing_steps=SHORT.num_smoothing_steps,
                            num_target_steps=SHORT.num_target_steps,
                        ),
                        seed,
                        SHORT.num_target_examples,
                        SHORT.num_target_steps,
                        optimizer=single.optimizer,
                    )
                )
        return found

    return configs


def _run(config: SequenceConfig, context: RunContext) -> RunResult:
    parts = config.shift.parts
    device = context.device
    tasks = [
        load_adaptation(config.part(name), context.data_root, context.store.cache, device)
        for name in parts
    ]
    torch.manual_seed(config.seed)
    model = build_model(config.source.model, seed=config.seed, device=device).train()
    model.load_state_dict(context.artifact(config.source))
    optimizer = build_optimizer(config.optimizer, model)
    num_steps, num_parts = config.num_target_steps, len(parts)
    schedule = build_schedule(config.method.schedule)
    boundaries = [num_steps * part for part in range(1, num_parts)]
    smoothing = segue.Smoothing(
        segue.join([schedule] * num_parts, boundaries), optimizer=optimizer, seed=config.seed
    )
    tests = [tasks[0].source_test, *(task.target_test for task in tasks)]
    curves, step, replay, num_examples = Curves(), 0, None, 0
    target = _stream(config, tasks, 0)

    def measure() -> None:
        part = min(step // num_steps, num_parts - 1)
        for number, test in enumerate(tests):
            count = config.num_curve_examples
            accuracy, _ = evaluate(model, test.images[:count], test.labels[:count])
            curves.add(f"accuracy_of_task_{number}", step, accuracy)
            if number == part + 1:
                curves.add("target_accuracy", step, accuracy)
        curves.add("source_weight", step, smoothing.source_weight)

    state = context.load_checkpoint()
    if state is not None:
        step, num_examples = state["step"], state["num_examples"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        smoothing.load_state_dict(state["smoothing"])
        part = min(step // num_steps, num_parts - 1)
        if step % num_steps:  # else the loop begins the next part with streams of its own
            target, replay = _stream(config, tasks, part), _bank(config, tasks, part, device)
            target.load_state_dict(state["target"])
            if replay is not None:
                replay.load_state_dict(state["replay"])
        torch.set_rng_state(state["random_state"])
        curves.points = state["curves"]

    when = set(evaluation_steps(num_steps)) - {num_steps}
    while step < num_steps * num_parts:
        part, step_of_part = divmod(step, num_steps)
        if step_of_part == 0:
            target, replay = _stream(config, tasks, part), _bank(config, tasks, part, device)
        if step_of_part in when:
            measure()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(
                config.optimizer.learning_rate,
                step_of_part,
                num_steps,
                config.method.num_warmup_steps,
            )
        images, labels = next(target)
        num_examples += len(labels)

        def source_loss(replay: segue.Replay | None = replay) -> Tensor:
            nonlocal num_examples
            if replay is None:
                return torch.zeros((), device=device)
            old_images, old_labels = next(replay)
            num_examples += len(old_labels)
            return F.cross_entropy(model(old_images), old_labels)

        def target_loss(images: Tensor = images, labels: Tensor = labels) -> Tensor:
            return F.cross_entropy(model(images), labels)

        loss = smoothing.mix(source=source_loss, target=target_loss)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        context.progress(step, num_steps * num_parts)
        if context.should_checkpoint(step):
            context.save_checkpoint(
                {
                    "step": step,
                    "num_examples": num_examples,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "smoothing": smoothing.state_dict(),
                    "target": target.state_dict(),
                    "replay": None if replay is None else replay.state_dict(),
                    "random_state": torch.get_rng_state(),
                    "curves": curves.points,
                }
            )
    measure()
    finals = [evaluate(model, *test)[0] for test in tests]
    return RunResult(
        metrics={**_measures(config, curves, finals), "num_gradient_examples": num_examples},
        curves=curves.points,
        weights=dict(model.state_dict()),
        data_fingerprint=tasks[0].fingerprint,
    )


def _stream(config: SequenceConfig, tasks: Sequence[AdaptationTask], part: int) -> segue.Replay:
    return segue.Replay(
        tuple(tasks[part].target_train),
        num_examples=None,
        batch_size=config.batch_size,
        seed=config.seed,
    )


def _bank(
    config: SequenceConfig, tasks: Sequence[AdaptationTask], part: int, device: str
) -> segue.Replay | None:
    """The replay bank of a part: examples of the task before it."""
    if not config.method.uses_source_data:
        return None
    before: Any = tasks[0].source_train if part == 0 else tuple(tasks[part - 1].target_train)
    return segue.Replay(
        before,
        num_examples=config.method.num_bank_examples,
        batch_size=config.method.replay_batch_size,
        seed=config.seed,
        device=device,
    )


def _measures(config: SequenceConfig, curves: Curves, finals: Sequence[float]) -> dict[str, float]:
    num_parts, num_steps = len(config.shift.parts), config.num_target_steps
    end = num_parts * num_steps
    tasks: list[Any] = [curves.points[f"accuracy_of_task_{i}"] for i in range(num_parts + 1)]
    # Task i was learned when its part ended: the source at the first switch, at step 0.
    learned_at = [part * num_steps for part in range(num_parts)]
    return {
        "target_accuracy": finals[-1],
        "source_accuracy": sum(finals[:-1]) / num_parts,
        "average_accuracy": sum(finals) / len(finals),
        "source_accuracy_before": tasks[0]["value"][0],
        "min_accuracy": min_accuracy(tasks[:-1], learned_at, end),
        "worst_case_accuracy": worst_case_accuracy(tasks[-1], tasks[:-1], learned_at, end),
        **{f"accuracy_of_task_{number}": value for number, value in enumerate(finals)},
    }
