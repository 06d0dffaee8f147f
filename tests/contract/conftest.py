"""The table of the contract: every schedule and every source there is. A new one is a new row.

A row makes a fresh object at each call, so that a test may use as many as it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import segue
from segue.sources.anchor import L2SP
from segue.sources.distillation import Distillation
from segue.sources.ewc import EWC
from segue.sources.fisher import diagonal_fisher
from segue.sources.synthetic import synthetic_text

K = 6


@dataclass(frozen=True)
class ScheduleRow:
    """A schedule, and its weights at steps 0, 3, K - 1, K and K + 1 by hand."""

    make: Callable[[], segue.Schedule]
    weights: tuple[float, float, float, float, float]
    ends: bool  # the weight is 0 for good from step K on


SCHEDULES = {
    "hard_switch": ScheduleRow(segue.hard_switch, (0, 0, 0, 0, 0), True),
    "constant": ScheduleRow(lambda: segue.constant(0.3), (0.3, 0.3, 0.3, 0.3, 0.3), False),
    "linear": ScheduleRow(lambda: segue.linear_decay(K), (1, 0.5, 1 / 6, 0, 0), True),
    "linear with a floor": ScheduleRow(
        lambda: segue.linear_decay(K, final_weight=0.1), (1, 0.55, 0.25, 0.1, 0.1), False
    ),
    "linear from below": ScheduleRow(
        lambda: segue.linear_decay(K, initial_weight=0.6), (0.6, 0.3, 0.1, 0, 0), True
    ),
    "cosine": ScheduleRow(lambda: segue.cosine_decay(K), (1, 0.5, 0.066987298107781, 0, 0), True),
    "polynomial": ScheduleRow(lambda: segue.polynomial_decay(K), (1, 0.25, 1 / 36, 0, 0), True),
    "exponential": ScheduleRow(
        lambda: segue.exponential_decay(K), (1, 0.075858180021244, 0.008825371485239, 0, 0), True
    ),
    "sigmoid": ScheduleRow(lambda: segue.sigmoid_decay(K), (1, 0.5, 0.028128869401066, 0, 0), True),
    "join": ScheduleRow(
        lambda: segue.join([segue.linear_decay(2), segue.linear_decay(K - 3)], [3]),
        (1, 1, 1 / 3, 0, 0),
        True,
    ),
}


@dataclass(frozen=True)
class SourceRow:
    """A source term: how to make it for a model, and how to get its loss."""

    make: Callable[[nn.Module], Any]
    loss: Callable[[nn.Module, Any], Tensor]


def _bank() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(20, 4, generator=generator, dtype=torch.float64),
        "y": torch.randint(0, 3, (20,), generator=generator),
    }


def _replay_loss(model: nn.Module, replay: segue.Replay) -> Tensor:
    batch = next(replay)
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def _masking(examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    batch = torch.utils.data.default_collate(examples)
    return {"x": batch["x"] * (torch.rand_like(batch["x"]) > 0.2), "y": batch["y"]}


class _Language(nn.Module):
    """A source language model over three tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.tensor(((0, 1, 2), (2, 0, 1), (1, 2, 0.0))))

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.table(ids)
        return logits


def _synthetic(_: nn.Module) -> segue.Replay:
    text = synthetic_text(
        _Language(), num_examples=10, num_tokens=5, prompts=torch.arange(3).unsqueeze(1), seed=4
    )
    return segue.Replay(text, num_examples=None, batch_size=4)


def _next_token_loss(model: nn.Module, replay: segue.Replay) -> Tensor:
    ids = next(replay)["input_ids"]
    inputs = nn.functional.one_hot(ids[:, :-1].flatten(), 4).double()
    return nn.functional.cross_entropy(model(inputs), ids[:, 1:].flatten())


class _Both:
    """Replay and an anchor: terms add up, and each keeps its own state."""

    def __init__(self, model: nn.Module) -> None:
        self.replay = segue.Replay(_bank(), num_examples=10, batch_size=4)
        self.anchor = L2SP(model, scale=0.5)

    def release(self) -> None:
        self.replay.release()
        self.anchor.release()

    def state_dict(self) -> dict[str, Any]:
        return {"replay": self.replay.state_dict(), "anchor": self.anchor.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.replay.load_state_dict(state["replay"])
        self.anchor.load_state_dict(state["anchor"])


def _ewc(kind: Any) -> Callable[[nn.Module], EWC]:
    def make(model: nn.Module) -> EWC:
        bank = _bank()
        fisher = diagonal_fisher(model, (bank["x"], bank["y"]), kind=kind)
        return EWC(model, scale=0.5, fisher=fisher)

    return make


def _distillation(**settings: Any) -> SourceRow:
    return SourceRow(
        lambda model: Distillation(model, scale=0.5, **settings),
        lambda _, distillation: distillation(_bank()["x"]),
    )


SOURCES = {
    "replay": SourceRow(
        lambda _: segue.Replay(_bank(), num_examples=10, batch_size=4), _replay_loss
    ),
    "replay with a masking collator": SourceRow(
        lambda _: segue.Replay(_bank(), num_examples=10, batch_size=4, collate_fn=_masking),
        _replay_loss,
    ),
    "anchor": SourceRow(lambda model: L2SP(model, scale=0.5), lambda _, anchor: anchor()),
    "EWC, true Fisher": SourceRow(_ewc("true"), lambda _, anchor: anchor()),
    "EWC, empirical Fisher": SourceRow(_ewc("empirical"), lambda _, anchor: anchor()),
    "distillation of logits": _distillation(temperature=2.0),
    "distillation of features": _distillation(kind="features"),
    "synthetic replay": SourceRow(_synthetic, _next_token_loss),
    "replay and anchor": SourceRow(
        _Both, lambda model, both: _replay_loss(model, both.replay) + both.anchor()
    ),
}


@pytest.fixture
def schedule_table() -> dict[str, ScheduleRow]:
    return SCHEDULES


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, table in (("schedule_row", SCHEDULES), ("source_row", SOURCES)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, table.values(), ids=table.keys())
