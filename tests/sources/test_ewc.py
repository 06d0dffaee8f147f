import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import segue
from segue.sources.anchor import L2SP
from segue.sources.ewc import EWC
from segue.sources.fisher import Fisher, diagonal_fisher, save_fisher


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def bank() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (8,), generator=generator)


def fisher_of(model: nn.Module, kind: Any = "true") -> Fisher:
    return diagonal_fisher(model, bank(), kind=kind)


def move(model: nn.Module) -> None:
    torch.manual_seed(7)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))


@pytest.mark.parametrize("kind", ["true", "empirical"])
def test_the_penalty_and_its_gradient_are_those_of_the_formula(kind: str) -> None:
    model = network()
    fisher = fisher_of(model, kind)
    before = [p.detach().clone() for p in model.parameters()]
    anchor = EWC(model, scale=0.3, fisher=fisher)
    assert anchor.fisher_kind == kind
    move(model)
    loss = anchor()
    loss.backward()  # type: ignore[no-untyped-call]
    weights = list(fisher.diagonal.values())
    moved = [p.detach() - w for p, w in zip(model.parameters(), before, strict=True)]
    want = sum((f * m.square()).sum().item() for f, m in zip(weights, moved, strict=True))
    assert loss.item() == pytest.approx(0.15 * want)
    for p, f, m in zip(model.parameters(), weights, moved, strict=True):
        torch.testing.assert_close(p.grad, 0.3 * f * m)


def test_the_penalty_is_the_second_order_growth_of_the_divergence_from_the_source_model() -> None:
    model = network()
    fisher = fisher_of(model)
    inputs = bank()[0]
    before = model(inputs).log_softmax(dim=1).detach()
    anchor = EWC(model, scale=1.0, fisher=fisher)
    with torch.no_grad():
        model[2].bias[1] += 1e-3  # type: ignore[operator,index]
    after = model(inputs).log_softmax(dim=1)
    divergence = (before.exp() * (before - after)).sum(dim=1).mean()
    assert anchor().item() == pytest.approx(divergence.item(), rel=1e-2)


def test_at_the_switch_the_penalty_is_zero_and_positive_after_one_step() -> None:
    model = network()
    anchor = EWC(model, scale=1.0, fisher=fisher_of(model))
    anchor().backward()  # type: ignore[no-untyped-call]
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in model.parameters())  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    optimizer.step()
    assert anchor().item() > 0.0


def test_with_a_fisher_of_ones_it_is_l2sp() -> None:
    model = network()
    ones = Fisher({n: torch.ones_like(p) for n, p in model.named_parameters()}, "true", 1)
    both = EWC(model, scale=0.7, fisher=ones), L2SP(model, scale=0.7)
    move(model)
    assert both[0]().item() == pytest.approx(both[1]().item(), rel=1e-12)


def test_a_stored_fisher_gives_the_same_anchor(tmp_path: Path) -> None:
    model = network()
    fisher = fisher_of(model, "empirical")
    save_fisher(tmp_path / "fisher.safetensors", fisher)
    anchors = [EWC(model, scale=1.0, fisher=f) for f in (fisher, tmp_path / "fisher.safetensors")]
    move(model)
    assert anchors[0]().item() == anchors[1]().item() > 0.0
    assert anchors[1].fisher_kind == "empirical"


def test_parameters_without_a_fisher_are_left_out_unless_they_are_asked_for() -> None:
    model = network()
    fisher = diagonal_fisher(model, bank(), kind="true", includes=lambda name: name[0] == "0")
    anchor = EWC(model, scale=1.0, fisher=fisher)
    with torch.no_grad():
        model[2].weight.add_(1.0)  # type: ignore[operator]
    assert anchor().item() == 0.0
    with pytest.raises(ValueError, match=r"every included parameter, 2.weight is missing"):
        EWC(model, scale=1.0, fisher=fisher, includes=lambda name: True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[:2], r"fisher of 0.weight must have shape \(4, 3\), got \(2, 3\)"),
        (lambda f: -f - 1.0, "fisher of 0.weight must be finite and >= 0"),
        (lambda f: f * float("nan"), "fisher of 0.weight must be finite and >= 0"),
    ],
)
def test_a_wrong_fisher_is_named(change: Any, message: str) -> None:
    model = network()
    wrong = {n: change(f) if n == "0.weight" else f for n, f in fisher_of(model).diagonal.items()}
    with pytest.raises(ValueError, match=message):
        EWC(model, scale=1.0, fisher=Fisher(wrong, "true", 8))


def test_a_fisher_of_zeros_is_refused_because_the_penalty_would_always_be_zero() -> None:
    model = network()
    zeros = Fisher({n: torch.zeros_like(p) for n, p in model.named_parameters()}, "true", 8)
    with pytest.raises(ValueError, match="fisher must be positive somewhere, got 0 everywhere"):
        EWC(model, scale=1.0, fisher=zeros)
    with pytest.raises(TypeError, match="fisher must be a Fisher or a path, got dict"):
        EWC(model, scale=1.0, fisher=dict(zeros.diagonal))  # type: ignore[arg-type]


def test_a_resumed_anchor_pulls_as_the_saved_one_did() -> None:
    model = network()
    anchor = EWC(model, scale=1.0, fisher=fisher_of(model))
    move(model)
    resumed = EWC(model, scale=1.0, fisher=fisher_of(model))  # of the moved weights
    assert resumed().item() == 0.0
    resumed.load_state_dict(anchor.state_dict())
    assert resumed().item() == anchor().item() > 0.0
    other = EWC(model, scale=1.0, fisher=fisher_of(model, "empirical"))
    with pytest.raises(
        ValueError, match="fisher must be of the saved kind 'true', got 'empirical'"
    ):
        other.load_state_dict(anchor.state_dict())
    anchor.release()
    resumed.load_state_dict(anchor.state_dict())
    with pytest.raises(RuntimeError, match="the anchor was released"):
        resumed()


def test_after_a_ramp_with_replay_and_anchor_neither_bank_nor_copies_are_alive() -> None:
    model = network()
    replay = segue.Replay(bank(), num_examples=6, batch_size=2)
    anchor = EWC(model, scale=1.0, fisher=fisher_of(model))
    held = [weakref.ref(t) for t in replay._bank]
    held += [weakref.ref(t) for t in (*anchor._anchor.values(), *anchor._fisher.values())]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    smoothing = segue.Smoothing(
        segue.linear_decay(2), optimizer=optimizer, sources=[replay, anchor]
    )

    def source_loss() -> Tensor:  # terms add up
        inputs, labels = next(replay)
        return nn.functional.cross_entropy(model(inputs), labels) + anchor()

    for step in range(3):
        gc.collect()
        assert all(part() is not None for part in held) == (step < 2)
        smoothing.mix(
            source=source_loss, target=lambda: model(bank()[0]).square().mean()
        ).backward()
        optimizer.step()
        optimizer.zero_grad()
    gc.collect()
    assert all(part() is None for part in held)
