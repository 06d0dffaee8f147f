"""Run every benchmark, each in a process of its own, and fail if a target is missed."""

from __future__ import annotations

import subprocess
import sys

NAMES = (
    "step_cost", "import_time", "memory", "source_terms", "adapter_overhead", "rl_updates",
    "rl_end_to_end", "rl_throughput",
)  # fmt: skip

if __name__ == "__main__":
    missed = 0
    for name in NAMES:
        print(f"\n== {name}", flush=True)
        missed += subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode != 0
    sys.exit(missed)
