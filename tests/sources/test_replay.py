"""The replay bank: what it holds, the order it serves in, its state, and what it leaves alone."""

from __future__ import annotations

import itertools
import random
import tracemalloc
import weakref
from collections import Counter, namedtuple
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import segue
from segue.batches import hash_content


def replay_of(num_examples: int = 12, **keywords: Any) -> segue.Replay:
    settings: dict[str, Any] = {"num_examples": None, "batch_size": 4, **keywords}
    return segue.Replay(torch.arange(num_examples), **settings)


def draw(replay: segue.Replay, num_batches: int) -> list[int]:
    return torch.cat([next(replay) for _ in range(num_batches)]).tolist()


class MapStyle(Dataset[Any]):
    """Counts what is asked of it; its transform draws from every global random state."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        assert 0 <= index < self.size
        self.asked.append(index)
        noise = torch.rand(2) + float(np.random.rand()) + random.random()
        return noise, index


class Stream(IterableDataset[Any]):
    """An iterable dataset that knows its length, as many do."""

    def __len__(self) -> int:
        return 10

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.arange(10))


# -- order -------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(0, 2**40), st.integers(1, 5))
@settings(max_examples=50)
def test_every_pass_is_a_permutation_of_the_bank(size: int, seed: int, num_passes: int) -> None:
    served = draw(replay_of(size, seed=seed, batch_size=1), num_passes * size)
    for start in range(0, len(served), size):
        assert sorted(served[start : start + size]) == list(range(size))


def test_passes_are_shuffled_anew_and_a_batch_may_span_two() -> None:
    served = draw(replay_of(10, batch_size=4), 5)
    assert len(served) == 20
    first, second = served[:10], served[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert first != list(range(10))


def test_order_is_a_function_of_seed_and_pass_alone() -> None:
    torch.manual_seed(1)
    first = draw(replay_of(seed=3), 9)
    torch.manual_seed(2)
    torch.rand(5)
    assert draw(replay_of(seed=3), 9) == first
    assert draw(replay_of(seed=4), 9) != first
    # Nor does it depend on how the stream is cut into batches.
    assert draw(replay_of(seed=3, batch_size=12), 3) == first


@given(st.data())
@settings(max_examples=50)
def test_ranks_and_micro_batches_are_slices_of_the_global_batch(data: st.DataObject) -> None:
    world_size = data.draw(st.integers(1, 4))
    num_micro = data.draw(st.integers(1, 4))
    size = world_size * num_micro * data.draw(st.integers(1, 3))
    bank = size + data.draw(st.integers(0, 7))
    whole = replay_of(bank, batch_size=size)
    ranks = [
        replay_of(
            bank, batch_size=size, rank=rank, world_size=world_size, num_micro_batches=num_micro
        )
        for rank in range(world_size)
    ]
    for _ in range(4):
        parts = [next(replay) for _ in range(num_micro) for replay in ranks]
        assert torch.cat(parts).tolist() == next(whole).tolist()


def test_taking_serves_every_rank_its_own_part_of_the_stream() -> None:
    whole = replay_of(12, batch_size=12)
    ranks = [replay_of(12, rank=rank, world_size=2) for rank in range(2)]
    stream = draw(whole, 2)
    served = []
    for count in (3, 1, 2, 4):
        served += [example for replay in ranks for example in replay.take(count).tolist()]
    assert served == stream[:20]
    assert len(replay_of(3, batch_size=1).take(7)) == 7  # more than the bank: the next pass follows


# -- state -------------------------------------------------------------------------------------


@given(st.integers(0, 20), st.integers(0, 20))
@settings(max_examples=30)
def test_resumed_stream_has_the_content_of_the_undisturbed_one(before: int, after: int) -> None:
    def make() -> segue.Replay:
        return segue.Replay(
            TensorDataset(torch.arange(50.0), torch.arange(50)),
            num_examples=9, batch_size=4, num_micro_batches=2, seed=1,
        )  # fmt: skip

    undisturbed, first, resumed = make(), make(), make()
    for _ in range(before):
        next(first)
        next(undisturbed)
    resumed.load_state_dict(first.state_dict())
    for _ in range(after):
        assert hash_content(next(resumed)) == hash_content(next(undisturbed))
    assert resumed.state_dict() == undisturbed.state_dict()


def test_state_of_another_bank_order_or_batch_is_refused() -> None:
    state = replay_of().state_dict()
    for other, message in [
        (replay_of(13), "must hold the examples it held when it was saved"),
        (replay_of(seed=1), r"seed must equal the saved replay's \(0\), got 1"),
        (replay_of(batch_size=6), r"batch_size must equal the saved replay's \(4\), got 6"),
        (replay_of(num_micro_batches=2), "num_micro_batches must equal the saved"),
    ]:
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(state)
        assert other.state_dict()["position"] == 0


def test_number_of_ranks_may_change_on_resume() -> None:
    single = replay_of(12, batch_size=4)
    next(single)
    ranks = [replay_of(12, batch_size=4, rank=rank, world_size=2) for rank in range(2)]
    for replay in ranks:
        replay.load_state_dict(single.state_dict())
    assert torch.cat([next(replay) for replay in ranks]).tolist() == next(single).tolist()


def test_content_hash_differs_when_one_value_does() -> None:
    data = torch.arange(12.0)
    changed = data.clone()
    changed[7] = torch.nextafter(changed[7], torch.tensor(100.0))

    def content_hash(values: Any, **keywords: Any) -> str:
        return segue.Replay(values, num_examples=None, batch_size=1, **keywords).content_hash

    assert content_hash(data) == content_hash(data.clone())
    hashes = [
        content_hash(values) for values in (data, changed, data.double(), data.reshape(12, 1))
    ]
    assert len(set(hashes)) == 4
    rows = [{"text": "a", "ids": [1, 2]}, {"text": "b", "ids": [3]}]
    other = [{"text": "a", "ids": [1]}, {"text": "b", "ids": [2, 3]}]
    assert content_hash(rows, collate_fn=list) != content_hash(other, collate_fn=list)


def test_hash_of_an_object_array_is_that_of_its_content() -> None:
    first = np.array([10**20, "text"], dtype=object)
    second = np.array([10**20 + 0, "te" + "xt"], dtype=object)
    assert hash_content(first) == hash_content(second)
    assert hash_content(first) != hash_content(np.array([10**20, "next"], dtype=object))
    with pytest.raises(TypeError, match="cannot hash the content of a set"):
        hash_content({1, 2})


def test_released_bank_says_so_and_keeps_its_position() -> None:
    replay = replay_of()
    next(replay)
    inside = replay.state_dict()
    replay.release()
    assert replay.released
    for use in (lambda: next(replay), lambda: replay.take(2)):
        with pytest.raises(RuntimeError, match="the replay bank was released"):
            use()
    state = replay.state_dict()
    assert state["position"] == 4
    fresh = replay_of()
    fresh.load_state_dict(state)
    assert fresh.released
    with pytest.raises(ValueError, match="was released and cannot go back into the ramp"):
        replay.load_state_dict(inside)


def test_release_frees_the_memory_of_the_bank() -> None:
    tracemalloc.start()
    try:
        rows = (bytes(10_000) for _ in range(200))
        replay = segue.Replay(rows, num_examples=None, batch_size=2, collate_fn=list)
        held = tracemalloc.get_traced_memory()[0]
        replay.release()
        assert held - tracemalloc.get_traced_memory()[0] > 1_900_000
    finally:
        tracemalloc.stop()


def test_no_batch_of_tensors_outlives_its_step() -> None:
    replay = segue.Replay(torch.randn(64, 50), num_examples=None, batch_size=16)
    served = [weakref.ref(next(replay)) for _ in range(4 * 20)]
    assert not any(reference() is not None for reference in served)


def test_memory_stays_flat_over_twenty_passes() -> None:
    rows = [bytes(1000) for _ in range(64)]
    # bytearray copies, in memory that Python traces.
    replay = segue.Replay(
        rows, num_examples=None, batch_size=16, collate_fn=lambda rows: list(map(bytearray, rows))
    )
    for _ in range(8):
        next(replay)
    tracemalloc.start()
    try:
        for _ in range(4):
            next(replay)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(4 * 20):
            next(replay)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 16_000  # one batch held on to would be more


# -- what it takes ------------------------------------------------------------------------------


Point = namedtuple("Point", ["x", "y"])


def test_banks_of_tensors_keep_their_structure_and_their_rows_together() -> None:
    x = torch.arange(20)
    for data, first, second in [
        ((x, x * 2), lambda b: b[0], lambda b: b[1]),
        ({"x": x, "y": x * 2}, lambda b: b["x"], lambda b: b["y"]),
        (Point(x, x * 2), lambda b: b.x, lambda b: b.y),
        (TensorDataset(x, x * 2), lambda b: b[0], lambda b: b[1]),
        ([{"x": a, "y": a * 2} for a in x], lambda b: b["x"], lambda b: b["y"]),
        ([Point(a, int(a) * 2) for a in x], lambda b: b.x, lambda b: b.y),
    ]:
        batch = next(segue.Replay(data, num_examples=8, batch_size=8))
        assert torch.equal(second(batch), first(batch) * 2)
        assert len(first(batch).unique()) == 8


def test_list_of_tensors_is_a_list_of_examples() -> None:
    batch = next(segue.Replay([torch.ones(3), torch.zeros(3)], num_examples=None, batch_size=2))
    assert batch.shape == (2, 3)


def test_serving_a_batch_does_not_expose_the_bank() -> None:
    data = torch.ones(4)
    replay = segue.Replay(data, num_examples=None, batch_size=4)
    next(replay).zero_()
    data.zero_()
    assert next(replay).tolist() == [1.0] * 4


def test_map_style_bank_touches_only_what_it_keeps() -> None:
    dataset = MapStyle(1_000_000)
    replay = segue.Replay(dataset, num_examples=64, batch_size=8)
    assert len(dataset.asked) == len(set(dataset.asked)) == 64
    assert max(dataset.asked) > 500_000
    for _ in range(40):
        next(replay)
    assert len(dataset.asked) == 64


def test_choice_of_the_bank_follows_the_seed() -> None:
    kept = []
    for seed in (0, 0, 1):
        dataset = MapStyle(1000)
        segue.Replay(dataset, num_examples=16, batch_size=8, seed=seed)
        kept.append(dataset.asked)
    assert kept[0] == kept[1] != kept[2]


def test_bank_takes_the_head_of_an_infinite_iterable() -> None:
    batch = next(segue.Replay(map(torch.tensor, itertools.count()), num_examples=6, batch_size=6))
    assert sorted(batch.tolist()) == list(range(6))


def test_bank_takes_generators_iterable_datasets_and_loaders_of_examples() -> None:
    loader = DataLoader(TensorDataset(torch.arange(10)), batch_size=None)
    for data in ((torch.tensor(i) for i in range(10)), Stream(), loader, iter(loader)):
        served = next(segue.Replay(data, num_examples=None, batch_size=10))
        served = served if isinstance(served, Tensor) else served[0]
        assert sorted(served.tolist()) == list(range(10))


def test_own_collator_gets_whole_examples_of_any_length() -> None:
    rows = [{"ids": list(range(n))} for n in range(1, 9)]

    def pad(examples: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        longest = max(len(e["ids"]) for e in examples)
        ids = [e.pop("ids") for e in examples]  # some collators take their input apart
        return {
            "ids": torch.tensor([row + [-1] * (longest - len(row)) for row in ids]),
            "length": torch.tensor([len(row) for row in ids]),
        }

    replay = segue.Replay(rows, num_examples=None, batch_size=2, collate_fn=pad)
    before = replay.content_hash
    lengths: Counter[int] = Counter()
    for _ in range(8):
        batch = next(replay)
        lengths.update(batch["length"].tolist())
        assert batch["ids"].shape[1] == batch["length"].max()
    assert lengths == dict.fromkeys(range(1, 9), 2)
    again = segue.Replay(rows, num_examples=None, batch_size=2, collate_fn=pad)
    assert again.content_hash == before


def test_own_collator_serves_rows_of_tensor_data() -> None:
    data = {"x": torch.arange(6), "y": torch.arange(6) * 2}
    replay = segue.Replay(data, num_examples=None, batch_size=3, collate_fn=lambda rows: rows)
    for row in next(replay):
        assert row["y"] == row["x"] * 2


# -- what it leaves alone -----------------------------------------------------------------------


def states() -> tuple[list[int], list[int], Any]:
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


def noisy(examples: list[Any]) -> Tensor:
    x = torch.stack([example[0] for example in examples])
    return x + torch.rand_like(x) + float(np.random.rand()) + random.random()


@pytest.mark.parametrize("collate_fn", [None, noisy])
def test_global_random_states_are_untouched_by_making_and_drawing(collate_fn: Any) -> None:
    before = states()
    replay = segue.Replay(MapStyle(50), num_examples=8, batch_size=4, collate_fn=collate_fn)
    for _ in range(5):
        next(replay)
    replay.take(3)
    loader = DataLoader(TensorDataset(torch.arange(10)), batch_size=None, shuffle=True)
    segue.Replay(loader, num_examples=8, batch_size=4)
    assert states() == before


def test_random_transforms_and_collators_follow_the_seed_not_the_global_state() -> None:
    def served(seed: int, outside: int) -> list[str]:
        torch.manual_seed(outside)
        np.random.seed(outside)
        random.seed(outside)
        replay = segue.Replay(
            MapStyle(50), num_examples=8, batch_size=4, seed=seed, collate_fn=noisy
        )
        return [replay.content_hash, *(hash_content(next(replay)) for _ in range(4))]

    first = served(0, 1)
    assert served(0, 2) == first  # else a resumed process would be refused its own bank
    assert len({*first, *served(1, 1)}) == 10


def test_failing_dataset_leaves_the_random_states_as_they_were() -> None:
    class Broken(MapStyle):
        def __getitem__(self, index: int) -> Any:
            torch.rand(1)
            raise OSError("cannot read image 7")

    before = states()
    with pytest.raises(OSError, match="cannot read image 7"):
        segue.Replay(Broken(50), num_examples=8, batch_size=4)
    assert states() == before


# -- errors -------------------------------------------------------------------------------------


BAD: dict[str, tuple[type[Exception], Any, dict[str, Any]]] = {
    "must hold at least one source example, got an empty one": (ValueError, [], {"num_examples": None}),
    "hold at least one source example, got an empty": (ValueError, torch.zeros(0, 3), {}),
    "at least one source example, got an empty": (ValueError, iter(()), {}),
    "num_examples must be <= the number of source examples (10), got 11; pass num_examples=None": (
        ValueError, torch.zeros(10), {"num_examples": 11}),
    "the number of source examples (10), got 12": (ValueError, Stream(), {"num_examples": 12}),
    "batch_size must be <= the number of source examples kept (3), got 4": (
        ValueError, torch.zeros(10), {"num_examples": 3}),
    "num_examples must be >= 1, got 0": (ValueError, torch.zeros(10), {"num_examples": 0}),
    "num_examples must be an integer, got 2.5": (TypeError, torch.zeros(10), {"num_examples": 2.5}),
    "batch_size must be >= 1, got 0": (ValueError, torch.zeros(10), {"batch_size": 0}),
    "seed must be >= 0, got -1": (ValueError, torch.zeros(10), {"seed": -1}),
    "rank must be < world_size (2), got 2": (ValueError, torch.zeros(10), {"rank": 2, "world_size": 2}),
    "batch_size must be a multiple of world_size * num_micro_batches (3 * 1), got 4": (
        ValueError, torch.zeros(10), {"world_size": 3}),
    "dataset must be tensors, a map-style dataset or an iterable, got int": (TypeError, 3, {}),
    "map-style dataset or an iterable, got dict": (TypeError, {"x": [1, 2, 3]}, {"num_examples": None}),
    "the tensors of dataset must share their first dimension": (
        ValueError, (torch.zeros(10), torch.zeros(9)), {}),
    "got a DataLoader of batches; pass its .dataset": (
        TypeError, DataLoader(TensorDataset(torch.zeros(10)), batch_size=2), {}),
    "cannot be collated by default": (TypeError, [torch.zeros(n) for n in range(9)], {}),
    "must be a tensor, got str); pass collate_fn=": (TypeError, [{"text": "a"}] * 9, {}),
    "collated by default ('y'); pass collate_fn=": (
        TypeError, [{"x": 1, "y": 2}, *[{"x": 1}] * 8], {"num_examples": None, "collate_fn": None}),
    "device must be None with collate_fn, got 'cpu'": (
        ValueError, torch.zeros(10), {"device": "cpu", "collate_fn": list}),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_a_source_that_cannot_serve_is_refused_before_training(message: str) -> None:
    error, data, keywords = BAD[message]
    with pytest.raises(error) as caught:
        segue.Replay(data, **{"num_examples": 8, "batch_size": 4, **keywords})
    assert message in str(caught.value)


def test_taking_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="num_examples must be >= 1, got 0"):
        replay_of().take(0)


def test_numpy_columns_are_refused_and_a_list_of_arrays_is_examples() -> None:
    columns = (np.zeros((10, 3)), np.zeros(10))
    with pytest.raises(TypeError, match="a tuple as dataset must hold tensors, got NumPy arrays"):
        segue.Replay(columns, num_examples=None, batch_size=2)
    rows = segue.Replay([np.zeros(3)] * 10, num_examples=None, batch_size=2)
    assert next(rows).shape == (2, 3)


def test_examples_that_no_checkpoint_can_identify_are_refused_at_once() -> None:
    with pytest.raises(TypeError, match="cannot hash the content of a object"):
        segue.Replay([object()] * 4, num_examples=None, batch_size=2, collate_fn=list)
