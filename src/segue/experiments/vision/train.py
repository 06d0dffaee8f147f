"""Training of the vision family: the domain model, and its adaptation with one method."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

import segue
from segue.experiments.training import Curves, learning_rate
from segue.experiments.vision.config import AdaptationConfig, SourceConfig
from segue.experiments.vision.loop import (
    average_weights,
    build_optimizer,
    evaluate,
    evaluation_steps,
    get_random_states,
    predict,
    set_random_states,
)
from segue.experiments.vision.methods import build_schedule
from segue.experiments.vision.models import build_network
from segue.experiments.vision.task import AdaptationTask, load_adaptation, load_source
from segue.experiments.vision.terms import Terms
from segue.runs.execution import RunResult
from segue.sources.fisher import diagonal_fisher

if TYPE_CHECKING:
    from segue.runs.execution import RunContext

__all__ = ["adapt", "train_source"]

_WARMUP_SHARE = 10  # the domain model's learning rate rises over the first tenth
_MAX_CONFUSED = 20  # classes; larger confusion matrices are not recorded
_FISHER = "fisher."
_MODEL = "model."


def train_source(config: SourceConfig, context: RunContext) -> RunResult:
    """Fine-tune the checkpoint on a domain; weights and Fisher are the run's artifact."""
    device = context.device
    torch.manual_seed(config.seed)
    lower, model = build_network(config.network, seed=config.seed)
    task = load_source(config, lower, context.data_root, context.store.cache, device)
    model.to(device).train()
    optimizer = build_optimizer(config.optimizer, model)
    stream = segue.Replay(
        torch.arange(len(task.train)),
        num_examples=None,
        batch_size=min(config.batch_size, len(task.train)),
        seed=config.seed,
    )
    num_steps, first = config.num_training_steps, 0
    state = context.load_checkpoint()
    if state is not None:
        first = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        stream.load_state_dict(state["stream"])
        set_random_states(state["random_states"], device)

    for step in range(first, num_steps):
        index = next(stream)
        inputs, labels = task.train.inputs(index, device), task.train.labels[index].to(device)
        rate = learning_rate(
            config.optimizer.learning_rate, step, num_steps, max(1, num_steps // _WARMUP_SHARE)
        )
        _set_rate(optimizer, rate)
        loss = F.cross_entropy(model(inputs), labels)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the domain model's loss is {loss.item()} at step {step}")
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
                    "random_states": get_random_states(device),
                }
            )
    result = evaluate(model, task.test, device)
    bank = segue.Replay(
        task.train,
        num_examples=min(config.num_fisher_examples, len(task.train)),
        batch_size=1,
        seed=config.seed,
        device=device,
    )
    fisher = diagonal_fisher(
        model, bank, kind="true", num_samples=config.num_fisher_samples, seed=config.seed
    )
    return RunResult(
        metrics={
            "source_accuracy": result.accuracy,
            "source_loss": result.loss,
            "fisher_trace": float(sum(value.sum() for value in fisher.diagonal.values())),
        },
        curves={},
        artifact={
            **{_MODEL + name: value for name, value in model.state_dict().items()},
            **{_FISHER + name: value for name, value in fisher.diagonal.items()},
        },
        data_fingerprint=task.fingerprint,
    )


def adapt(config: AdaptationConfig, context: RunContext) -> RunResult:
    """Adapt the domain model, or the checkpoint, to the target with the method of ``config``."""
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
    return run.result()


