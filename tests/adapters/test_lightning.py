"""Smoothing under Lightning: the clock, the normalisation, what is evaluated, kept and said."""

from __future__ import annotations

import csv
import gc
import importlib
import sys
import warnings
import weakref
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

import segue
from segue.adapters.lightning import SmoothingCallback, SmoothingMixin

pytestmark = pytest.mark.filterwarnings(
    "ignore:The '.*' does not have many workers", "ignore:The number of training batches"
)
K = 4


def tokens(seed: int, size: int = 24) -> dict[str, Tensor]:
    """Rows of up to six tokens each; ``mask`` says which are there."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 7, (size,), generator=generator)
    return {
        "x": torch.randn(size, 6, 3, generator=generator, dtype=torch.float64),
        "y": torch.randn(size, 6, generator=generator, dtype=torch.float64),
        "mask": torch.arange(6) < lengths[:, None],
    }


def rows(data: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    return [{key: value[i] for key, value in data.items()} for i in range(len(data["x"]))]


class Net(pl.LightningModule):
    """A token regressor; ``reduction`` is how its loss is given."""

    def __init__(self, reduction: str = "mean", dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.reduction = reduction
        self.net = nn.Sequential(
            nn.Linear(3, 5), nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, 1)
        ).double()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        errors = (self.net(batch["x"]).squeeze(-1) - batch["y"]).square() * batch["mask"]
        self.log("train_loss", errors.sum().detach(), batch_size=1)
        if self.reduction == "mean":
            return errors.sum() / batch["mask"].sum()
        return segue.LossSum(errors.sum(), batch["mask"].sum())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Recording(SmoothingMixin, Net):
    """Remembers λ at each target batch and counts the source batches."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.trace: list[float] = []
        self.num_source_calls = 0

    def target_step(self, batch: Any, batch_idx: int) -> Any:
        if not self._is_muted and self.trainer.training:
            self.trace.append(self.smoothing.source_weight)
        return super().target_step(batch, batch_idx)

    def source_step(self, batch: Any) -> Any:
        self.num_source_calls += 1
        return super().source_step(batch)


def trainer(*callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    settings = {"max_epochs": 1, "logger": False, "enable_checkpointing": False} | settings
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **settings,
    )


def callback(steps: Any = K, **settings: Any) -> SmoothingCallback:
    if not isinstance(steps, int | float):
        settings["schedule"] = steps
    else:
        settings["num_smoothing_steps"] = steps
    settings = {"source": tokens(1), "batch_size": 8, "num_examples": None} | settings
    return SmoothingCallback(settings.pop("source"), **settings)


def loader(batch_size: int, size: int = 24) -> DataLoader[Any]:
    return DataLoader(rows(tokens(2, size)), batch_size=batch_size)


def weights(module: pl.LightningModule) -> Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def fit(module: pl.LightningModule, data: Any, *callbacks: pl.Callback, **settings: Any) -> Tensor:
    trainer(*callbacks, **settings).fit(module, data)
    return weights(module)


# -- normalisation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 12], ids=["whole windows", "a short last window"])
@pytest.mark.parametrize("schedule", [K, segue.constant(1.0), segue.hard_switch()])
def test_micro_batches_make_the_step_of_the_whole_batch(size: int, schedule: Any) -> None:
    runs = []
    for batch, accumulate in ((8, 1), (1, 8), (4, 2)):
        module = Recording("sum")
        settings = {"accumulate_grad_batches": accumulate, "max_epochs": 3}
        runs.append(fit(module, loader(batch, size), callback(schedule), **settings))
    for other in runs[1:]:
        torch.testing.assert_close(other, runs[0], rtol=1e-10, atol=1e-12)


def test_step_is_the_blend_of_two_token_means_by_hand() -> None:
    source, target = tokens(1, 8), tokens(2, 12)
    module, plain = Recording("sum"), Net()
    optimizer: Any = plain.configure_optimizers()
    ramp = segue.linear_decay(K)  # longer than this training
    fit(module, loader(1, 12), callback(ramp, source=source), accumulate_grad_batches=8)
    for step, part in enumerate((slice(0, 8), slice(8, 12))):
        means = []
        for data in (source, {key: value[part] for key, value in target.items()}):
            errors = (plain.net(data["x"]).squeeze(-1) - data["y"]).square()
            means.append(errors[data["mask"]].mean())
        weight = 1.0 - step / K
        (weight * means[0] + (1.0 - weight) * means[1]).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(weights(module), weights(plain), rtol=1e-10, atol=1e-12)


