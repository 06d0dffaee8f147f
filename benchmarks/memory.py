"""Resident memory that a replay bank adds, for a source of 100 and of 1,000,000 examples.

Each measurement is a process of its own. The source makes its examples (3 x 32 x 32 floats) when it is
asked for them, as a dataset on disk does; 20 passes over the bank are served.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.measuring import verdict

MEGABYTE = 2**20
EXAMPLE_BYTES = 4 * 3 * 32 * 32
BATCH_SIZE = 20


class Source:
    """A map-style dataset of any size that holds nothing."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        import torch

        return torch.full((3, 32, 32), float(index))


def stream(size: int) -> Iterator[Any]:
    """Yield examples one by one."""
    source = Source(size)
    return (source[index] for index in range(size))


def resident() -> int:
    """Return the memory this process holds, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def measure(kind: str, size: int, num_examples: int) -> None:
    """Print the bytes that the bank and 20 passes over it add, and the seconds to make it."""
    import torch

    import segue

    torch.set_num_threads(1)
    next(segue.Replay(Source(BATCH_SIZE), num_examples=None, batch_size=BATCH_SIZE))  # warm up
    before, start = resident(), time.process_time()
    data = Source(size) if kind == "map" else stream(size)
    replay = segue.Replay(data, num_examples=num_examples, batch_size=BATCH_SIZE)
    seconds = time.process_time() - start
    for _ in range(20 * num_examples // BATCH_SIZE):
        next(replay)
    print(resident() - before, seconds)


def main() -> int:
    """Print the table; return 1 if the large source costs more than the bank it leaves."""
    added: dict[tuple[str, int, int], float] = {}
    for kind, size, num_examples in (
        ("map", 100, 100), ("map", 1_000_000, 100), ("map", 1_000_000, 1000),
        ("stream", 100, 100), ("stream", 1_000_000, 100),
    ):  # fmt: skip
        code = f"from benchmarks.memory import measure; measure({kind!r}, {size}, {num_examples})"
        output = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        added[kind, size, num_examples] = int(output[0]) / MEGABYTE
        print(
            f"{kind:7s} source of {size:9,d}, bank of {num_examples:5,d} "
            f"({num_examples * EXAMPLE_BYTES / MEGABYTE:5.1f} MiB): "
            f"+{added[kind, size, num_examples]:6.1f} MiB, made in {float(output[1]):.3f} s"
        )
    missed = False
    for kind in ("map", "stream"):
        difference = added[kind, 1_000_000, 100] - added[kind, 100, 100]
        missed |= difference > 2.0
        print(
            f"{kind}: the source of 1,000,000 costs {difference:+.1f} MiB more than that of 100  "
            f"target <= 2 MiB: {verdict(difference <= 2.0)}"
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
