"""What the documents say must be what the committed records say."""

from pathlib import Path

import pytest

from segue.report.docs import outdated_docs

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "results").glob("*.parquet"))


def test_generated_blocks_are_those_of_the_committed_results() -> None:
    assert RESULTS
    assert outdated_docs(ROOT, RESULTS) == [], "run: segue report --docs"


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_a_results_file_is_small_and_names_no_folder_of_a_machine(path: Path) -> None:
    assert path.stat().st_size <= 5_000_000
    import polars as pl

    for name, column in pl.read_parquet(path).to_dict(as_series=False).items():
        texts = [text for text in column if isinstance(text, str)]
        assert not any("/root/" in text or "/home/" in text for text in texts), name
