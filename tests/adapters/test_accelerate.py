"""One process under Accelerate: windows, clock, masks, checkpoints, wrong arguments."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import segue
from segue.runs.checkpoint import load_checkpoint, save_checkpoint

pytest.importorskip("accelerate")

from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from segue.adapters.accelerate import AcceleratedSmoothing
from segue.adapters.accelerate.smoothing import _check_accelerator

IGNORED = -100


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def data(seed: int, number: int = 20, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (number,), generator=generator)
    labels[:: seed + 2] = IGNORED
    return torch.randn(number, 4, generator=generator, dtype=dtype), labels


def num_items(batch: Any) -> Tensor:
    return (batch[1] != IGNORED).sum()


class Loop:
    """A prepared model, optimizer and loader of batches of two, and what smooths them."""

    def __init__(
        self,
        schedule: segue.Schedule,
        num_micro_batches: int = 1,
        *,
        scale: float | None = None,
        dtype: torch.dtype = torch.float64,
        target: tuple[Tensor, Tensor] | None = None,
        **options: Any,
    ) -> None:
        GradientState._reset_state()
        self.accelerator = Accelerator(cpu=True, gradient_accumulation_steps=num_micro_batches)
        if scale is not None:  # Accelerate makes one itself for float16, which needs a GPU
            self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 3)).to(dtype)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        loader = DataLoader(TensorDataset(*(data(2, dtype=dtype) if target is None else target)), 2)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(
            self.model, optimizer, loader
        )
        settings: dict[str, Any] = {
            "source": data(1, dtype=dtype),
            "source_batch_size": 4,
            "num_examples": 12,
            "source_count": num_items,
            "target_count": num_items,
            **options,
        }
        self.smoothing = AcceleratedSmoothing(
            self.accelerator, schedule, model=self.model, optimizer=self.optimizer, **settings
        )

    def loss_sum(self, batch: Any) -> segue.LossSum:
        losses = nn.functional.cross_entropy(
            self.model(batch[0]), batch[1], reduction="none", ignore_index=IGNORED
        )
        return segue.LossSum(losses.sum(), num_items(batch))

    def loss_mean(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1], ignore_index=IGNORED)

    def epoch(self, *, mean: bool = False) -> list[float]:
        loss, trace = self.loss_mean if mean else self.loss_sum, []
        for window in self.smoothing.windows(self.loader):
            trace.append(self.smoothing.source_weight)
            window.backward(source=loss, target=loss)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return trace

    def weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.model.parameters()]


def test_the_hard_switch_is_bitwise_the_plain_loop_random_states_included() -> None:
    smoothed = Loop(segue.hard_switch())
    smoothed.epoch()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    plain = Loop(segue.hard_switch())
    for batch in plain.loader:
        part = plain.loss_sum(batch)
        plain.accelerator.backward(part.total / part.count)
        plain.optimizer.step()
        plain.optimizer.zero_grad()
    assert all(map(torch.equal, smoothed.weights(), plain.weights()))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]


def test_constant_one_gives_the_source_gradient_alone() -> None:
    loop = Loop(segue.constant(1.0))
    loop.model.eval()
    window = next(loop.smoothing.windows(loop.loader))
    window.backward(source=loop.loss_sum, target=loop.loss_sum)
    got = [parameter.grad.clone() for parameter in loop.model.parameters()]
    loop.optimizer.zero_grad()
    position = loop.smoothing.replay
    position.load_state_dict({**position.state_dict(), "position": 0})
    loop.loss_mean(next(position)).backward()
    for mine, parameter in zip(got, loop.model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-12, atol=1e-15)


def test_windows_follow_the_target_loader_alone() -> None:
    loop = Loop(segue.linear_decay(50), num_micro_batches=4)  # a pass of the bank: three steps
    sizes = []
    state = loop.accelerator.gradient_state
    for window in loop.smoothing.windows(loop.loader):
        # Replay never registers with Accelerate, so it cannot end a window early.
        assert {id(r) for r in state.dataloader_references if r is not None} <= {id(loop.loader)}
        sizes.append(len(window.batches))
        window.backward(source=loop.loss_sum, target=loop.loss_sum)
        loop.optimizer.step()
        loop.optimizer.zero_grad()
    assert sizes == [4, 4, 2]
    assert loop.smoothing.replay.state_dict()["position"] == 3 * 4  # the short window's as well
    assert loop.smoothing.smoothing.num_steps == 3


@pytest.mark.parametrize("mode", ["backward", "mix"])
def test_a_step_that_the_scaler_skipped_does_not_count(mode: str) -> None:
    # 2**127 times these gradients overflows float32 at first; each skipped step halves it.
    large = [
        (inputs * 4, labels) for inputs, labels in (data(s, dtype=torch.float32) for s in (1, 2))
    ]
    loop = Loop(
        segue.linear_decay(4),
        scale=2.0**127,
        dtype=torch.float32,
        mode=mode,
        source=large[0],
        target=large[1],
    )
    trace, skipped = [], []
    for window in loop.smoothing.windows(loop.loader):
        trace.append(loop.smoothing.source_weight)
        window.backward(source=loop.loss_sum, target=loop.loss_sum)
        loop.optimizer.step()
        skipped.append(loop.optimizer.step_was_skipped)
        loop.optimizer.zero_grad()
    assert 0 < sum(skipped) < len(skipped) - 4
    applied = [weight for weight, was in zip(trace, skipped, strict=True) if not was]
    assert applied[:5] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert trace.count(1.0) == 1 + skipped.index(False)


def test_means_are_weighted_by_what_they_count_and_one_over_nothing_is_zero() -> None:
    target = data(2)
    target[1][4:6] = IGNORED  # a whole micro-batch of the first window
    summed, averaged = (Loop(segue.linear_decay(3), 4, target=target) for _ in range(2))
    for loop in (summed, averaged):
        loop.model.eval()
    summed.epoch()
    averaged.epoch(mean=True)
    for mine, its in zip(averaged.weights(), summed.weights(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-12)


def test_a_source_batch_without_items_leaves_the_target_its_step() -> None:
    inputs, labels = data(1)
    loop = Loop(segue.constant(0.5), source=(inputs, torch.full_like(labels, IGNORED)))
    with pytest.warns(RuntimeWarning, match=r"no item of the source batch counts at step 0 with"):
        loop.epoch()
    log = loop.smoothing.log()
    assert (log["source_loss"].item(), log["source_count"]) == (0.0, 0)
    assert all(torch.isfinite(weights).all() for weights in loop.weights())
    assert not torch.equal(loop.weights()[0], Loop(segue.constant(0.5)).weights()[0])


def test_a_non_finite_source_batch_is_named_and_with_skip_leaves_the_target_intact() -> None:
    inputs, labels = data(1)
    broken = (inputs * float("inf"), labels)
    with pytest.raises(segue.NonFiniteLossError, match="the source loss is nan at step 0"):
        Loop(segue.constant(0.5), source=broken).epoch()
    skipping = Loop(segue.constant(0.5), source=broken, non_finite="skip")
    with pytest.warns(RuntimeWarning) as caught:
        skipping.epoch()
    assert [str(w.message).partition(";")[0] for w in caught] == [
        f"the source loss is nan at step {step} with source weight 0.5" for step in range(10)
    ]
    assert all(torch.isfinite(weights).all() for weights in skipping.weights())


def test_the_log_holds_raw_and_weighted_losses_and_the_counts_of_the_window() -> None:
    loop = Loop(segue.linear_decay(4), 2)
    loop.model.eval()
    windows = loop.smoothing.windows(loop.loader)
    for _ in range(2):
        window = next(windows)
        want = [loop.loss_sum(batch) for batch in window.batches]
        window.backward(source=loop.loss_sum, target=loop.loss_sum)
        loop.optimizer.step()
    log = loop.smoothing.log()
    assert log["source_weight"] == 0.75
    assert log["target_count"] == sum(int(part.count) for part in want)
    assert log["target_loss"].item() == pytest.approx(
        sum(part.total.item() for part in want) / log["target_count"]
    )
    assert log["weighted_target_loss"].item() == pytest.approx(0.25 * log["target_loss"].item())
    assert not log["source_loss"].requires_grad


def test_a_collator_of_its_own_and_another_loss_serve_the_source() -> None:
    texts = ["a", "bbb", "cc", "dddd"] * 3

    def collate(words: list[str]) -> dict[str, Tensor]:
        width = max(map(len, words))
        rows = [[1.0] * len(word) + [0.0] * (width - len(word)) for word in words]
        return {"mask": torch.tensor(rows, dtype=torch.float64)}

    loop = Loop(
        segue.linear_decay(3),
        source=texts,
        collate_fn=collate,
        source_count=lambda batch: batch["mask"].sum(),
    )

    def source_loss(batch: dict[str, Tensor]) -> segue.LossSum:
        scores = loop.model(batch["mask"].sum(1, keepdim=True).expand(-1, 4)).square().sum(1)
        return segue.LossSum((scores[:, None] * batch["mask"]).sum(), batch["mask"].sum())

    for window in loop.smoothing.windows(loop.loader):
        window.backward(source=source_loss, target=loop.loss_sum)
        loop.optimizer.step()
        loop.optimizer.zero_grad()
    assert loop.smoothing.replay.released


def test_another_number_of_processes_goes_on_in_the_stream(tmp_path: Path) -> None:
    loop = Loop(segue.linear_decay(20))
    loop.epoch()
    state = {**loop.smoothing.state_dict(), "num_processes": 2}
    save_checkpoint(tmp_path / "segue-rank-0.safetensors", state)
    fresh = Loop(segue.linear_decay(20))
    with pytest.warns(RuntimeWarning, match="saved by 2 processes, continued by 1"):
        fresh.smoothing._load([], str(tmp_path))
    assert fresh.smoothing.source_weight == loop.smoothing.source_weight == 0.5
    assert fresh.smoothing.replay.state_dict() == loop.smoothing.replay.state_dict()


def test_a_state_saved_after_the_ramp_needs_no_bank(tmp_path: Path) -> None:
    loop = Loop(segue.linear_decay(2))
    loop.epoch()
    loop.accelerator.save_state(str(tmp_path))
    assert load_checkpoint(tmp_path / "segue-rank-0.safetensors")["replay"]["released"]
    fresh = Loop(segue.linear_decay(2))
    fresh.accelerator.load_state(str(tmp_path))
    assert fresh.smoothing.replay.released
    assert fresh.epoch() == [0.0] * 10


def test_a_count_that_is_not_what_the_loss_sums_over_is_refused() -> None:
    loop = Loop(segue.linear_decay(2), target_count=None)
    with pytest.raises(ValueError, match=r"target_count must count what .* \(1\), got 2"):
        loop.epoch()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source_batch_size": 6}, r"gradient_accumulation_steps \(1 \* 4\), got 6"),
        ({"source_batch_size": 0}, "source_batch_size must be >= 1, got 0"),
        ({"mode": "joint"}, "unknown mode 'joint'"),
        ({"num_examples": 100}, r"num_examples must be <= the number of source examples \(20\)"),
        ({"non_finite": "skp"}, "did you mean 'skip'"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Loop(segue.linear_decay(2), 4, **options)


def test_an_optimizer_that_was_not_prepared_is_refused() -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(TypeError, match=r"the one that accelerator.prepare returned, got SGD"):
        AcceleratedSmoothing(
            Accelerator(cpu=True),
            segue.linear_decay(2),
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            source=torch.zeros(8, 1),
            source_batch_size=4,
        )


@pytest.mark.parametrize("kind", ["DEEPSPEED", "MEGATRON_LM", "FSDP"])
def test_what_cannot_be_exact_is_refused(kind: str) -> None:
    from accelerate.utils import DistributedType

    claimed = SimpleNamespace(distributed_type=DistributedType[kind], is_fsdp2=False)
    with pytest.raises(ValueError, match=rf"must run one process, DDP or FSDP2 .* got {kind}"):
        _check_accelerator(claimed)


def test_without_accelerate_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    for part in ("", ".smoothing", ".window"):
        monkeypatch.delitem(sys.modules, f"segue.adapters.accelerate{part}")
    with pytest.raises(ImportError, match=r'pip install "segue\[accelerate\]"'):
        import segue.adapters.accelerate  # noqa: F401


def test_the_example_prints_both_arms() -> None:
    example = Path(__file__).parents[2] / "examples" / "accelerate_ddp.py"
    done = subprocess.run(
        [sys.executable, str(example)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["hard switch", "smoothing"]
    assert all("target accuracy" in line for line in lines)
