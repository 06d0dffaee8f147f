"""Training of the supervised family: the source model, and its adaptation with one method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segue
from segue.experiments.supervised.config import AdaptationConfig, SourceConfig
from segue.experiments.supervised.data import Labelled
from segue.experiments.supervised.loop import (
    build_optimizer,
    drop_frozen_gradients,
    evaluate,
    evaluation_steps,
    sharpness_aware,
)
from segue.experiments.supervised.methods import build_schedule
from segue.experiments.supervised.models import build_model
from segue.experiments.supervised.shifts import augment
from segue.experiments.supervised.task import AdaptationTask, load_adaptation, load_source
from segue.experiments.training import Curves, learning_rate
from segue.runs.execution import RunResult
from segue.sources.anchor import L2SP

if TYPE_CHECKING:
    from segue.runs.execution import RunContext

__all__ = ["adapt", "train_source"]

_SHRINK, _PERTURB = 0.4, 0.1  # Ash and Adams, arXiv 1910.08475
_WARMUP_SHARE = 10  # the source model's learning rate rises over the first tenth


def train_source(config: SourceConfig, context: RunContext) -> RunResult:
    """Train the source model of ``config.seed``; its weights are the run's artifact."""
    device = context.device
    task = load_source(config, context.data_root, context.store.cache, device)
    torch.manual_seed(config.seed)
    model = build_model(config.model, seed=config.seed, device=device).train()
    optimizer = build_optimizer(config.optimizer, model)
    stream = segue.Replay(
        (task.train.images, task.train.labels),
        num_examples=None,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    generator = torch.Generator().manual_seed(config.seed)
    num_steps, first = config.num_training_steps, 0
    state = context.load_checkpoint()
    if state is not None:
        first = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        stream.load_state_dict(state["stream"])
        generator.set_state(state["generator"])

    for step in range(first, num_steps):
        images, labels = next(stream)
        images = images.float() / 255.0
        if config.augment:
            images = augment(images, generator)
        images, labels = task.data.normalise(images).to(device), labels.to(device)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(
                config.optimizer.learning_rate, step, num_steps, max(1, num_steps // _WARMUP_SHARE)
            )
        loss = F.cross_entropy(model(images), labels)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the source model's loss is {loss.item()} at step {step}")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        context.progress(step + 1, num_steps)
        if context.should_checkpoint(step + 1):
            context.save_checkpoint(
                {
                    "step": step + 1,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "stream": stream.state_dict(),
                    "generator": generator.get_state(),
                }
            )
    accuracy, loss_value = evaluate(model, task.test.images, task.test.labels)
    return RunResult(
        metrics={"source_accuracy": accuracy, "source_loss": loss_value},
        curves={},
        artifact=dict(model.state_dict()),
        data_fingerprint=task.fingerprint,
    )


def adapt(config: AdaptationConfig, context: RunContext) -> RunResult:
    """Adapt the source model to the target with the method of ``config``."""
    run = _Adaptation(config, context)
    state = context.load_checkpoint()
    if state is not None:
        run.load_state_dict(state)
    num_steps = config.num_target_steps
    when = set(evaluation_steps(num_steps))
    for step in range(run.step, num_steps):
        if step in when:
            run.measure()
        run.train_step()
        context.progress(step + 1, num_steps)
        if context.should_checkpoint(step + 1):
            context.save_checkpoint(run.state_dict())
    run.measure()
    return run.result()


class _Adaptation:
    """State of one adaptation: everything a checkpoint holds."""

    def __init__(self, config: AdaptationConfig, context: RunContext) -> None:
        self.config, self.method = config, config.method
        self.device = context.device
        self.task: AdaptationTask = load_adaptation(
            config, context.data_root, context.store.cache, self.device
        )
        torch.manual_seed(config.seed)
        weights = context.artifact(config.source) if config.requires() else None
        # Before anything is drawn anew: what can be forgotten.
        self.source_model_accuracy = (
            None
            if weights is None
            else _accuracy_of(config, weights, self.task.source_test, self.device)
        )
        self.model = _initial_model(config, weights).to(self.device).train()
        self.optimizer = build_optimizer(config.optimizer, self.model)
        self.target = segue.Replay(
            (self.task.target_train.images, self.task.target_train.labels),
            num_examples=None,
            batch_size=config.batch_size,
            seed=config.seed,
        )
        self.replay: segue.Replay | None = None
        if self.method.uses_source_data:
            self.replay = segue.Replay(
                self.task.source_train,
                num_examples=self.method.num_bank_examples,
                batch_size=self.method.replay_batch_size,
                seed=config.seed,
                device=self.device,
            )
        self.smoothing = segue.Smoothing(
            build_schedule(self.method.schedule),
            optimizer=self.optimizer,
            model=self.model,
            batch_norm=config.batch_norm,
            sources=[] if self.replay is None else [self.replay],
            seed=config.seed,
        )
        self.anchor: L2SP | None = None
        if self.method.l2sp_scale > 0.0:
            self.anchor = L2SP(
                self.model,
                scale=self.method.l2sp_scale,
                includes=lambda name: not name.startswith("head."),
            )
        self.curves = Curves()
        self.step = 0
        self.num_gradient_examples = 0
        self.num_target_examples_used = 0

    def train_step(self) -> None:
        """One optimizer step."""
        config, method = self.config, self.method
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                config.optimizer.learning_rate,
                self.step,
                config.num_target_steps,
                method.num_warmup_steps,
            )
        batch = next(self.target)
        self._backward(batch)
        if method.sam_radius > 0.0:
            with sharpness_aware(self.model, method.sam_radius):
                self._backward(batch)
        drop_frozen_gradients(
            self.model, self.step, method.num_head_first_steps, method.num_unfreezing_steps
        )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1

    def _backward(self, batch: tuple[Tensor, Tensor]) -> None:
        smoothing, replay = self.smoothing, self.replay
        mode = self.method.mode
        if replay is not None and not smoothing.finished and mode in ("joint", "mixed"):
            blend = smoothing.blend(target=batch, source=replay, mode=mode)
            images, labels = blend.batch
            losses = F.cross_entropy(self.model(images), labels, reduction="none")
            self._add_anchor(blend.loss(losses)).backward()  # type: ignore[no-untyped-call]
            self._count(blend.num_target, blend.num_source)
            return
        num_source = 0

        def source_loss() -> Tensor:
            nonlocal num_source
            if replay is None:  # only the target's weight is ramped
                return torch.zeros((), device=self.device)
            images, labels = next(replay)
            num_source = len(labels)
            return F.cross_entropy(self.model(images), labels)

        def target_loss() -> Tensor:
            return self._add_anchor(F.cross_entropy(self.model(batch[0]), batch[1]))

        if mode == "backward":
            smoothing.backward(source=source_loss, target=target_loss)
        else:
            loss = smoothing.mix(source=source_loss, target=target_loss)
            loss.backward()  # type: ignore[no-untyped-call]
        self._count(len(batch[1]), num_source)

    def _add_anchor(self, loss: Tensor) -> Tensor:
        return loss if self.anchor is None else loss + self.anchor()

    def _count(self, num_target: int, num_source: int) -> None:
        self.num_target_examples_used += num_target
        self.num_gradient_examples += num_target + num_source

    def measure(self) -> None:
        """Add a point to every curve."""
        count = self.config.num_curve_examples
        for side, data in (("target", self.task.target_test), ("source", self.task.source_test)):
            accuracy, loss = evaluate(self.model, data.images[:count], data.labels[:count])
            self.curves.add(f"{side}_accuracy", self.step, accuracy)
            self.curves.add(f"{side}_loss", self.step, loss)
        self.curves.add("source_weight", self.step, self.smoothing.source_weight)

    def result(self) -> RunResult:
        """Final metrics, on all test examples, and the curves."""
        target = evaluate(self.model, *self.task.target_test)
        source = evaluate(self.model, *self.task.source_test)
        train = evaluate(self.model, *self.task.target_train)
        accuracies = self.curves.points["target_accuracy"]["value"]
        return RunResult(
            metrics={
                "target_accuracy": target[0],
                "target_loss": target[1],
                "source_accuracy": source[0],
                "source_loss": source[1],
                "target_train_accuracy": train[0],
                "source_model_accuracy": self.source_model_accuracy,
                "target_accuracy_before": accuracies[0],
                "source_accuracy_before": self.curves.points["source_accuracy"]["value"][0],
                "lowest_target_accuracy": min(accuracies[1:]),
                "num_gradient_examples": self.num_gradient_examples,
                "num_target_examples_used": self.num_target_examples_used,
            },
            curves=self.curves.points,
            artifact=None,
            data_fingerprint=self.task.fingerprint,
            weights=dict(self.model.state_dict()),
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "smoothing": self.smoothing.state_dict(),
            "target": self.target.state_dict(),
            "replay": None if self.replay is None else self.replay.state_dict(),
            "anchor": None if self.anchor is None else self.anchor.state_dict(),
            "random_state": torch.get_rng_state(),
            "curves": self.curves.points,
            "num_gradient_examples": self.num_gradient_examples,
            "num_target_examples_used": self.num_target_examples_used,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.target.load_state_dict(state["target"])
        if self.replay is not None:
            self.replay.load_state_dict(state["replay"])
        if self.anchor is not None:
            self.anchor.load_state_dict(state["anchor"])
        self.smoothing.load_state_dict(state["smoothing"])
        torch.set_rng_state(state["random_state"])
        self.curves.points = state["curves"]
        self.num_gradient_examples = state["num_gradient_examples"]
        self.num_target_examples_used = state["num_target_examples_used"]


def _accuracy_of(
    config: AdaptationConfig, weights: Mapping[str, Tensor], examples: Labelled, device: str
) -> float:
    """Accuracy of the source model on ``examples``."""
    model = build_model(config.source.model, seed=config.seed, device=device)
    model.load_state_dict(dict(weights))
    return evaluate(model, *examples)[0]


def _initial_model(config: AdaptationConfig, source: Mapping[str, Tensor] | None) -> nn.Module:
    """The network at the first target step; everything drawn is a function of the seed."""
    initialization = config.method.initialization
    # Another seed than the source model's, else a fresh head would be the one it started from.
    model = build_model(config.source.model, seed=1_000_003 + config.seed)
    if source is None:
        return model
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    weights = dict(source)
    trained = dict(model.named_parameters())  # not the running statistics of a batch norm
    for name, value in weights.items():
        if initialization == "fresh_head" and name.startswith("head."):
            weights[name] = fresh[name]
        elif initialization == "shrink_and_perturb" and name in trained:
            weights[name] = _SHRINK * value + _PERTURB * fresh[name]
    model.load_state_dict(weights)
    return model
