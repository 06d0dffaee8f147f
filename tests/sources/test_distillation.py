import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

import segue
from segue.sources.distillation import Distillation, distillation_loss


class Network(nn.Module):
    """Convolution, batch norm, dropout and a head: all that training mode can change."""

    def __init__(self, num_classes: int = 3, width: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.3)
        )
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).mean(dim=(2, 3)))
        return logits


def network(**settings: int) -> Network:
    torch.manual_seed(0)
    return Network(**settings)


def images(size: int = 6) -> Tensor:
    return torch.randn(5, 1, size, size, generator=torch.Generator().manual_seed(1))


def test_the_loss_is_that_of_the_formula() -> None:
    student, teacher = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    p, q = (x.div(2.0).softmax(dim=1) for x in (teacher, student))
    want = 4.0 * (p * (p / q).log()).sum(dim=1).mean()
    torch.testing.assert_close(distillation_loss(student, teacher, temperature=2.0), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_logits_of_200_give_a_finite_loss_and_gradient(
    dtype: torch.dtype, temperature: float
) -> None:
    teacher = torch.tensor([[200.0, -200.0, 0.0], [-200.0, 200.0, -200.0]], dtype=dtype)
    student = (-teacher).requires_grad_()
    loss = distillation_loss(student, teacher, temperature=temperature)
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert loss.item() == pytest.approx(400.0 * temperature, rel=0.01)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().sum() > 0


def test_rows_outside_the_mask_count_for_nothing_even_if_they_are_nan() -> None:
    student, teacher = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    student[1, 2] = float("nan")
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    loss = distillation_loss(student, teacher, mask=mask)
    rows = [distillation_loss(student[i, j], teacher[i, j]) for i, j in ((0, 0), (0, 1), (1, 0))]
    torch.testing.assert_close(loss, torch.stack(rows).mean())
    assert distillation_loss(student, teacher, mask=torch.zeros(2, 3)).item() == 0.0
    with pytest.raises(ValueError, match=r"mask must have shape \(2, 3\), got \(2,\)"):
        distillation_loss(student, teacher, mask=torch.zeros(2))


def test_at_the_switch_loss_and_gradient_are_zero_and_both_are_positive_after_a_step() -> None:
    model = network().eval()
    distillation = Distillation(model, scale=1.0, temperature=2.0)
    distillation(images()).backward()  # type: ignore[no-untyped-call]
    assert max(p.grad.abs().max().item() for p in model.parameters()) < 1e-7  # type: ignore[union-attr]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    nn.functional.cross_entropy(model(images()), torch.zeros(5, dtype=torch.long)).backward()
    optimizer.step()
    loss = distillation(images())
    assert loss.item() > 0.0
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    assert model.head.weight.grad is not None
    assert model.head.weight.grad.abs().max() > 0


def test_the_teacher_is_frozen_in_evaluation_mode_whatever_the_network_does() -> None:
    model = network().train()
    distillation = Distillation(model, scale=1.0)
    before = distillation.state_dict()["teacher"]
    want = network().eval()(images())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(3):
        model(images()).square().sum().backward()
        distillation(images()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    teacher = distillation._teacher
    assert teacher is not None
    assert torch.equal(teacher(images()), want)
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    after = distillation.state_dict()["teacher"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.training


def test_a_given_teacher_is_copied_and_left_as_it_was() -> None:
    teacher = network().train()
    model = network()
    with torch.no_grad():
        model.head.bias.add_(1.0)
    distillation = Distillation(model.eval(), scale=1.0, teacher=teacher)
    assert teacher.training
    assert all(p.requires_grad for p in teacher.parameters())
    first = distillation(images()).item()
    with torch.no_grad():
        teacher.head.bias.mul_(100.0)
    assert distillation(images()).item() == first > 0.0


def test_known_outputs_spare_the_network_a_forward() -> None:
    model = network().eval()
    distillation = Distillation(model, scale=3.0)
    with torch.no_grad():
        model.head.weight.add_(torch.randn_like(model.head.weight))
    num_forwards = 0

    def count(*_: object) -> None:
        nonlocal num_forwards
        num_forwards += 1

    model.register_forward_hook(count)
    outputs = model(images())
    shared = distillation(images(), outputs=outputs)
    assert num_forwards == 1
    assert shared.item() == distillation(images()).item()
    assert num_forwards == 2


def test_features_of_a_named_layer_are_compared_by_their_mean_square() -> None:
    model = network().eval()
    distillation = Distillation(model, scale=2.0, kind="features", layer="body")
    before = model.body(images())
    with torch.no_grad():
        model.body[0].weight.mul_(1.5)  # type: ignore[operator]
    want = 2.0 * (model.body(images()) - before).square().mean()
    torch.testing.assert_close(distillation(images()), want)
    assert not model.body._forward_hooks  # nothing is left on the network
    with torch.no_grad():
        model.head.weight.zero_()
    torch.testing.assert_close(distillation(images()), want)  # the head is free


def test_outputs_of_a_transformer_are_read_with_keyword_inputs() -> None:
    class Output:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 7)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Output:
            return Output(self.embed(input_ids) * attention_mask.unsqueeze(-1))

    model = Language()
    distillation = Distillation(model, scale=1.0)
    batch = {"input_ids": torch.arange(6).view(2, 3), "attention_mask": torch.ones(2, 3)}
    with torch.no_grad():
        model.embed.weight.add_(torch.eye(7))
    assert distillation(batch, mask=batch["attention_mask"]).item() > 0.0


def test_a_teacher_of_another_label_space_architecture_or_input_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"label space.*head.weight must have shape \(3, 4\), got"):
        Distillation(network(), scale=1.0, teacher=network(num_classes=5))
    with pytest.raises(ValueError, match=r"architecture.*these differ: \['0.bias'"):
        Distillation(network(), scale=1.0, teacher=nn.Sequential(nn.Linear(1, 1)))
    sized = Distillation(network(), scale=1.0, input_shape=(1, 6, 6))
    sized(images())
    with pytest.raises(ValueError, match=r"input size of the teacher \(1, 6, 6\), got \(1, 8, 8\)"):
        sized(images(8))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with pytest.raises(ValueError, match=r"able to take the inputs, got inputs of shape \(5, 1, 8"):
        Distillation(flat, scale=1.0)(images(8))
    with pytest.raises(ValueError, match=r"label space.*\(5, 4\) were expected, got \(5, 3\)"):
        Distillation(network(), scale=1.0)(images(), outputs=torch.zeros(5, 4))


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="unknown kind 'logit'; did you mean 'logits'"):
        Distillation(network(), scale=1.0, kind="logit")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown layer 'bodi'; did you mean 'body'"):
        Distillation(network(), scale=1.0, layer="bodi")
    with pytest.raises(ValueError, match="scale must be positive and finite, got 0"):
        Distillation(network(), scale=0.0)
    with pytest.raises(ValueError, match="temperature must be positive and finite, got -1"):
        Distillation(network(), scale=1.0, temperature=-1.0)


