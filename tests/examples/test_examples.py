"""Every example is at most 60 lines long and runs."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60


def run(name: str) -> list[str]:
    path = next(path for path in EXAMPLES if path.name == name)
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "name", ["plain_loop.py", "optax_loop.py", "accelerate_ddp.py", "lightning_module.py"]
)
def test_an_example_prints_both_arms(name: str) -> None:
    lines = [line for line in run(name) if "accuracy" in line]
    assert [line.partition(":")[0] for line in lines] == ["hard switch", "smoothing"]
    for line in lines:
        target, source = (float(part.split()[-1].rstrip("%")) for part in line.split(","))
        assert 50.0 < target <= 100.0
        assert 0.0 <= source <= 100.0


def test_the_lora_example_prints_what_was_learnt_and_what_was_forgotten() -> None:
    lines = [line for line in run("trl_sft_lora.py") if "loss" in line]
    assert [line.partition(":")[0] for line in lines] == ["hard switch", "smoothing"]
    for line in lines:
        numbers = [float(word.rstrip(",")) for word in line.split() if word[0].isdigit()]
        assert numbers[1] < numbers[0]  # the target is learnt
        assert numbers[3] > numbers[2]  # the source is not improved on


def test_the_dpo_example_prefers_what_it_was_shown() -> None:
    lines = [line for line in run("trl_dpo.py") if "preferred" in line]
    assert [line.partition(":")[0] for line in lines] == ["hard switch", "smoothing"]
    for line in lines:
        assert int(line.split()[line.split().index("preferred") + 1].rstrip("%,")) > 90


def test_the_sb3_example_prints_the_returns_of_both_arms() -> None:
    lines = [line for line in run("sb3_offline_to_online.py") if "returns" in line]
    assert [line.partition(":")[0] for line in lines] == ["hard switch", "smoothing to a floor"]


@pytest.mark.slow
def test_the_offline_to_online_example_prints_both_arms() -> None:
    lines = run("offline_to_online.py")
    assert any(line.startswith("hard switch") for line in lines)
    assert any("smoothing" in line for line in lines)


@pytest.mark.slow
def test_the_rejax_example_prints_the_returns_of_every_arm() -> None:
    arms = dict(line.split(": mean returns ") for line in run("rejax_ppo.py") if "returns" in line)
    assert list(arms) == ["plain rejax", "hard switch", "smoothing"]
    assert arms["hard switch"] == arms["plain rejax"]
    for returns in arms.values():
        first, *_, last = map(float, returns.split(", "))
        assert last > 2 * first
