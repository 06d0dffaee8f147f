import pytest
import torch
from torch import nn

from segue.sources.anchor import L2SP


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def test_the_penalty_and_its_gradient_are_those_of_the_formula() -> None:
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    anchor = L2SP(model, scale=0.3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    loss = anchor()
    loss.backward()  # type: ignore[no-untyped-call]
    moved = [p.detach() - w for p, w in zip(model.parameters(), before, strict=True)]
    assert loss.item() == pytest.approx(0.15 * sum(m.square().sum().item() for m in moved))
    for p, m in zip(model.parameters(), moved, strict=True):
        torch.testing.assert_close(p.grad, 0.3 * m)


def test_at_the_switch_penalty_and_gradient_are_zero_and_positive_after_a_step() -> None:
    model = network()
    anchor = L2SP(model, scale=1.0)
    anchor().backward()  # type: ignore[no-untyped-call]
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in model.parameters())  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    optimizer.step()
    assert anchor().item() > 0.0


def test_a_head_can_be_left_out() -> None:
    model = network()
    anchor = L2SP(model, scale=1.0, includes=lambda name: not name.startswith("2."))
    with torch.no_grad():
        model[2].weight.add_(1.0)  # type: ignore[index]
    assert anchor().item() == 0.0


def test_a_resumed_anchor_pulls_towards_the_same_weights() -> None:
    model = network()
    anchor = L2SP(model, scale=1.0)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.0)
    resumed = L2SP(model, scale=1.0)
    assert resumed().item() == 0.0
    resumed.load_state_dict(anchor.state_dict())
    assert resumed().item() == anchor().item() > 0.0


def test_a_released_anchor_holds_nothing_and_says_so() -> None:
    anchor = L2SP(network(), scale=1.0)
    anchor.release()
    assert anchor.state_dict() == {"anchor": {}}
    with pytest.raises(RuntimeError, match="the anchor was released"):
        anchor()


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_not_positive_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="scale must be positive and finite"):
        L2SP(network(), scale=scale)


def test_wrong_parameters_are_named() -> None:
    with pytest.raises(ValueError, match="includes must keep at least one parameter"):
        L2SP(network(), scale=1.0, includes=lambda name: False)
    anchor = L2SP(network(), scale=1.0)
    with pytest.raises(ValueError, match=r"these differ: \['0.bias'"):
        anchor.load_state_dict(L2SP(nn.Linear(2, 2), scale=1.0).state_dict())


@pytest.mark.parametrize("scale", ["a", None, True])
def test_a_scale_that_is_no_number_is_named(scale: object) -> None:
    with pytest.raises(TypeError, match="scale must be a number, got"):
        L2SP(network(), scale=scale)  # type: ignore[arg-type]
