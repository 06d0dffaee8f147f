"""One fine-tuning: the same loop for every method, bit-identical when resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import segue
from segue.experiments.language.loop import (
    build_optimizer,
    count_tokens,
    evaluate,
    evaluation_steps,
    exact_match,
    loss_sum,
    row_losses,
    set_weights,
    weights_of,
)
from segue.experiments.language.methods import build_schedule
from segue.experiments.language.models import add_lora
from segue.experiments.language.task import Task
from segue.experiments.language.tokens import TokenSet
from segue.experiments.training import Curves, learning_rate
from segue.runs.execution import RunResult
from segue.sources.anchor import L2SP

if TYPE_CHECKING:
    from segue.experiments.language.config import FineTuningConfig
    from segue.experiments.language.paper import PaperConfig
    from segue.runs.execution import RunContext

__all__ = ["FineTuning", "apply_step"]

_COUNTS = (
    "num_gradient_examples", "num_gradient_tokens", "num_target_examples_used",
    "num_target_tokens_used", "num_source_tokens_used",
)  # fmt: skip


def apply_step(optimizer: torch.optim.Optimizer, model: nn.Module, max_norm: float) -> None:
    """Scale the gradient down to ``max_norm`` over all parameters, step and clear it."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    optimizer.zero_grad()