def test_a_resumed_term_compares_with_the_same_teacher() -> None:
    model = network().eval()
    distillation = Distillation(model, scale=1.0)
    with torch.no_grad():
        model.head.weight.add_(torch.randn_like(model.head.weight))
    resumed = Distillation(model, scale=1.0)
    assert resumed(images()).item() == pytest.approx(0.0, abs=1e-6)
    resumed.load_state_dict(distillation.state_dict())
    assert resumed(images()).item() == distillation(images()).item() > 1e-3
    with pytest.raises(ValueError, match=r"these differ: \['body"):
        Distillation(network(width=5), scale=1.0).load_state_dict(distillation.state_dict())
    distillation.release()
    resumed.load_state_dict(distillation.state_dict())
    assert resumed.released


@pytest.mark.parametrize("kind", ["logits", "features"])
def test_no_teacher_is_alive_after_the_ramp(kind: str) -> None:
    model = network()
    distillation = Distillation(model, scale=1.0, kind=kind)  # type: ignore[arg-type]
    parts = [weakref.ref(module) for module in distillation._teacher.modules()]  # type: ignore[union-attr]
    parts += [weakref.ref(p) for p in distillation._teacher.parameters()]  # type: ignore[union-attr]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    smoothing = segue.Smoothing(
        segue.linear_decay(2), optimizer=optimizer, sources=[distillation], model=model
    )
    for step in range(3):
        assert all(part() is not None for part in parts) == (step < 2)
        loss = smoothing.mix(
            source=lambda: distillation(images()), target=lambda: model(images()).square().mean()
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        del loss
        gc.collect()
    assert all(part() is None for part in parts)
    with pytest.raises(RuntimeError, match="the teacher was released"):
        distillation(images())
    assert distillation.state_dict() == {"teacher": {}}
