"""Builds records for the analysis tests; no torch, no training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from segue.runs.records import Record


@pytest.fixture
def make_record() -> Callable[..., Record]:
    """A target record: dotted keyword-like paths go to the config, the rest has defaults."""

    def make(
        method: str,
        seed: int,
        accuracy: float | None = None,
        *,
        shift: str = "noise",
        split: str = "test",
        error: dict[str, str] | None = None,
        curves: dict[str, Any] | None = None,
        method_settings: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Record:
        config = {
            "shift": {"name": shift},
            "method": {"name": method, **(method_settings or {})},
            "seed": seed,
            "source": {"seed": seed, "num_steps": 100},
            "num_target_examples": 1000,
            "num_target_steps": 300,
            "learning_rate": 0.1,
            "split": split,
            **fields,
        }
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
        return Record(
            run_id=digest[:16],
            family="supervised",
            kind="target",
            config=config,
            status="failed" if error else "completed",
            error=error,
            metrics={} if error else {"target_accuracy": accuracy, "source_accuracy": 0.5},
            curves=curves or {},
            artifacts={},
            provenance={},
            timing={},
        )

    return make