def test_means_are_accumulated_as_lightning_does_and_the_source_is_whole_each_step() -> None:
    """A mean target: 1/N of each micro-batch, in a short window too. The source keeps its share."""
    source, target = tokens(1, 8), tokens(2, 6)
    source["mask"] = torch.ones_like(source["mask"])
    module, plain = Recording(), Net()
    optimizer: Any = plain.configure_optimizers()
    data = DataLoader(rows(target), batch_size=1)
    ramp = segue.linear_decay(K)
    fit(module, data, callback(ramp, source=source), accumulate_grad_batches=4)
    for step, part in enumerate((range(4), range(4, 6))):
        total = torch.zeros((), dtype=torch.float64)
        for i in part:
            errors = (plain.net(target["x"][i]).squeeze(-1) - target["y"][i]).square()
            total = total + errors[target["mask"][i]].mean() / 4
        mean = (plain.net(source["x"]).squeeze(-1) - source["y"]).square().mean()
        weight = 1.0 - step / K
        (weight * mean + (1.0 - weight) * total).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(weights(module), weights(plain), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("size", [24, 20])
def test_weight_0_is_bitwise_the_plain_trainer(accumulate: int, size: int) -> None:
    results = []
    for smooth in (False, True):
        module = Recording(dropout=0.3) if smooth else Net(dropout=0.3)
        torch.manual_seed(7)
        data = DataLoader(rows(tokens(2, size)), batch_size=2, shuffle=True)
        extra = [callback(segue.hard_switch())] if smooth else []
        result = fit(module, data, *extra, accumulate_grad_batches=accumulate, max_epochs=2)
        results.append((result, torch.get_rng_state()))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("accumulate", [1, 4])
def test_global_random_states_during_the_ramp_are_the_plain_trainers(accumulate: int) -> None:
    states = []
    for smooth in (False, True):
        module = Recording(dropout=0.3) if smooth else Net(dropout=0.3)
        torch.manual_seed(7)
        data = DataLoader(rows(tokens(2)), batch_size=2, shuffle=True)
        fit(module, data, *([callback(3)] if smooth else []), accumulate_grad_batches=accumulate)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


# -- clock -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2, 8])
def test_weight_follows_optimizer_steps_and_the_source_ends_with_the_ramp(accumulate: int) -> None:
    module, smoothing = Recording(), callback()
    fit(module, loader(1, 48), smoothing, accumulate_grad_batches=accumulate)
    expected = [max(0.0, 1.0 - step / K) for step in range(48 // accumulate)]
    assert module.trace[::accumulate] == expected
    assert module.trace[accumulate - 1 :: accumulate] == expected
    assert module.num_source_calls == K * accumulate
    assert smoothing._held is not None
    assert smoothing._held.replay is not None
    assert smoothing._held.replay.released


def test_bank_and_source_data_are_let_go_after_the_ramp() -> None:
    source = tokens(1)
    smoothing = callback(source=source)
    held = weakref.ref(source["x"])
    del source
    module = Recording()
    fit(module, loader(4), smoothing)  # six steps
    gc.collect()
    assert held() is None


class Scaled(Recording):
    """Its gradients overflow in the steps named."""

    overflows = (1, 2)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        super().backward(loss, *args, **kwargs)
        if self.trainer.fit_loop.total_batch_idx in self.overflows:
            next(self.parameters()).grad.fill_(float("inf"))  # type: ignore[union-attr]


@pytest.mark.parametrize("fused", [False, True])
def test_step_that_the_gradient_scaler_skipped_does_not_count(fused: bool) -> None:
    class WithOptimizer(Scaled):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net.parameters(), lr=0.01, fused=fused)

    module = WithOptimizer().float()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    data = [
        {k: v.float() if v.is_floating_point() else v for k, v in row.items()}
        for row in rows(tokens(2))
    ]
    source = {k: v.float() if v.is_floating_point() else v for k, v in tokens(1).items()}
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    fit(module, DataLoader(data, batch_size=4), callback(source=source), plugins=[plugin])
    assert module.trace == [1.0, 0.75, 0.75, 0.75, 0.5, 0.25]


def test_accumulation_under_a_gradient_scaler_gives_the_unscaled_step() -> None:
    results = []
    for scaled in (False, True):
        module = Recording("sum").float()
        data = [
            {k: v.float() if v.is_floating_point() else v for k, v in row.items()}
            for row in rows(tokens(2, 12))
        ]
        source = {k: v.float() if v.is_floating_point() else v for k, v in tokens(1).items()}
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10) if scaled else None
        # bfloat16 without a scaler and float16 with one round differently: autocast is left out.
        plugin = MixedPrecision("16-mixed" if scaled else "bf16-mixed", "cpu", scaler)
        plugin.autocast_context_manager = lambda: torch.autocast("cpu", enabled=False)  # type: ignore[method-assign]
        settings = {"plugins": [plugin], "accumulate_grad_batches": 8}
        results.append(
            fit(module, DataLoader(data, batch_size=1), callback(1, source=source), **settings)
        )
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)


