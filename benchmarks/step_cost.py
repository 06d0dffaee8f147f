"""Process time of one optimizer step, as a ratio to the plain step's.

Small ResNet, images of 3 x 32 x 32, B = 64 target and R = 32 source examples, AdamW, one thread. Every
arm has its own model and optimizer and sees the same batches; arms take turns in shuffled order. A
ratio is that of the medians; its spread is that of the ratios within the rounds (quartiles).
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import segue
from benchmarks.measuring import interleaved, spread, verdict
from segue.experiments.supervised.models import ResNetConfig, build_model

B, R = 64, 32
NUM_ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 60
FULL = (B + R) / B

# arm: (schedule, way, what the ratio may be)
ARMS: dict[str, tuple[segue.Schedule, str, tuple[float, float]]] = {
    "plain again (noise)": (segue.hard_switch(), "plain", (0.0, 9.9)),
    "after the ramp, mix": (segue.hard_switch(), "mix", (0.0, 1.01)),
    "after the ramp, backward": (segue.hard_switch(), "backward", (0.0, 1.01)),
    "after the ramp, blend": (segue.hard_switch(), "joint", (0.0, 1.01)),
    "ramp, mixed": (segue.constant(0.5), "mixed", (0.0, 1.05)),
    "ramp, joint": (segue.constant(0.5), "joint", (0.95 * FULL, 1.05 * FULL)),
    "ramp, mix": (segue.constant(0.5), "mix", (0.95 * FULL, 1.05 * FULL)),
    "ramp, backward": (segue.constant(0.5), "backward", (0.95 * FULL, 1.05 * FULL)),
}


def make_step(schedule: segue.Schedule, way: str) -> Callable[[], None]:
    """Return a function that trains for one step."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(B, 3, 32, 32, generator=generator)
    labels = torch.randint(0, 10, (B,), generator=generator)
    model = build_model(ResNetConfig(), seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    smoothing = replay = None
    if way != "plain":
        bank = (
            torch.randn(256, 3, 32, 32, generator=generator),
            torch.randint(0, 10, (256,), generator=generator),
        )
        replay = segue.Replay(bank, num_examples=None, batch_size=R)
        smoothing = segue.Smoothing(schedule, optimizer=optimizer, sources=[replay])

    def loss(batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def step() -> None:
        target = (images, labels)
        if smoothing is None or replay is None:
            loss(target).backward()
        elif way == "mix":
            smoothing.mix(source=lambda: loss(next(replay)), target=lambda: loss(target)).backward()
        elif way == "backward":
            smoothing.backward(source=lambda: loss(next(replay)), target=lambda: loss(target))
        else:
            blend = smoothing.blend(target=target, source=replay, mode=way)  # type: ignore[arg-type]
            x, y = blend.batch
            blend.loss(F.cross_entropy(model(x), y, reduction="none")).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> int:
    """Print the ratios; return 1 if a target was missed."""
    torch.set_num_threads(1)
    steps = {"plain": make_step(segue.hard_switch(), "plain")}
    steps |= {name: make_step(schedule, way) for name, (schedule, way, _) in ARMS.items()}
    seconds = interleaved(steps, NUM_ROUNDS)
    plain = statistics.median(seconds["plain"])
    print(f"B = {B}, R = {R}, (B + R) / B = {FULL:.3f}, {NUM_ROUNDS} rounds")
    print(f"{'plain step':28s} {1000 * plain:7.1f} ms of process time")
    missed = False
    for name, (_, _, (low, high)) in ARMS.items():
        ratio = statistics.median(seconds[name]) / plain
        _, first, third = spread(
            [a / b for a, b in zip(seconds[name], seconds["plain"], strict=True)]
        )
        ok = low <= ratio <= high
        missed |= not ok
        target = f"<= {high:.2f}" if low == 0.0 else f"{low:.3f} to {high:.3f}"
        target = "" if high > 9 else f"target {target}: {verdict(ok)}"
        print(f"{name:28s} {ratio:7.3f} x  quartiles {first:.3f} to {third:.3f}  {target}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
