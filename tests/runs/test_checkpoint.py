from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from segue.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint


def assert_equal(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        as_bytes = [x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b)]
        assert torch.equal(*as_bytes)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b or (a != a and b != b)  # NaN


SHARED = torch.arange(4.0)
STATES: list[Any] = [
    {},
    {"a": 1, "b": 0.1 + 0.2, "c": "ü\x00", "d": None, "e": True, 3: [1, (2, 3)], -1: {}},
    {"nan": float("nan"), "inf": float("-inf"), "big": 2**62},
    {"scalar": torch.tensor(3), "empty": torch.empty(0, 2), "bool": torch.tensor([True])},
    {"shared": [SHARED, SHARED, SHARED[1:3]], "strided": torch.arange(6.0).reshape(2, 3).T},
    {"nan": torch.tensor([float("nan"), -0.0]), "half": torch.ones(2, dtype=torch.bfloat16)},
    {"channels_last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)},
    [{"tensor": "not a tensor"}, {"dict": 1}, {"float": "1"}],
]


@pytest.mark.parametrize("state", STATES, ids=range(len(STATES)))
def test_a_state_survives_its_file_in_every_type_and_bit(tmp_path: Path, state: Any) -> None:
    save_checkpoint(tmp_path / "c", state)
    assert_equal(load_checkpoint(tmp_path / "c"), state)


DTYPES = [
    *("float64", "float32", "float16", "bfloat16", "complex64", "complex128", "bool"),
    *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
]


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_survives_its_file(tmp_path: Path, name: str) -> None:
    dtype = getattr(torch, name)
    raw = torch.arange(32, dtype=torch.uint8)
    tensor = raw.remainder(2).bool() if dtype is torch.bool else raw.view(dtype)
    save_checkpoint(tmp_path / "c", [tensor, tensor[0], tensor[:0]])
    assert_equal(load_checkpoint(tmp_path / "c"), [tensor, tensor[0], tensor[:0]])


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_a_lazily_conjugated_tensor_is_saved_by_value(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.tensor([1 + 2j, 3 - 4j], dtype=dtype)
    save_checkpoint(tmp_path / "c", [tensor.conj(), tensor.conj().imag])
    loaded = load_checkpoint(tmp_path / "c")
    assert loaded[0].tolist() == [1 - 2j, 3 + 4j]
    assert loaded[1].tolist() == [-2.0, 4.0]


def test_a_sparse_tensor_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state\['a'\] must be a dense tensor, got .*sparse"):
        save_checkpoint(tmp_path / "c", {"a": torch.eye(2).to_sparse()})


def test_an_optimizer_continues_from_its_file_bit_by_bit(tmp_path: Path) -> None:
    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(3):
            model(torch.ones(2, 3)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer)
    save_checkpoint(tmp_path / "c", {"m": model.state_dict(), "o": optimizer.state_dict()})
    train(model, optimizer)

    other = nn.Linear(3, 2)
    other_optimizer = torch.optim.AdamW(other.parameters())
    saved = load_checkpoint(tmp_path / "c")
    other.load_state_dict(saved["m"])
    other_optimizer.load_state_dict(saved["o"])
    train(other, other_optimizer)
    assert_equal(dict(other.state_dict()), dict(model.state_dict()))
    assert_equal(other_optimizer.state_dict(), optimizer.state_dict())


def test_the_file_holds_no_pickle(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", {"a": torch.ones(2), "b": "text"})
    content = (tmp_path / "c").read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert content[8:9] == b"{"
    assert len(content) == 8 + length + 8  # header, then the two float32 and nothing else


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_file_cut_short_is_named(tmp_path: Path, share: float) -> None:
    save_checkpoint(tmp_path / "c", {"a": torch.ones(100)})
    content = (tmp_path / "c").read_bytes()
    (tmp_path / "c").write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="must be a whole checkpoint"):
        load_checkpoint(tmp_path / "c")


def test_what_cannot_be_kept_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state\['a'\]\[1\] must be a tensor, .* got set"):
        save_checkpoint(tmp_path / "c", {"a": [1, {2}]})
    with pytest.raises(TypeError, match="keys of state must be strings or integers"):
        save_checkpoint(tmp_path / "c", {1.5: 1})
    assert not (tmp_path / "c").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="found no checkpoint at"):
        load_checkpoint(tmp_path / "c")
