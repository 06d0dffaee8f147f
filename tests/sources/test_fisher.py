import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import segue
from segue.sources.fisher import Fisher, diagonal_fisher, load_fisher, save_fisher


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def bank(size: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(size, 3, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (size,), generator=generator)


def dense_diagonal(model: nn.Sequential, kind: str) -> dict[str, Tensor]:
    """The definition by the dense Jacobian of all log-probabilities, mean over examples."""
    inputs, labels = bank()
    names = [name for name, _ in model.named_parameters()]
    parameters = tuple(p.detach() for p in model.parameters())

    def log_probabilities(*values: Tensor) -> Tensor:
        called = torch.func.functional_call(model, dict(zip(names, values, strict=True)), inputs)
        rows: Tensor = called.log_softmax(dim=1)
        return rows

    weights = log_probabilities(*parameters).exp()
    if kind == "empirical":
        weights = nn.functional.one_hot(labels, 3).double()
    jacobians: Any = torch.autograd.functional.jacobian(log_probabilities, parameters)  # type: ignore[no-untyped-call]
    return {
        name: torch.einsum("nc,nc...->...", weights, jacobian.square()) / len(labels)
        for name, jacobian in zip(names, jacobians, strict=True)
    }


@pytest.mark.parametrize("kind", ["true", "empirical"])
def test_the_diagonal_is_exactly_that_of_a_dense_computation(kind: Any) -> None:
    model = network()
    fisher = diagonal_fisher(model, bank(), kind=kind)
    want = dense_diagonal(model, kind)
    assert (fisher.kind, fisher.num_examples) == (kind, 6)
    assert set(fisher.diagonal) == set(want)
    for name, value in want.items():
        torch.testing.assert_close(fisher.diagonal[name], value, rtol=1e-12, atol=1e-15)


def test_gradients_are_squared_example_by_example_and_not_as_a_mean() -> None:
    model = network()
    inputs, labels = bank()
    nn.functional.cross_entropy(model(inputs), labels).backward()
    of_the_mean = model[0].weight.grad.square()  # type: ignore[operator,union-attr]
    fisher = diagonal_fisher(model, bank(), kind="empirical")
    assert fisher.diagonal["0.weight"].sum() > 2.0 * of_the_mean.sum()


def test_drawn_labels_approach_the_exact_expectation_and_follow_the_seed() -> None:
    model = network()
    exact = diagonal_fisher(model, bank(), kind="true").diagonal["2.bias"]
    drawn = diagonal_fisher(model, bank(), kind="true", num_samples=300, seed=1).diagonal["2.bias"]
    torch.testing.assert_close(drawn, exact, rtol=0.1, atol=0.0)
    few = [diagonal_fisher(model, bank(), kind="true", num_samples=2, seed=s) for s in (1, 1, 2)]
    assert torch.equal(few[0].diagonal["0.bias"], few[1].diagonal["0.bias"])
    assert not torch.equal(few[0].diagonal["0.bias"], few[2].diagonal["0.bias"])


def as_replay() -> segue.Replay:
    replay = segue.Replay(bank(), num_examples=None, batch_size=4, num_micro_batches=2, seed=5)
    next(replay)
    return replay


class Dataset:
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        inputs, labels = bank()
        return inputs[index], int(labels[index])


def as_replay_of_a_dataset() -> segue.Replay:
    return segue.Replay(Dataset(), num_examples=None, batch_size=2)


@pytest.mark.parametrize("make", [as_replay, Dataset, as_replay_of_a_dataset])
def test_every_form_of_the_source_gives_the_same(make: Callable[[], Any]) -> None:
    model = network()
    want = diagonal_fisher(model, bank(), kind="empirical")
    got = diagonal_fisher(model, make(), kind="empirical")
    assert got.num_examples == want.num_examples
    for name, value in want.diagonal.items():
        torch.testing.assert_close(got.diagonal[name], value, rtol=1e-12, atol=1e-15)


def test_a_replay_bank_is_read_whole_and_its_position_stays() -> None:
    replay, undisturbed = as_replay(), as_replay()
    diagonal_fisher(network(), replay, kind="empirical")
    assert replay.state_dict() == undisturbed.state_dict()
    assert torch.equal(next(replay)[0], next(undisturbed)[0])


def test_model_state_modes_gradients_and_random_states_are_identical_after_the_pass() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)
    ).double()
    model.train()
    model[1].eval()
    model[0].bias.requires_grad_(False)  # type: ignore[union-attr,operator]
    model(bank()[0]).sum().backward()

    def everything() -> Any:
        return (
            {name: value.tolist() for name, value in model.state_dict().items()},
            [module.training for module in model.modules()],
            [p.requires_grad for p in model.parameters()],
            [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # type: ignore[index,union-attr]
            random.getstate(),
        )

    before = everything()
    fisher = diagonal_fisher(model, bank(), kind="true")
    assert everything() == before
    assert "0.bias" not in fisher.diagonal
    # With the running statistics and without dropout, so that one example is enough.
    assert torch.isfinite(fisher.diagonal["0.weight"]).all()
    with torch.no_grad():
        diagonal_fisher(model, bank(), kind="true")  # also where no gradient is wanted
    with pytest.raises(TypeError):
        diagonal_fisher(model, ["?"], kind="true")
    assert everything() == before  # after an error as well


def test_rows_of_a_language_model_count_as_one_likelihood() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 5)).double()
    ids, labels = torch.tensor([[0, 0, 1]]), torch.tensor([[1, 2, -100]])
    data = (ids, labels)
    fisher = diagonal_fisher(model, data, kind="empirical").diagonal["0.weight"]
    log_p = model[0].weight.log_softmax(dim=1)  # type: ignore[operator]
    (want,) = torch.autograd.grad(log_p[0, 1] + log_p[0, 2], model[0].weight)  # type: ignore[arg-type]
    torch.testing.assert_close(fisher, want.square())
    drawn = diagonal_fisher(model, data, kind="true", num_samples=3)
    assert drawn.diagonal["0.weight"][1].abs().sum() == 0.0  # its only label is masked
    with pytest.raises(ValueError, match="num_samples must be given for a model with several rows"):
        diagonal_fisher(model, (ids, torch.tensor([[1, 2, 3]])), kind="true")


