"""Process time of ``import segue``: by itself (torch stays out), and with all its names beyond torch's."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.measuring import spread, verdict

NUM_ROUNDS = 9
LIMIT_MS = 50.0
_MEASURE = "import time; t = time.process_time(); {}; print(time.process_time() - t)"
ARMS = {
    "import segue (no torch)": _MEASURE.format("import segue"),
    "every name, beyond torch": "import torch; "
    + _MEASURE.format("import segue; [getattr(segue, name) for name in segue.__all__]"),
}


def main() -> int:
    """Print the times; return 1 if the limit was missed."""
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    for _ in range(NUM_ROUNDS):
        for name, code in ARMS.items():
            result = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            )
            seconds[name].append(1000 * float(result.stdout))
    missed = False
    for name, values in seconds.items():
        middle, low, high = spread(values)
        missed |= middle > LIMIT_MS
        print(
            f"{name:28s} {middle:7.1f} ms  quartiles {low:.1f} to {high:.1f}  "
            f"target <= {LIMIT_MS:.0f}: {verdict(middle <= LIMIT_MS)}"
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
