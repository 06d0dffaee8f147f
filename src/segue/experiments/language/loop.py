"""Parts of the training loops: losses, learning rate, evaluation, answers, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segue
from segue.experiments.language.config import OptimizerConfig
from segue.experiments.language.tokens import IGNORED, Prompt, TokenSet, final_number
from segue.experiments.training import seconds_per_pass

__all__ = [
    "build_optimizer", "count_tokens", "evaluate", "evaluation_steps", "exact_match",
    "loss_sum", "row_losses", "seconds_per_sequence", "set_weights", "weights_of",
]  # fmt: skip

_EVALUATION_BATCH = 32
_BETAS = (0.9, 0.95)


def _token_losses(model: nn.Module, batch: TokenSet) -> tuple[Tensor, Tensor]:
    """Losses of the predictions of positions 1 and later, and which of them count."""
    logits = model(input_ids=batch.tokens).logits[:, :-1]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labels = batch.labels[:, 1:]
    losses = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view_as(labels), labels != IGNORED


def loss_sum(model: nn.Module, batch: TokenSet) -> segue.LossSum:
    """Summed loss of the tokens that count, with their number: the mean is over tokens."""
    losses, counted = _token_losses(model, batch)
    return segue.LossSum(losses.sum(), counted.sum())


def row_losses(model: nn.Module, batch: TokenSet, expected: Tensor) -> Tensor:
    """One loss per sequence: its summed loss over the *expected* number of tokens, shape (N,).

    A number that does not depend on the draw, so that a mixed batch is unbiased for token means.
    """
    losses, _ = _token_losses(model, batch)
    return losses.sum(dim=1) / expected


def count_tokens(batch: TokenSet) -> int:
    """How many predictions of a batch its loss counts."""
    return int((batch.labels[:, 1:] != IGNORED).sum())


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW over the parameters of ``model`` that are trained."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        trained, lr=config.learning_rate, betas=_BETAS, weight_decay=config.weight_decay
    )


@torch.no_grad()
def evaluate(
    model: nn.Module, data: TokenSet, batch_size: int = _EVALUATION_BATCH
) -> tuple[float, float]:
    """Return the mean loss and the share of right greedy predictions, both over tokens that count.

    Args:
        model: Left in the mode it was in.
        data: Sequences, on the model's device.
        batch_size: Sequences at a time.
    """
    training = model.training
    model.eval()
    loss, num_right, number = 0.0, 0, 0
    for start in range(0, len(data.tokens), batch_size):
        batch = TokenSet(*(part[start : start + batch_size] for part in data))
        logits = model(input_ids=batch.tokens).logits[:, :-1].float()
        labels = batch.labels[:, 1:]
        losses = F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        loss += float(losses.item())
        num_right += int(((logits.argmax(dim=-1) == labels) & (labels != IGNORED)).sum())
        number += count_tokens(batch)
    model.train(training)
    return loss / max(number, 1), num_right / max(number, 1)


@torch.no_grad()
def exact_match(
    model: Any, prompts: Sequence[Prompt], tokenizer: Any, max_length: int
) -> float | None:
    """Share of problems whose greedy answer gives the right number after ``####``.

    None without prompts. Answers end with the end token, or at ``max_length`` tokens with the prompt.
    """
    if not prompts:
        return None
    training, device = model.training, next(model.parameters()).device
    model.eval()
    num_right = 0
    # Sorted by length, so that a batch has little padding; on the left, where answers do not grow.
    ordered = sorted(prompts, key=lambda prompt: len(prompt.tokens))
    for start in range(0, len(ordered), _EVALUATION_BATCH):
        batch = ordered[start : start + _EVALUATION_BATCH]
        width = len(batch[-1].tokens)
        rows = [[0] * (width - len(prompt.tokens)) + list(prompt.tokens) for prompt in batch]
        seen = [[0] * (width - len(prompt.tokens)) + [1] * len(prompt.tokens) for prompt in batch]
        written = model.generate(
            input_ids=torch.tensor(rows, device=device),
            attention_mask=torch.tensor(seen, device=device),
            max_new_tokens=max(max_length - width, 1),
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
            eos_token_id=0,
        )
        answers = tokenizer.decode_batch(written[:, width:].tolist(), skip_special_tokens=True)
        num_right += sum(
            final_number(answer) == prompt.number
            for answer, prompt in zip(answers, batch, strict=True)
        )
    model.train(training)
    return num_right / len(prompts)


def evaluation_steps(num_steps: int) -> list[int]:
    """Steps at which curves have a point: dense after the switch, where the jolt is, then sparse.

    >>> evaluation_steps(160)
    [0, 1, 3, 10, 20, 40, 80, 120, 160]
    """
    late = [round(num_steps * eighth / 8) for eighth in (1, 2, 4, 6, 8)]
    return sorted({step for step in [0, 1, 3, 10, *late] if step <= num_steps})


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter by name, tied ones once."""
    return {name: value.detach() for name, value in model.named_parameters()}


@torch.no_grad()
def set_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy ``weights`` into the parameters of ``model``.

    Raises:
        ValueError: If the names or a shape differ.
    """
    parameters = dict(model.named_parameters())
    differing = sorted(set(parameters) ^ set(weights))
    differing += [
        name
        for name, value in weights.items()
        if name in parameters and parameters[name].shape != value.shape
    ]
    if differing:
        raise ValueError(f"weights must be those of this model; these differ: {differing[:5]}")
    for name, value in weights.items():
        parameters[name].copy_(value)


def seconds_per_sequence(model: nn.Module, vocab_size: int, length: int) -> float:
    """Measure one core's time for the forward and backward pass of a sequence of random tokens."""
    size = 8
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, (size, length), generator=generator)

    def loss() -> Tensor:
        part = loss_sum(model, TokenSet(tokens, tokens))
        return part.total / part.count

    return seconds_per_pass(loss) / size
