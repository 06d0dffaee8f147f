"""Every example is at most 60 lines long and runs."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60


def test_the_plain_loop_prints_both_arms() -> None:
    path = next(path for path in EXAMPLES if path.name == "plain_loop.py")
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=True)
    names = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert names == ["hard switch", "smoothing"]
    assert all("target accuracy" in line for line in done.stdout.splitlines())