class _Adaptation:
    """State of one adaptation: everything a checkpoint holds."""

    def __init__(self, config: AdaptationConfig, context: RunContext) -> None:
        self.config, self.method, self.device = config, config.method, context.device
        torch.manual_seed(config.seed)
        artifact = context.artifact(config.source) if config.source is not None else {}
        # Another seed than the domain model's, else a fresh head would be the one it started from.
        lower, self.model = build_network(
            config.network,
            seed=1_000_003 + config.seed,
            keep_pretrained_head=config.shift.from_checkpoint,
        )
        self.task: AdaptationTask = load_adaptation(
            config, lower, context.data_root, context.store.cache, self.device
        )
        self.model.to(self.device)
        self.source_model_accuracy = self._start(_part(artifact, _MODEL))
        self.initial = (
            {name: value.detach().clone() for name, value in self.model.state_dict().items()}
            if self.method.wise_share < 1.0
            else None
        )
        self.model.train()
        self.optimizer = build_optimizer(config.optimizer, self.model)
        self.target = segue.Replay(
            torch.arange(len(self.task.target_train)),
            num_examples=None,
            batch_size=config.batch_size,
            seed=config.seed,
        )
        self.terms = Terms(
            self.method,
            self.model,
            self.task.source_train,
            _part(artifact, _FISHER),
            config.seed,
            self.device,
        )
        self.smoothing = segue.Smoothing(
            build_schedule(self.method.schedule),
            optimizer=self.optimizer,
            model=self.model,
            batch_norm=config.batch_norm,
            sources=self.terms.ramped,
            seed=config.seed,
        )
        self.curves = Curves()
        self.step = 0
        self.counts = {"gradient": 0, "target": 0, "teacher": 0, "head_only": 0}

    def _start(self, weights: Mapping[str, Tensor]) -> float:
        """Load the source model; return its accuracy before anything is drawn anew."""
        test = self.task.source_test
        if not weights:
            # Nobody has labels for what the checkpoint was trained on: its own answers are the
            # reference, and what is measured is how many of them stay.
            logits = predict(self.model, test, self.device, self.model.source_logits)
            test.labels = logits.argmax(dim=1)
            return 1.0
        fresh = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(dict(weights))
        accuracy = evaluate(self.model, test, self.device).accuracy
        if self.method.initialization == "fresh_head":
            kept = {n: fresh[n] if n.startswith("head.") else value for n, value in weights.items()}
            self.model.load_state_dict(kept)
        return accuracy

    def train_step(self) -> None:
        """One optimizer step."""
        config, method = self.config, self.method
        _set_rate(
            self.optimizer,
            learning_rate(
                config.optimizer.learning_rate,
                self.step,
                config.num_target_steps,
                method.num_warmup_steps,
            ),
        )
        index = next(self.target)
        inputs = self.task.target_train.inputs(index, self.device)
        labels = self.task.target_train.labels[index].to(self.device)
        head_only = method.trains_head_only or self.step < method.num_head_first_steps
        self.terms.num_source_examples = self.terms.num_teacher_examples = 0
        embedding = self._embed(inputs, head_only)
        logits = self.model.classify(embedding)

        def target_loss() -> Tensor:
            loss = F.cross_entropy(logits, labels)
            penalty = self.terms.penalty(inputs, embedding)
            return loss if penalty is None else loss + penalty

        loss = self.smoothing.mix(
            source=lambda: self.terms.source_loss(inputs, embedding), target=target_loss
        )
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.counts["target"] += len(labels)
        self.counts["teacher"] += self.terms.num_teacher_examples
        num_trained = len(labels) + self.terms.num_source_examples
        self.counts["head_only" if head_only else "gradient"] += num_trained

    def _embed(self, inputs: Tensor, head_only: bool) -> Tensor:
        if not head_only:
            return self.model.train().embed(inputs)
        # The backbone stays as it was, its batch statistics included.
        self.model.eval()
        self.model.dropout.train()
        with torch.no_grad():
            return self.model.embed(inputs)

    def measure(self) -> None:
        """Add a point to every curve."""
        count = self.config.num_curve_examples
        target = evaluate(self.model, self.task.target_test, self.device, limit=count)
        source = self._evaluate_source(count)
        for side, found in (("target", target), ("source", source)):
            self.curves.add(f"{side}_accuracy", self.step, found.accuracy)
            self.curves.add(f"{side}_loss", self.step, found.loss)
        self.curves.add("source_weight", self.step, self.smoothing.source_weight)

    def _evaluate_source(self, limit: int | None = None) -> Any:
        return evaluate(
            self.model, self.task.source_test, self.device, self.model.source_logits, limit
        )

    def result(self) -> RunResult:
        """Final metrics, on all test examples, and the curves."""
        if self.initial is not None:
            average_weights(self.model, self.initial, self.method.wise_share)
        self.measure()
        target = evaluate(self.model, self.task.target_test, self.device)
        source = self._evaluate_source()
        train = evaluate(self.model, self.task.target_train, self.device)
        accuracies = self.curves.points["target_accuracy"]["value"]
        class_names: str | None = None
        if len(target.confusion) <= _MAX_CONFUSED:
            class_names = json.dumps(self.task.classes)
            for cell, count in enumerate(target.confusion.flatten().tolist()):
                self.curves.add("target_confusion", cell, count)
        return RunResult(
            metrics={
                "target_accuracy": target.accuracy,
                "target_loss": target.loss,
                "source_accuracy": source.accuracy,
                "source_loss": source.loss,
                "target_train_accuracy": train.accuracy,
                "source_model_accuracy": self.source_model_accuracy,
                "target_accuracy_before": accuracies[0],
                "source_accuracy_before": self.curves.points["source_accuracy"]["value"][0],
                "lowest_target_accuracy": min(accuracies[1:]),
                "num_gradient_examples": self.counts["gradient"],
                "num_target_examples_used": self.counts["target"],
                "num_teacher_examples": self.counts["teacher"],
                "num_head_only_examples": self.counts["head_only"],
                "class_names": class_names,
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
            "terms": self.terms.state_dict(),
            "random_states": get_random_states(self.device),
            "curves": self.curves.points,
            "counts": self.counts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.target.load_state_dict(state["target"])
        self.terms.load_state_dict(state["terms"])
        self.smoothing.load_state_dict(state["smoothing"])
        set_random_states(state["random_states"], self.device)
        self.curves.points = state["curves"]
        self.counts = state["counts"]


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _part(artifact: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in artifact.items()
        if name.startswith(prefix)
    }
