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
    "name", ["plain_loop.py", "optax_loop.py", "accelerate_loop.py", "lightning_module.py"]
)
def test_an_example_prints_both_arms(name: str) -> None:
    lines = [line for line in run(name) if "accuracy" in line]
    assert [line.partition(":")[0] for line in lines] == ["hard switch", "smoothing"]
    for line in lines:
        target, source = (float(part.split()[-1].rstrip("%")) for part in line.split(","))
        assert 50.0 < target <= 100.0
        assert 0.0 <= source <= 100.0


def test_the_sb3_example_prints_the_returns_of_both_arms() -> None:
    lines = [line for line in run("sb3_offline_to_online.py") if "returns" in line]
    assert [line.partition(":")[0] for line in lines] == ["hard switch", "smoothing to a floor"]


@pytest.mark.slow
def test_the_offline_to_online_example_prints_both_arms() -> None:
    lines = run("offline_to_online.py")
    assert any(line.startswith("hard switch") for line in lines)
    assert any("smoothing" in line for line in lines)
