"""Synthetic replay: text that the source language model writes stands for the text it was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from segue.checks import check_at_least_one, check_count, check_positive
from segue.randomness import OwnRandomState, derived_seed, own_global_random_states

__all__ = ["synthetic_text"]

IGNORED = -100  # PyTorch's label that no loss counts


def synthetic_text(
    model: nn.Module,
    *,
    num_examples: int,
    num_tokens: int,
    batch_size: int = 16,
    prompts: Tensor | None = None,
    temperature: float = 1.0,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Sample texts from a language model, to be the bank of a :class:`segue.Replay`.

    Make it before the switch, while ``model`` is the source model. Text is drawn from the model's own
    distribution: no top-k, nucleus, beam or repetition penalty, whatever its generation config says.
    The model passes in evaluation mode; its modes and the random states are afterwards what they
    were, and the text depends on model, ``seed`` and ``batch_size`` (and the type of processor) alone.

    Args:
        model: A causal language model: either with the ``generate`` of Transformers, or any network
            that gives logits of shape (batch, length, vocabulary), or an output with ``logits``, for
            token ids of shape (batch, length).
        num_examples: Texts to sample.
        num_tokens: Tokens sampled per text, after the prompt.
        batch_size: Texts sampled at a time.
        prompts: Token ids that the texts begin with, shape (prompts, length), used in turn. None
            begins with the model's ``bos_token_id``.
        temperature: 1 samples from the model's distribution; less is safer and less varied.
        eos_token_id: Token after which a text ends; the model's own if None, and -1 for none.
        pad_token_id: Token that fills up ended texts; the end token if None.
        seed: Of the sampling.

    Returns:
        ``input_ids``, ``attention_mask`` (0 after the end of a text) and ``labels`` (-100 for the
        prompt and after the end), each of shape (num_examples, prompt length + num_tokens), on the
        CPU.

    Raises:
        ValueError: If a number is out of range, or the model names no first token and there are no
            prompts.
        TypeError: If ``prompts`` are no token ids, or the model gives no logits.

    Cost: ``num_examples`` * ``num_tokens`` tokens of generation, once; memory: three integers a token.

    Source: generative replay, Shin et al., arXiv 1705.08690; from a language model itself, Sun, Ho and
    Lee, arXiv 1909.03329.
    """
    for name, value in (
        ("num_examples", num_examples),
        ("num_tokens", num_tokens),
        ("batch_size", batch_size),
    ):
        check_at_least_one(name, value)
    check_positive("temperature", temperature)
    check_count("seed", seed)
    eos = _token(model, "eos_token_id") if eos_token_id is None else eos_token_id
    eos = None if eos is None or eos < 0 else eos
    pad = pad_token_id if pad_token_id is not None else (eos or 0)
    starts = _starts(model, prompts)
    starts = starts[torch.arange(num_examples) % len(starts)]
    sample = _sample_with_generate if _has_generate(model) else _sample_step_by_step
    texts = []
    with _undisturbed(model, seed):
        for first in range(0, num_examples, batch_size):
            batch = starts[first : first + batch_size].to(_device(model))
            ids = sample(model, batch, num_tokens, temperature, eos, pad).cpu()
            missing = starts.shape[1] + num_tokens - ids.shape[1]  # if all texts ended early
            texts.append(torch.nn.functional.pad(ids, (0, missing), value=pad))
    return _with_masks(torch.cat(texts), starts.shape[1], eos, pad)


def _with_masks(
    ids: Tensor, num_prompt_tokens: int, eos: int | None, pad: int
) -> dict[str, Tensor]:
    sampled = ids[:, num_prompt_tokens:]
    ended = torch.zeros_like(sampled, dtype=torch.bool)
    if eos is not None:
        is_end = (sampled == eos).long()
        # The end token itself belongs to the text: the model is to keep ending its texts.
        ended = is_end.cumsum(dim=1) - is_end > 0
    after = torch.cat([torch.zeros_like(ids[:, :num_prompt_tokens], dtype=torch.bool), ended], 1)
    ids = ids.masked_fill(after, pad)
    labels = ids.masked_fill(after, IGNORED)
    labels[:, :num_prompt_tokens] = IGNORED
    return {"input_ids": ids, "attention_mask": (~after).long(), "labels": labels}


def _has_generate(model: nn.Module) -> bool:
    return callable(getattr(model, "generate", None)) and hasattr(model, "generation_config")


def _sample_with_generate(
    model: Any, start: Tensor, num_tokens: int, temperature: float, eos: int | None, pad: int
) -> Tensor:
    # What a call leaves open is filled in from the model's own config, which may forbid repetitions
    # or end texts early: a neutral one stands in for it meanwhile.
    config = model.generation_config
    model.generation_config = type(config)()
    try:
        ids: Tensor = model.generate(
            input_ids=start,
            attention_mask=torch.ones_like(start),
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=num_tokens,
            eos_token_id=eos,
            pad_token_id=pad,
        )
    finally:
        model.generation_config = config
    return ids


def _sample_step_by_step(
    model: nn.Module, ids: Tensor, num_tokens: int, temperature: float, eos: int | None, pad: int
) -> Tensor:
    for _ in range(num_tokens):
        output = model(ids)
        logits = getattr(output, "logits", output)
        if not isinstance(logits, Tensor) or logits.ndim != 3:
            raise TypeError(
                "model must give logits of shape (batch, length, vocabulary), got "
                f"{tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__}"
            )
        probabilities = (logits[:, -1].float() / temperature).softmax(dim=-1)
        ids = torch.cat([ids, torch.multinomial(probabilities, 1)], dim=1)
    return ids


def _starts(model: nn.Module, prompts: Tensor | None) -> Tensor:
    if prompts is None:
        first = _token(model, "bos_token_id")
        if first is None:
            raise ValueError(
                "prompts must be given for a model without bos_token_id, got None; pass token ids "
                "of shape (prompts, length), such as first words of texts"
            )
        return torch.tensor([[first]])
    if not isinstance(prompts, Tensor) or prompts.is_floating_point():
        raise TypeError(
            f"prompts must be a tensor of token ids, got {getattr(prompts, 'dtype', type(prompts))}"
        )
    if prompts.ndim != 2 or prompts.numel() == 0:
        raise ValueError(f"prompts must have shape (prompts, length), got {tuple(prompts.shape)}")
    return prompts.detach().long().cpu()


def _token(model: nn.Module, name: str) -> int | None:
    for owner in ("generation_config", "config"):
        value = getattr(getattr(model, owner, None), name, None)
        if isinstance(value, list | tuple) and value:
            value = value[0]
        if isinstance(value, int):
            return value
    return None


def _device(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


@contextmanager
def _undisturbed(model: nn.Module, seed: int) -> Iterator[None]:
    """Evaluation mode, no gradients, random states of our own; all is as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    own = OwnRandomState(derived_seed("synthetic text", seed))
    seeded = own_global_random_states(derived_seed("synthetic text", seed))
    try:
        model.eval()
        with torch.no_grad(), seeded, own.in_use():
            yield
    finally:
        for module, training in modes:
            module.training = training
