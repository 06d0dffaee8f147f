"""The source loss of one micro-batch as a sum over items, whatever the model divides by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.adapters.transformers.source import IGNORED, Source
from segue.losses import LossSum

__all__ = ["SourceLoss"]


class SourceLoss:
    """Counts the items of a source batch and sums their losses.

    Args:
        source: What the user gave.
        shifts_labels: The model predicts label t + 1 at position t.
        divides_by_given_count: The model divides its summed loss by ``num_items_in_batch``.
        forward_arguments: Keyword arguments of every forward pass.
    """

    def __init__(
        self,
        source: Source,
        *,
        shifts_labels: bool,
        divides_by_given_count: bool,
        forward_arguments: Mapping[str, Any],
    ) -> None:
        self._source = source
        self._shifts_labels = shifts_labels
        self._sums = shifts_labels and divides_by_given_count
        self._arguments = dict(forward_arguments)
        if source.normalization == "sequence" and source.compute_loss is None and not shifts_labels:
            raise ValueError(
                "normalization='sequence' without compute_loss needs a causal language model; "
                "pass Source(compute_loss=...)"
            )

    def count(self, batch: Any) -> Tensor:
        """Number of items of ``batch`` as a 0-d int64 tensor: the source's own denominator."""
        if self._source.count_items is not None:
            return torch.as_tensor(self._source.count_items(batch), dtype=torch.int64).reshape(())
        labels = self._labels(batch)
        if self._source.normalization == "sequence":
            return labels.ne(IGNORED).flatten(1).any(dim=1).sum()
        if labels.is_floating_point():
            return torch.tensor(labels.numel(), device=labels.device)
        return labels.ne(IGNORED).sum()

    def total(self, model: Any, batch: Any, count: Tensor) -> Tensor:
        """The summed loss of ``batch``, whose items number ``count``."""
        if self._source.compute_loss is not None:
            return _as_total(self._source.compute_loss(model, batch), count)
        if self._source.normalization == "sequence":
            return self._sum_of_sequence_means(model, batch)
        if self._sums:
            # Transformers' causal loss is the sum over labels divided by what it is given: one.
            outputs = model(**batch, **self._arguments, num_items_in_batch=1)
            return _loss_of(outputs)
        if self._shifts_labels:
            return self._token_losses(model, batch).sum()
        if int(count) == 0:  # the mean of nothing is NaN; a zero with a graph is not
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            nothing: Tensor = model(**inputs, **self._arguments).logits.sum() * 0.0
            return nothing
        return _loss_of(model(**batch, **self._arguments)) * count

    def _labels(self, batch: Any) -> Tensor:
        if isinstance(batch, Mapping) and "shift_labels" in batch:
            shifted: Tensor = batch["shift_labels"]
            return shifted
        if not isinstance(batch, Mapping) or not isinstance(batch.get("labels"), Tensor):
            keys = sorted(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__
            raise ValueError(
                f"a source batch must have labels to count its items by, got {keys}; pass "
                "Source(count_items=...)"
            )
        labels: Tensor = batch["labels"]
        return labels[..., 1:] if self._shifts_labels else labels

    def _token_losses(self, model: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Loss of every label, 0 where it is masked; shape ``(sequences, positions)``."""
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "shift_labels")}
        logits = model(**inputs, **self._arguments).logits
        if "shift_labels" not in batch:
            logits = logits[..., :-1, :]
        labels = self._labels(batch)
        losses = F.cross_entropy(
            logits.flatten(0, -2).float(),
            labels.flatten(),
            ignore_index=IGNORED,
            reduction="none",
        )
        return losses.view(labels.shape)

    def _sum_of_sequence_means(self, model: Any, batch: Mapping[str, Tensor]) -> Tensor:
        lengths = self._labels(batch).ne(IGNORED).sum(dim=-1)
        sums = self._token_losses(model, batch).sum(dim=-1)
        return (sums / lengths.clamp(min=1)).sum()


def _as_total(loss: Any, count: Tensor) -> Tensor:
    if isinstance(loss, LossSum):
        if int(loss.count) != int(count):
            raise ValueError(
                f"the source's compute_loss summed {int(loss.count)} items where {int(count)} were "
                "counted; pass Source(count_items=...) so that both count the same"
            )
        return loss.total.reshape(())
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise TypeError(
            "the source's compute_loss must return a scalar tensor or a segue.LossSum, "
            f"got {tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__}"
        )
    return loss.reshape(()) * count


def _loss_of(outputs: Any) -> Tensor:
    loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs[0]
    if not isinstance(loss, Tensor):
        raise ValueError(
            "the model returned no loss for a source batch; its collator must give labels, or pass "
            "Source(compute_loss=...)"
        )
    return loss.reshape(())
