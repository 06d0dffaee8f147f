from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segue.experiments.supervised.data import load_digits
from segue.experiments.supervised.models import ResNetConfig, build_model, resnet18

TINY = ResNetConfig(
    in_channels=1, num_classes=10, widths=(16, 32), stem_width=8, stem_stride=1, first_stride=2
)


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (ResNetConfig(), (2, 3, 32, 32)),
        (ResNetConfig(norm="batch", num_blocks=2), (2, 3, 32, 32)),
        (ResNetConfig(stem_stride=1, first_stride=1), (2, 3, 32, 32)),
        (TINY, (2, 1, 8, 8)),
    ],
    ids=["group norm", "batch norm", "no folding", "digits"],
)
def test_logits_are_the_head_applied_to_the_features(
    config: ResNetConfig, shape: tuple[int, ...]
) -> None:
    model = build_model(config, seed=0).eval()
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    features = model.features(images)
    assert features.shape == (shape[0], config.widths[-1])
    assert torch.equal(model(images), model.head(features))
    assert isinstance(model.head, nn.Linear)
    assert model.head.out_features == config.num_classes


def test_the_default_network_is_small() -> None:
    assert num_parameters(build_model(ResNetConfig(), seed=0)) == 477_370


def test_resnet18_has_the_size_of_the_paper_s_network() -> None:
    model = build_model(resnet18(), seed=0)
    # 11,173,962 in the usual implementation, of which 1,792 are the norms of its three projections.
    assert num_parameters(model) == 11_173_962 - 1_792
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len([c for c in convolutions if c.kernel_size == (3, 3)]) == 17


def test_the_seed_alone_decides_the_initial_weights() -> None:
    first = build_model(TINY, seed=3).state_dict()
    torch.manual_seed(99)
    again = build_model(TINY, seed=3).state_dict()
    other = build_model(TINY, seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_building_a_network_leaves_the_global_random_state(monkeypatch: pytest.MonkeyPatch) -> None:
    def seed_everything(seed: int) -> None:
        raise AssertionError("torch.manual_seed also seeds accelerators")

    torch.manual_seed(0)
    before = torch.get_rng_state()
    monkeypatch.setattr(torch, "manual_seed", seed_everything)
    build_model(TINY, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_are_those_that_a_seeded_global_generator_gives() -> None:
    from segue.experiments.supervised.models import ResNet

    state = torch.get_rng_state()
    torch.manual_seed(3)
    expected = ResNet(TINY).state_dict()
    torch.set_rng_state(state)
    built = build_model(TINY, seed=3).state_dict()
    assert all(torch.equal(built[name], expected[name]) for name in expected)


@pytest.mark.parametrize("width", [1, 8, 24, 40, 80, 99, 160])
def test_group_norm_divides_every_width(width: int) -> None:
    config = ResNetConfig(widths=(width,), stem_width=width, norm="group")
    model = build_model(config, seed=0)
    norms = [module for module in model.modules() if isinstance(module, nn.GroupNorm)]
    assert {norm.num_channels for norm in norms} == {width}
    assert all(width % norm.num_groups == 0 for norm in norms)
    assert norms[0].num_groups == 1 or width / norms[0].num_groups >= 16


def test_a_group_norm_network_treats_images_one_by_one() -> None:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    one_by_one = {}
    for norm in ("group", "batch"):
        model = build_model(ResNetConfig(norm=norm), seed=0).train()  # type: ignore[arg-type]
        alone = torch.cat([model(images[:2]), model(images[2:])])
        one_by_one[norm] = torch.allclose(model(images), alone, atol=1e-5)
    assert one_by_one == {"group": True, "batch": False}


def test_the_memory_layout_of_the_images_changes_nothing() -> None:
    model = build_model(ResNetConfig(), seed=0).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(images), model(images.contiguous(memory_format=torch.channels_last)))


def test_weights_survive_a_round_trip_through_the_state() -> None:
    config = ResNetConfig(norm="batch")
    model, other = build_model(config, seed=0).train(), build_model(config, seed=1)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model(images)  # moves the running statistics
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(images), other.eval()(images))


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_tiny_network_learns_the_digits(norm: Any) -> None:
    data = load_digits()
    train, test = (
        (data.normalise(part.images.float() / 255.0), part.labels)
        for part in (data.train, data.test)
    )
    model = build_model(
        ResNetConfig(in_channels=1, widths=(16, 32), stem_width=8, stem_stride=1, norm=norm),
        seed=0,
    ).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    order = torch.Generator().manual_seed(0)
    for _ in range(60):
        batch = torch.randint(len(train[1]), (64,), generator=order)
        loss = F.cross_entropy(model(train[0][batch]), train[1][batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (model.eval()(test[0]).argmax(dim=1) == test[1]).float().mean().item()
    assert accuracy > 0.8


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("in_channels", 0, r"in_channels must be >= 1, got 0"),
        ("num_classes", 0, r"num_classes must be >= 1, got 0"),
        ("stem_stride", -1, r"stem_stride must be >= 0, got -1"),
        ("num_blocks", 0, r"num_blocks must be >= 1, got 0"),
        ("widths", (), r"widths must hold positive channel counts, got \(\)"),
        ("widths", (16, 0), r"widths must hold positive channel counts, got \(16, 0\)"),
        ("norm", "bacth", r"unknown norm 'bacth'; did you mean 'batch'\?"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNetConfig(**{field: value})  # type: ignore[arg-type]


def test_a_count_must_be_an_integer() -> None:
    with pytest.raises(TypeError, match=r"num_classes must be an integer, got 2\.5"):
        ResNetConfig(num_classes=2.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, 31, 32)], ids=["channels", "size"])
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images must have 3 channels, .*divisible by 2, got"):
        build_model(ResNetConfig(), seed=0)(torch.zeros(shape))
