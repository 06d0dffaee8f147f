from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from segue.rl.buffers import OnlineBuffer, Transitions, draw, pack, unpack
from segue.runs.checkpoint import load_checkpoint, save_checkpoint


def rows(start: int, num: int) -> np.ndarray:
    values = np.arange(start, start + num, dtype=np.float32)
    return np.repeat(values[:, None], 2 * 2 + 1 + 2, axis=1)


def test_packing_and_unpacking_give_the_transitions_back() -> None:
    draw_ = np.random.default_rng(0)
    given = Transitions(
        draw_.random((5, 3)), draw_.random((5, 2)), draw_.random(5),
        np.array([True, False, False, True, False]), draw_.random((5, 3)),
    )  # fmt: skip
    found = unpack(pack(given), 3, 2)
    for wanted, value in zip(given, found, strict=True):
        np.testing.assert_array_equal(value, np.asarray(wanted, np.float32))


def test_the_oldest_transitions_are_overwritten_across_the_end_of_the_ring() -> None:
    buffer = OnlineBuffer(5, num_observations=2, num_actions=1)
    for start in (0, 3, 6):
        buffer.add(rows(start, 3))
    assert buffer.size == 5
    assert sorted(np.asarray(buffer.rows[:, 0])) == [4, 5, 6, 7, 8]


def test_a_restored_buffer_goes_on_where_it_was(tmp_path: Path) -> None:
    buffer = OnlineBuffer(5, 2, 1)
    buffer.add(rows(0, 4))
    save_checkpoint(tmp_path / "buffer", buffer.state_dict())
    restored = OnlineBuffer(5, 2, 1)
    restored.load_state_dict(load_checkpoint(tmp_path / "buffer"))
    for each in (buffer, restored):
        each.add(rows(4, 3))
    np.testing.assert_array_equal(buffer.rows, restored.rows)
    assert restored.num_added == 7


def test_a_buffer_of_another_shape_is_refused() -> None:
    buffer = OnlineBuffer(5, 2, 1)
    buffer.add(rows(0, 4))
    with pytest.raises(ValueError, match="capacity 3 and row length 7, got shape"):
        OnlineBuffer(3, 2, 1).load_state_dict(buffer.state_dict())
    with pytest.raises(ValueError, match="row length 9"):
        OnlineBuffer(5, 3, 1).load_state_dict(buffer.state_dict())


def test_a_nan_names_its_transition() -> None:
    buffer = OnlineBuffer(5, 2, 1)
    buffer.add(rows(0, 2))
    broken = rows(2, 2)
    broken[1, 3] = np.nan
    with pytest.raises(ValueError, match="got nan in column 3 of transition 3"):
        buffer.add(broken)
    assert buffer.size == 2


def test_only_the_rows_that_count_are_drawn() -> None:
    import jax

    drawn = draw(jnp.asarray(rows(0, 10)), 3, jax.random.key(0), 1_000)
    assert set(np.asarray(drawn[:, 0])) == {0.0, 1.0, 2.0}