class FineTuning:
    """State of one fine-tuning: everything a checkpoint holds.

    Args:
        config: Settings.
        task: Source and target sequences.
        model: With the source's weights, on ``device``; trained in place.
        device: Where it trains.
        autocast: Type to compute in under automatic mixed precision; None for that of the weights.
    """

    def __init__(
        self,
        config: FineTuningConfig | PaperConfig,
        task: Task,
        model: nn.Module,
        device: str = "cpu",
        autocast: torch.dtype | None = None,
    ) -> None:
        self.config, self.method, self.task = config, config.method, task
        self.device, self.autocast = device, autocast
        self.target_test = self._held_out(task.target[config.split])
        self.source_test = self._held_out(task.source["test"])
        torch.manual_seed(config.seed)
        weight_dtype = next(model.parameters()).dtype
        self.loss_dtype = torch.promote_types(weight_dtype, torch.float32)
        # What can be forgotten, before anything is trained or added.
        self.model = model
        self.source_model_scores = self._evaluate(self.source_test)
        if self.method.lora_rank:
            self.model = add_lora(model, self.method.lora_rank, seed=config.seed)
        self.model.train()
        self.optimizer = build_optimizer(config.optimizer, self.model)
        train = task.target["train"]
        self.target = self._stream(train, config.num_target_examples, config.batch_size)
        self.replay: segue.Replay | None = None
        if self.method.uses_source_data:
            self.replay = self._stream(
                task.source["train"], self.method.num_bank_examples, self.method.replay_batch_size
            )
        self.penalty = L2SP(self.model, scale=s) if (s := self.method.l2sp_scale) else None
        self.anchor = L2SP(self.model, scale=s) if (s := self.method.anchor_scale) else None
        self.smoothing = segue.Smoothing(
            build_schedule(self.method.schedule),
            optimizer=self.optimizer,
            sources=[term for term in (self.replay, self.anchor) if term is not None],
            seed=config.seed,
        )
        # Expected tokens of a sequence, per side: what mixed batches divide by.
        length = train.tokens.shape[1]
        self.expected = count_tokens(train) / len(train.tokens), float(length - 1)
        self.curves, self.step = Curves(), 0
        self.counts = dict.fromkeys(_COUNTS, 0)

    def execute(self, context: RunContext) -> RunResult:
        """Train to the end, from the checkpoint of this run if there is one."""
        state = context.load_checkpoint()
        if state is not None:
            self.load_state_dict(state)
        num_steps = self.config.num_target_steps
        when = set(evaluation_steps(num_steps))
        for step in range(self.step, num_steps):
            if step in when:
                self.measure()
            self.train_step()
            context.progress(step + 1, num_steps)
            if context.should_checkpoint(step + 1):
                context.save_checkpoint(self.state_dict())
        self.measure()
        return self.result()

    def train_step(self) -> None:
        """One optimizer step: all micro-batches of its window, then the optimizer."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                config.optimizer.learning_rate,
                self.step,
                config.num_target_steps,
                self.method.num_warmup_steps,
            )
        window = [next(self.target) for _ in range(config.num_micro_batches)]
        mixing = self.method.mode == "mixed" and not self.smoothing.finished
        if mixing and self.replay is not None:
            losses = (self._mixed_loss(batch) / len(window) for batch in window)
        else:
            losses = self._separate_losses(window)
        for loss in losses:
            loss.backward()  # type: ignore[no-untyped-call]
        apply_step(self.optimizer, self.model, config.optimizer.max_gradient_norm)
        self.step += 1

    def _separate_losses(self, window: list[TokenSet]) -> Any:
        """Blended losses of the micro-batches, whose sum has both token means of the window."""
        replayed: list[TokenSet | None] = [None] * len(window)
        if self.replay is not None and self.smoothing.source_weight > 0.0:
            replayed = [next(self.replay) for _ in window]
        num_target = sum(map(count_tokens, window))
        num_source = sum(count_tokens(batch) for batch in replayed if batch is not None)
        for number, (batch, source) in enumerate(zip(window, replayed, strict=True)):
            is_first = number == 0  # what does not depend on the batch enters a window once

            def target_loss(
                batch: TokenSet = batch, is_first: bool = is_first
            ) -> segue.LossSum | Tensor:
                part = self._part(batch, num_target)
                if self.penalty is None or not is_first:
                    return part
                return part.total / max(num_target, 1) + self.penalty()

            def source_loss(
                source: TokenSet | None = source, is_first: bool = is_first
            ) -> segue.LossSum | Tensor:
                if source is not None:
                    self._count("source", source)
                    return self._part(source, num_source)
                if self.anchor is not None and is_first:
                    return self.anchor()
                return torch.zeros((), device=self.device, dtype=self.loss_dtype)

            self._count("target", batch)
            yield self.smoothing.mix(source=source_loss, target=target_loss)

    def _part(self, batch: TokenSet, num_tokens: int) -> segue.LossSum:
        """This batch's part of a mean over the ``num_tokens`` tokens of a window."""
        with self._precision():
            part = loss_sum(self.model, batch.to(self.device))
        return segue.LossSum(part.total, part.count, num_tokens)

    def _mixed_loss(self, batch: TokenSet) -> Tensor:
        assert self.replay is not None
        blend = self.smoothing.blend(target=batch, source=self.replay, mode="mixed")
        mixed: TokenSet = blend.batch
        num_target = blend.num_target
        expected = torch.full((len(mixed.tokens),), self.expected[0], device=self.device)
        expected[num_target:] = self.expected[1]
        self._count("target", TokenSet(*(part[:num_target] for part in mixed)))
        self._count("source", TokenSet(*(part[num_target:] for part in mixed)))
        with self._precision():
            losses = row_losses(self.model, mixed.to(self.device), expected)
        return blend.loss(losses)

    def _count(self, side: str, batch: TokenSet) -> None:
        self.counts["num_gradient_examples"] += len(batch.tokens)
        self.counts["num_gradient_tokens"] += batch.tokens.numel()
        self.counts[f"num_{side}_tokens_used"] += count_tokens(batch)
        if side == "target":
            self.counts["num_target_examples_used"] += len(batch.tokens)

    def _stream(self, data: TokenSet, number: int | None, batch_size: int) -> segue.Replay:
        return segue.Replay(
            data,
            num_examples=number,
            batch_size=batch_size,
            seed=self.config.seed,
            num_micro_batches=self.config.num_micro_batches,
        )

    def _held_out(self, data: TokenSet) -> TokenSet:
        return data.subset(self.config.num_test_examples).to(self.device)

    def _precision(self) -> torch.autocast:
        kind = torch.device(self.device).type
        return torch.autocast(kind, dtype=self.autocast, enabled=self.autocast is not None)

    def _evaluate(self, data: TokenSet) -> tuple[float, float]:
        size = self.config.batch_size // self.config.num_micro_batches
        with self._precision():
            return evaluate(self.model, data, size)

    def measure(self) -> None:
        """Add a point to every curve."""
        for side, data in (("target", self.target_test), ("source", self.source_test)):
            loss, accuracy = self._evaluate(data.subset(self.config.num_curve_examples))
            self.curves.add(f"{side}_loss", self.step, loss)
            self.curves.add(f"{side}_accuracy", self.step, accuracy)
        self.curves.add("source_weight", self.step, self.smoothing.source_weight)

    def result(self) -> RunResult:
        """Final metrics, on all held-out sequences, and the curves."""
        points, before = self.curves.points, self.source_model_scores
        target, source = (self._evaluate(data) for data in (self.target_test, self.source_test))
        train = self.task.target["train"].subset(self.config.num_curve_examples).to(self.device)
        return RunResult(
            metrics={
                "target_loss": target[0],
                "target_accuracy": target[1],
                "target_exact_match": self._exact_match(),
                "source_loss": source[0],
                "source_accuracy": source[1],
                "source_model_loss": before[0],
                "source_model_accuracy": before[1],
                "forgetting_nats": source[0] - before[0],
                "target_train_loss": self._evaluate(train)[0],
                "target_loss_before": points["target_loss"]["value"][0],
                "target_accuracy_before": points["target_accuracy"]["value"][0],
                "source_accuracy_before": points["source_accuracy"]["value"][0],
                "highest_target_loss": max(points["target_loss"]["value"][1:]),
                "lowest_target_accuracy": min(points["target_accuracy"]["value"][1:]),
                **self.counts,
            },
            curves=points,
            artifact=None,
            data_fingerprint=self.task.fingerprint,
            weights=weights_of(self.model),
        )

    def _exact_match(self) -> float | None:
        """Generated answers, only where they are reported: with verdicts."""
        if self.config.split != "test" or not self.config.num_generated_answers:
            return None
        prompts = self.task.prompts.get("test", ())[: self.config.num_generated_answers]
        if not prompts:
            return None
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self.task.tokenizer)
        return exact_match(self.model, prompts, tokenizer, self.target_test.tokens.shape[1])

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            "step": self.step,
            "model": weights_of(self.model),
            "optimizer": self.optimizer.state_dict(),
            "smoothing": self.smoothing.state_dict(),
            "target": self.target.state_dict(),
            **{
                name: None if term is None else term.state_dict()
                for name, term in self._optional_terms().items()
            },
            "random_state": torch.get_rng_state(),
            "curves": self.curves.points,
            "counts": self.counts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        self.step = state["step"]
        set_weights(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.target.load_state_dict(state["target"])
        for name, term in self._optional_terms().items():
            if term is not None:
                term.load_state_dict(state[name])
        self.smoothing.load_state_dict(state["smoothing"])
        torch.set_rng_state(state["random_state"])
        self.curves.points, self.counts = state["curves"], state["counts"]

    def _optional_terms(self) -> dict[str, segue.Replay | L2SP | None]:
        return {"replay": self.replay, "penalty": self.penalty, "anchor": self.anchor}
