"""The training loops, the same for all methods; every run resumes bit-identical from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import segue
from segue.experiments.language.config import FineTuningConfig, PretrainingConfig
from segue.experiments.language.corpus import TARGETS
from segue.experiments.language.fine_tuning import FineTuning, apply_step
from segue.experiments.language.loop import (
    build_optimizer,
    evaluate,
    loss_sum,
    set_weights,
    weights_of,
)
from segue.experiments.language.models import build_model
from segue.experiments.language.task import load_task
from segue.experiments.training import Curves
from segue.runs.execution import RunResult

if TYPE_CHECKING:
    from segue.runs.execution import RunContext

__all__ = ["fine_tune", "pretrain", "weights_at"]


def pretrain(config: PretrainingConfig, context: RunContext) -> RunResult:
    """Pretrain the model of ``config.seed``; its weights at every budget are the run's artifact."""
    device, model_config = context.device, config.model
    task = load_task(
        TARGETS[0],  # the source is the same whatever the target
        model_config.vocab_size,
        model_config.max_length,
        context.data_root,
        context.store.cache,
    )
    held_out = task.source["test"].to(device)
    model = build_model(model_config, seed=config.seed, device=device).train()
    optimizer = build_optimizer(config.optimizer, model)
    stream = segue.Replay(
        task.source["train"], num_examples=None, batch_size=config.batch_size, seed=config.seed
    )
    curves, snapshots, first = Curves(), dict[str, Tensor](), 0
    num_steps = config.checkpoint_steps[-1]
    state = context.load_checkpoint()
    if state is not None:
        first, curves.points, snapshots = state["step"], state["curves"], state["snapshots"]
        set_weights(model, state["model"])
        optimizer.load_state_dict(state["optimizer"])
        stream.load_state_dict(state["stream"])
    for step in range(first, num_steps):
        rise = min(1.0, (step + 1) / max(config.num_warmup_steps, 1))
        for group in optimizer.param_groups:
            group["lr"] = config.optimizer.learning_rate * rise
        part = loss_sum(model, next(stream).to(device))
        loss = part.total / part.count
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the pretraining loss is {loss.item()} at step {step}")
        loss.backward()  # type: ignore[no-untyped-call]
        apply_step(optimizer, model, config.optimizer.max_gradient_norm)
        if step + 1 in config.checkpoint_steps:
            curves.add("source_loss", step + 1, evaluate(model, held_out)[0])
            curves.add("source_train_loss", step + 1, float(loss.item()))
            for name, value in weights_of(model).items():
                snapshots[f"{step + 1:08d}/{name}"] = value.cpu().clone()
        context.progress(step + 1, num_steps)
        if context.should_checkpoint(step + 1):
            context.save_checkpoint(
                {
                    "step": step + 1,
                    "model": weights_of(model),
                    "optimizer": optimizer.state_dict(),
                    "stream": stream.state_dict(),
                    "curves": curves.points,
                    "snapshots": snapshots,
                }
            )
    return RunResult(
        metrics={
            "source_loss": curves.points["source_loss"]["value"][-1],
            "num_tokens": config.num_tokens(num_steps),
            "num_passes": num_steps * config.batch_size / len(task.source["train"].tokens),
            "num_parameters": model_config.num_parameters,
        },
        curves=curves.points,
        artifact=snapshots,
        data_fingerprint=task.fingerprint,
    )


def weights_at(artifact: Mapping[str, Tensor], num_steps: int) -> dict[str, Tensor]:
    """The weights that a pretraining had after ``num_steps`` optimizer steps."""
    prefix = f"{num_steps:08d}/"
    found = {
        name.removeprefix(prefix): value
        for name, value in artifact.items()
        if name.startswith(prefix)
    }
    if not found:
        raise ValueError(
            f"num_pretraining_steps must be a checkpoint of the source, got {num_steps}"
        )
    return found


def fine_tune(config: FineTuningConfig, context: RunContext) -> RunResult:
    """Fine-tune the source checkpoint on the target with the method of ``config``."""
    size = config.source.model
    task = load_task(
        config.shift.name,
        size.vocab_size,
        size.max_length,
        context.data_root,
        context.store.cache,
    )
    model = build_model(size, seed=config.seed, device=context.device)
    weights = context.artifact(config.source)
    set_weights(model, weights_at(weights, config.num_pretraining_steps))
    run = FineTuning(config, task, model, context.device)
    result = run.execute(context)
    num_tokens = config.source.num_tokens(config.num_pretraining_steps)
    return replace(
        result,
        metrics={**result.metrics, "num_pretraining_tokens": num_tokens},
        artifact=weights_of(run.model) if config.keep_weights else None,
    )