class TwoOptimizers(SmoothingMixin, Net):
    """Manual optimization; the second optimizer steps with every batch, the first with every other."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.head = nn.Linear(3, 1).double()
        self.trace: list[float] = []

    def loss(self, net: nn.Module, batch: Any) -> Tensor:
        return ((net(batch["x"]).squeeze(-1) - batch["y"]).square() * batch["mask"]).mean()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, second = self.optimizers()  # type: ignore[attr-defined]
        self.trace.append(self.smoothing.source_weight)
        for optimizer, net in ((first, self.net), (second, self.head)):
            if net is self.net and batch_idx % 2:
                continue
            loss = self.mix(
                source=lambda b, net=net: self.loss(net, b),
                target=lambda net=net: self.loss(net, batch),
                log=net is self.head,
            )
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(net.parameters(), lr=0.05) for net in (self.net, self.head)]


@pytest.mark.parametrize(("index", "per_step"), [(0, 2), (1, 1)])
def test_clock_follows_one_of_several_optimizers(index: int, per_step: int) -> None:
    module = TwoOptimizers()
    smoothing = callback(optimizer_index=index, num_source_batches_per_step=2)
    fit(module, loader(3), smoothing)
    assert module.trace == [max(0.0, 1 - -(-step // per_step) / K) for step in range(8)]


def test_validation_and_sanity_check_leave_source_and_clock_alone() -> None:
    class Validated(Recording):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            calls = self.num_source_calls
            self.log("val_loss", self.training_step(batch, batch_idx))
            assert self.num_source_calls == calls

        def val_dataloader(self) -> Any:
            return loader(4)

    module = Validated()
    pl_trainer = trainer(callback(), val_check_interval=2, num_sanity_val_steps=2)
    pl_trainer.fit(module, loader(4))
    assert module.trace == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert module.num_source_calls == K
    assert torch.isfinite(pl_trainer.callback_metrics["val_loss"])


def test_share_of_training_is_rounded_up_over_all_epochs() -> None:
    module = Recording()
    fit(module, loader(4, 20), callback(0.21), accumulate_grad_batches=2, max_epochs=3)
    assert module.trace[::2][:3] == [1.0, 0.5, 0.0]  # 9 steps, 0.21 of them is 1.89
    assert len([weight for weight in module.trace if weight > 0]) == 4


def test_target_alone_defines_the_epoch() -> None:
    for size in (8, 200):
        module = Recording()
        smoothing = callback(100, source=tokens(1, size))
        pl_trainer = trainer(smoothing, max_steps=7, max_epochs=-1)
        with pytest.raises(ValueError, match="num_smoothing_steps must be <= num_training_steps"):
            pl_trainer.fit(module, loader(8))
        module, smoothing = Recording(), callback(5, source=tokens(1, size))
        pl_trainer = trainer(smoothing, max_epochs=2)
        pl_trainer.fit(module, loader(8))
        assert (pl_trainer.global_step, len(module.trace)) == (6, 6)


# -- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 4])
def test_non_finite_source_is_named_and_leaves_the_targets_step_intact(accumulate: int) -> None:
    spoilt = tokens(1)
    spoilt["x"][:] = float("nan")
    settings = {"accumulate_grad_batches": accumulate}
    with pytest.raises(segue.NonFiniteLossError, match="the source loss is nan at step 0"):
        fit(Recording("sum"), loader(2), callback(3, source=spoilt), **settings)
    module, alone = Recording("sum"), Net("sum")
    smoothing = callback(segue.constant(0.25), source=spoilt, non_finite="skip")
    with pytest.warns(RuntimeWarning, match="source loss is nan .* the term is skipped"):
        fit(module, loader(2, 8), smoothing, **settings)
    optimizer: Any = alone.configure_optimizers()
    for start in range(0, 8, 2 * accumulate):
        part = {key: value[start : start + 2 * accumulate] for key, value in tokens(2, 8).items()}
        errors = (alone.net(part["x"]).squeeze(-1) - part["y"]).square()
        (0.75 * errors[part["mask"]].mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(weights(module), weights(alone), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_fully_masked_source_is_named_and_counts_nothing(accumulate: int) -> None:
    masked = tokens(1)
    masked["mask"][:] = False
    module = Recording("sum")
    settings = {"accumulate_grad_batches": accumulate}
    pl_trainer = trainer(callback(segue.constant(0.25), source=masked), **settings)
    with pytest.warns(RuntimeWarning, match="source batch holds nothing to predict at step 0"):
        pl_trainer.fit(module, loader(2))
    assert pl_trainer.callback_metrics["segue/source_count"] == 0
    assert pl_trainer.callback_metrics["segue/source_loss"] == 0
    assert torch.isfinite(weights(module)).all()


def test_target_micro_batch_that_is_skipped_counts_nothing() -> None:
    data = rows(tokens(2, 8))
    data[2]["x"][:] = float("nan")
    module, alone = Recording("sum"), Net("sum")
    smoothing = callback(segue.constant(0.5), source=tokens(1, 8), non_finite="skip")
    with pytest.warns(RuntimeWarning, match="target loss is nan"):
        fit(module, DataLoader(data, batch_size=1), smoothing, accumulate_grad_batches=8)
    kept = {key: value[[0, 1, 3, 4, 5, 6, 7]] for key, value in tokens(2, 8).items()}
    for part in (kept, tokens(1, 8)):
        errors = (alone.net(part["x"]).squeeze(-1) - part["y"]).square()
        (0.5 * errors[part["mask"]].mean()).backward()
    alone.configure_optimizers().step()
    torch.testing.assert_close(weights(module), weights(alone), rtol=1e-10, atol=1e-12)


# -- what is said ----------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 4])
def test_log_holds_the_raw_and_weighted_losses_and_counts_of_the_whole_step(
    accumulate: int,
) -> None:
    source, target = tokens(1, 8), tokens(2, 8)
    pl_trainer = trainer(
        callback(segue.constant(0.25), source=source), accumulate_grad_batches=accumulate
    )
    plain = Net()
    pl_trainer.fit(Recording("sum"), loader(8 // accumulate, 8))
    want = {"segue/source_weight": 0.25}
    for side, data, share in (("source", source, 0.25), ("target", target, 0.75)):
        errors = (plain.net(data["x"]).squeeze(-1) - data["y"]).square()
        want[f"segue/{side}_loss"] = errors[data["mask"]].mean().item()
        want[f"segue/weighted_{side}_loss"] = share * want[f"segue/{side}_loss"]
        want[f"segue/{side}_count"] = data["mask"].sum().item()
    want["segue/blended_loss"] = (
        want["segue/weighted_source_loss"] + want["segue/weighted_target_loss"]
    )
    got = {name: value.item() for name, value in pl_trainer.callback_metrics.items()}
    assert {name: got[name] for name in want} == pytest.approx(want, rel=1e-5)
    assert set(pl_trainer.progress_bar_metrics) == {"segue/target_loss"}


def test_selection_during_the_ramp_draws_a_warning(tmp_path: Any) -> None:
    blended = EarlyStopping("segue/blended_loss", check_on_train_epoch_end=True)
    with pytest.warns(
        RuntimeWarning, match=r"EarlyStopping watches 'segue/blended_loss'.*because λ"
    ):
        fit(Recording(), loader(4), callback(), blended)
    best = ModelCheckpoint(tmp_path, monitor="train_loss")
    with pytest.warns(
        RuntimeWarning, match="ModelCheckpoint watches 'train_loss'.*before the ramp"
    ):
        fit(Recording(), loader(4), callback(), best, enable_checkpointing=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        fit(
            Recording(), loader(4), callback(), ModelCheckpoint(tmp_path), enable_checkpointing=True
        )
        fit(
            Recording(),
            loader(4),
            callback(0),
            EarlyStopping("train_loss", check_on_train_epoch_end=True),
        )


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_smoothing_steps": 300.0}, ValueError, r"must be in \(0, 1\), got 300.0"),
        ({"num_smoothing_steps": -1}, ValueError, "num_smoothing_steps must be >= 0, got -1"),
        ({"num_smoothing_steps": None}, ValueError, "exactly one of num_smoothing_steps and"),
        ({"schedule": lambda step: 1.5, "num_smoothing_steps": None}, ValueError, "got 1.5 at step 0"),
        ({"batch_size": None}, ValueError, "batch_size must say how many"),
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1, got 0"),
        ({"non_finite": "drop"}, ValueError, "unknown non_finite policy 'drop'"),
        ({"optimizer_index": -1}, ValueError, "optimizer_index must be >= 0, got -1"),
        ({"source": segue.Replay(torch.zeros(4, 1), num_examples=None, batch_size=2)}, TypeError, "got a Replay"),
        ({"source": lambda module: None}, ValueError, "batch_size must be None for a source term"),
    ],
)  # fmt: skip
def test_wrong_argument_is_named(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {"source": tokens(1), "num_smoothing_steps": K, "batch_size": 8} | settings
    with pytest.raises(error, match=message):
        SmoothingCallback(arguments.pop("source"), **arguments)


def test_wrong_module_or_trainer_is_named_before_the_first_batch() -> None:
    class Hiding(SmoothingMixin, Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise AssertionError("must not be reached")

    with pytest.raises(TypeError, match=r"class Smoothed\(SmoothingMixin, Net\): pass"):
        fit(Net(), loader(4), callback())
    with pytest.raises(TypeError, match=r"Hiding\.training_step hides the mixin's"):
        fit(Hiding(), loader(4), callback())
    with pytest.raises(
        ValueError, match=r"optimizer_index must be < the number of optimizers \(1\)"
    ):
        fit(Recording(), loader(4), callback(optimizer_index=1))
    with pytest.raises(ValueError, match="num_smoothing_steps must be an int where"):
        fit(TwoOptimizers(), loader(4), callback(0.5))
    with pytest.raises(ValueError, match="batch_size must be <= the number of source examples"):
        fit(Recording(), loader(4), callback(batch_size=100))
    used = callback()
    fit(Recording(), loader(4), used)
    with pytest.raises(RuntimeError, match="belongs to one trainer"):
        fit(Recording(), loader(4), used)


# -- terms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_source_term_without_data_takes_the_place_of_replay(accumulate: int) -> None:
    module = Recording("sum")
    smoothing = SmoothingCallback(
        lambda m: segue.L2SP(m.net, scale=3.0), schedule=segue.linear_decay(5)
    )
    fit(
        module, loader(8 // accumulate), smoothing, accumulate_grad_batches=accumulate, max_epochs=1
    )
    plain = Net()
    anchor = segue.L2SP(plain.net, scale=3.0)
    optimizer: Any = plain.configure_optimizers()
    for step in range(3):
        part = {key: value[8 * step : 8 * step + 8] for key, value in tokens(2).items()}
        errors = (plain.net(part["x"]).squeeze(-1) - part["y"]).square()[part["mask"]].mean()
        weight = 1.0 - step / 5
        ((1.0 - weight) * errors + weight * anchor()).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(weights(module), weights(plain), rtol=1e-10, atol=1e-12)


class Needing(segue.L2SP):
    """A term that wants inputs."""

    def __call__(self, inputs: Tensor) -> Tensor:  # type: ignore[override]
        return super().__call__()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net: Needing(net, scale=1.0), r"Needing needs \['inputs'\]; give what it needs as"),
        (lambda net: object(), "object lacks .*'release'"),
    ],
)
def test_wrong_source_term_is_named(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        fit(Recording(), loader(4), SmoothingCallback(lambda m: make(m.net), num_smoothing_steps=2))
    if message.startswith("Needing"):
        with pytest.raises(TypeError, match=message):
            SmoothingCallback(make(nn.Linear(1, 1)), num_smoothing_steps=2)


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("segue.adapters.lightning")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(ImportError, match=r'pip install "segue\[lightning\]"'):
        importlib.import_module("segue.adapters.lightning")


def test_every_quantity_reaches_the_logger_at_the_trainers_logging_steps(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    fit(Recording("sum"), loader(2), callback(), logger=logger, log_every_n_steps=3)
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["segue/source_weight"]]
    assert [int(line["step"]) for line in lines] == [2, 5, 8, 11]
    assert [float(line["segue/source_weight"]) for line in lines] == [0.5, 0.0, 0.0, 0.0]
    assert float(lines[0]["segue/blended_loss"]) == pytest.approx(
        float(lines[0]["segue/weighted_source_loss"])
        + float(lines[0]["segue/weighted_target_loss"])
    )
