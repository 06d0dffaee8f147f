"""The paper's judge: its numbers, and which run is the reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from segue.experiments.language.paper import paper_grid
from segue.judge import paper
from segue.judge.paper import reference_record
from segue.runs.grid import config_to_dict, run_id
from segue.runs.records import Record


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Every run of the paper's preset, as if it were done."""
    kept = {"artifact": {"file": "artifacts/x", "sha256": "0"}}
    return [
        Record(run_id(c), c.family, c.kind, config_to_dict(c), "completed", artifacts=kept)
        for c in paper_grid([])
    ]


def test_the_settings_are_the_papers() -> None:
    assert paper.MODEL == "meta-llama/Meta-Llama-3-70B-Instruct"
    assert (paper.TENSOR_PARALLEL_SIZE, paper.TEMPERATURE, paper.MAX_JUDGE_TOKENS) == (4, 0.0, 8)
    assert paper.MAX_RESPONSE_CHARACTERS == 12_000


@pytest.mark.parametrize("target", ["anthropic_hh", "tulu_v1"])
def test_the_reference_is_one_hard_switch_of_each_target(
    target: str, records: list[Record]
) -> None:
    config = reference_record(records, target).config
    assert config["shift"]["name"] == target
    assert config["revision"] == "step447000-tokens1874B"
    assert config["method"]["name"] == "hard_switch"
    assert (config["optimizer"]["learning_rate"], config["seed"]) == (1e-5, 0)


def test_a_missing_reference_says_what_was_looked_for_and_what_is_nearest(
    records: list[Record],
) -> None:
    reference = reference_record(records, "tulu_v1")
    others = [record for record in records if record is not reference]
    with pytest.raises(ValueError, match=r"target tulu_v1, revision step447000-tokens1874B") as e:
        reference_record(others, "tulu_v1")
    assert "among 269 runs (the nearest has " in str(e.value)
    with pytest.raises(ValueError, match="among 0 runs; name another"):
        reference_record([], "tulu_v1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": "failed"}, "the reference of tulu_v1, run .* failed"),
        ({"artifacts": {}}, "kept no weights"),
    ],
)
def test_a_reference_without_weights_is_refused(
    changes: dict[str, Any], message: str, records: list[Record]
) -> None:
    reference = reference_record(records, "tulu_v1")
    with pytest.raises(ValueError, match=message):
        reference_record([replace(reference, **changes)], "tulu_v1")


def test_two_references_are_refused(records: list[Record]) -> None:
    reference = reference_record(records, "tulu_v1")
    with pytest.raises(ValueError, match=f"must be one run, got .*{reference.run_id}, other"):
        reference_record([reference, replace(reference, run_id="other")], "tulu_v1")
