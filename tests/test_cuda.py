"""The core and the supervised family on a CUDA device: run by ``make test-gpu`` where there is one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import segue
from segue.batches import hash_content
from segue.experiments.supervised.config import AdaptationConfig, SourceConfig
from segue.experiments.supervised.methods import make_method
from segue.experiments.supervised.models import ResNetConfig
from segue.experiments.supervised.shifts import SHIFTS, ShiftConfig
from segue.experiments.supervised.train import adapt, train_source
from segue.runs.checkpoint import save_checkpoint
from segue.runs.context import RunContext, Store
from segue.sources.anchor import L2SP

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
K = 4


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4)).to(DEVICE)


def batches(number: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(8, 6, generator=generator) for _ in range(number)]
    return [(x.to(DEVICE), (x.argmax(1) % 4).to(DEVICE)) for x in inputs]


def bank() -> segue.Replay:
    inputs = torch.randn(20, 6, generator=torch.Generator().manual_seed(2))
    return segue.Replay(
        (inputs, inputs.argmin(1) % 4), num_examples=16, batch_size=8, device=DEVICE
    )


@pytest.mark.parametrize("arm", ["mix", "backward", "joint", "mixed"])
def test_hard_switch_is_the_plain_loop_bit_for_bit(arm: str) -> None:
    def trained(arm: str) -> str:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        smoothing = segue.Smoothing(segue.hard_switch(), optimizer=optimizer)
        torch.cuda.manual_seed(3)
        replay = bank()
        for x, y in batches(20):
            if arm == "plain":
                F.cross_entropy(model(x), y, reduction="none").mean().backward()
            elif arm in ("joint", "mixed"):
                blend = smoothing.blend(target=(x, y), source=replay, mode=arm)
                inputs, labels = blend.batch
                blend.loss(F.cross_entropy(model(inputs), labels, reduction="none")).backward()
            else:
                loss = getattr(smoothing, arm)(
                    source=lambda: pytest.fail("the source was evaluated"),
                    target=lambda x=x, y=y: F.cross_entropy(model(x), y, reduction="none").mean(),
                )
                if arm == "mix":
                    loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return hash_content(model.state_dict(), torch.cuda.get_rng_state())

    assert trained(arm) == trained("plain")


def test_source_dropout_leaves_the_device_generator_as_it_was() -> None:
    model, (x, y) = network(), batches(1)[0]
    smoothing, replay = segue.Smoothing(segue.constant(0.5)), bank()
    torch.cuda.manual_seed(5)
    F.cross_entropy(model(x), y).backward()
    expected = torch.cuda.get_rng_state()
    torch.cuda.manual_seed(5)

    def source() -> Tensor:
        inputs, labels = next(replay)
        return F.cross_entropy(model(inputs), labels)

    smoothing.mix(source=source, target=lambda: F.cross_entropy(model(x), y)).backward()
    assert torch.equal(torch.cuda.get_rng_state(), expected)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_does_not_count(fused: bool) -> None:
    model, data = network(), batches(6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**8)
    smoothing = segue.Smoothing(segue.linear_decay(K), optimizer=optimizer)
    weights = []
    for step, (x, y) in enumerate(data):
        weights.append(smoothing.source_weight)
        with torch.autocast(DEVICE, dtype=torch.float16):
            loss = smoothing.mix(
                source=lambda x=x: model(x).float().square().mean(),
                target=lambda x=x, y=y: F.cross_entropy(model(x), y),
            )
        scaler.scale(loss).backward()
        if step == 1:
            next(model.parameters()).grad.fill_(float("inf"))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert weights == [1.0, 0.75, 0.75, 0.5, 0.25, 0.0]


def test_compiled_steps_use_the_fresh_weight_and_compile_once_per_regime() -> None:
    model, (x, y) = network().eval(), batches(1)[0]
    smoothing = segue.Smoothing(segue.linear_decay(K), non_finite="ignore")
    counter = CompileCounterWithBackend("inductor")

    @torch.compile(backend=counter, fullgraph=True)
    def loss() -> Tensor:
        return smoothing.mix(
            source=lambda: model(x).square().mean(), target=lambda: F.cross_entropy(model(x), y)
        )

    source, target = model(x).square().mean(), F.cross_entropy(model(x), y)
    counts = []
    for step in range(K + 3):
        weight = max(0.0, 1 - step / K)
        torch.testing.assert_close(loss(), weight * source + (1 - weight) * target)
        smoothing.step()
        counts.append(counter.frame_count)
    assert counts == [counts[0]] * K + [counts[0] + 1] * 3


def test_anchor_follows_its_model_to_the_device_when_it_is_loaded() -> None:
    anchor = L2SP(network(), scale=1.0)
    saved = {"anchor": {name: value.cpu() for name, value in anchor.state_dict()["anchor"].items()}}
    anchor.load_state_dict(saved)
    assert anchor().item() == 0.0


SOURCE = SourceConfig(
    "digits",
    "all",
    ResNetConfig(in_channels=1, widths=(8, 16), stem_width=8, stem_stride=1),
    seed=0,
    num_training_steps=30,
    batch_size=16,
    augment=True,
)


def adaptation(method: str, shift: str = "label_permutation") -> AdaptationConfig:
    made = make_method(method, num_smoothing_steps=K, num_target_steps=12)
    return AdaptationConfig(
        ShiftConfig(shift), SOURCE, replace(made, replay_batch_size=16), 0, 64, 12, 16,
        num_curve_examples=50,
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("runs"))
    result = train_source(SOURCE, RunContext(SOURCE, store, device=DEVICE))
    assert result.artifact is not None
    save_checkpoint(store.artifact(SOURCE), dict(result.artifact))
    return store


@pytest.mark.parametrize(
    "method",
    ["hard_switch", "smoothing", "smoothing_mixed", "target_ramp", "l2sp", "head_first", "sam"],
)
def test_a_run_that_was_cut_off_goes_on_where_it_was(method: str, store: Store) -> None:
    config = adaptation(method)
    # Convolutions may choose another algorithm each time, unless told not to.
    torch.backends.cudnn.deterministic = True
    whole = adapt(config, RunContext(config, store, device=DEVICE))

    class CutOffError(Exception):
        pass

    def cut(step: int, total: int) -> None:
        if step == 3:
            raise CutOffError

    with pytest.raises(CutOffError):
        adapt(config, RunContext(config, store, report=cut, checkpoint_steps=2, device=DEVICE))
    resumed = adapt(config, RunContext(config, store, device=DEVICE))
    assert resumed.weights is not None
    assert whole.weights is not None
    assert hash_content(dict(resumed.weights)) == hash_content(dict(whole.weights))
    assert resumed.curves == whole.curves
    store.checkpoint(config).unlink()


@pytest.mark.parametrize("shift", [name for name in SHIFTS if SHIFTS[name].source_task == "all"])
def test_the_device_sees_the_images_that_the_processor_sees(shift: str, store: Store) -> None:
    from segue.experiments.supervised.task import load_adaptation

    config = adaptation("smoothing", shift)
    here, there = (load_adaptation(config, None, None, device) for device in ("cpu", DEVICE))
    torch.testing.assert_close(here.target_train.images, there.target_train.images.cpu())
    assert torch.equal(here.target_test.labels, there.target_test.labels.cpu())


def test_the_record_names_the_accelerator() -> None:
    from segue.runs.provenance import provenance

    assert provenance(None, DEVICE)["accelerator"] == torch.cuda.get_device_name()
    assert "accelerator" not in provenance(None, "cpu")