def test_dicts_are_passed_by_keyword_without_their_labels() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.inner(x)
            return logits

    inputs, labels = bank()
    model = Keyword()
    got = diagonal_fisher(model, {"x": inputs, "labels": labels}, kind="empirical")
    want = diagonal_fisher(model.inner, bank(), kind="empirical")
    torch.testing.assert_close(got.diagonal["inner.0.bias"], want.diagonal["0.bias"])


def test_a_stored_fisher_is_read_back_whole(tmp_path: Path) -> None:
    fisher = diagonal_fisher(network(), bank(), kind="empirical")
    save_fisher(tmp_path / "source.fisher.safetensors", fisher)
    assert [path.name for path in tmp_path.iterdir()] == ["source.fisher.safetensors"]
    loaded = load_fisher(tmp_path / "source.fisher.safetensors")
    assert (loaded.kind, loaded.num_examples) == ("empirical", 6)
    for name, value in fisher.diagonal.items():
        assert torch.equal(loaded.diagonal[name], value)


def test_a_file_that_is_no_whole_fisher_is_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    with pytest.raises(FileNotFoundError, match=r"found no Fisher at .*weights.safetensors"):
        load_fisher(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"must be a Fisher of format segue.fisher.1, got None"):
        load_fisher(path)
    save_fisher(path, diagonal_fisher(network(), bank(), kind="true"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="must be a whole safetensors file"):
        load_fisher(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "a.safetensors"
    fisher = diagonal_fisher(network(), bank(), kind="true")
    save_fisher(path, fisher)
    content = path.read_bytes()

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        save_fisher(path, Fisher({"w": torch.ones(1)}, "true", 1))
    assert path.read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "tru"}, "unknown kind 'tru'; did you mean 'true'"),
        ({"kind": "empirical", "num_samples": 2}, "num_samples must be None for kind 'empirical'"),
        ({"kind": "true", "num_samples": 0}, "num_samples must be >= 1, got 0"),
        ({"kind": "true", "includes": lambda name: False}, "includes must keep at least one"),
    ],
)
def test_wrong_settings_are_named(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diagonal_fisher(network(), bank(), **settings)


def test_wrong_data_are_named() -> None:
    with pytest.raises(ValueError, match="data must hold at least one example, got none"):
        diagonal_fisher(network(), (torch.zeros(0, 3).double(), torch.zeros(0).long()), kind="true")
    with pytest.raises(TypeError, match="data must hold inputs and labels, got a tensor"):
        diagonal_fisher(network(), bank()[0], kind="true")
    with pytest.raises(TypeError, match="data must have labels, got the keys"):
        diagonal_fisher(network(), {"x": bank()[0]}, kind="true")
    inputs, labels = bank()
    inputs[2] = float("inf")
    with pytest.raises(ValueError, match=r"the Fisher is not finite at example 2, in 0.weight"):
        diagonal_fisher(network(), (inputs, labels), kind="true")
