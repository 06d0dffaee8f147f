"""Process time of one optimizer step, as a ratio to the plain step's.

Small ResNet, images of 3 x 32 x 32, B = 64 target and R = 64 (or 32) source examples, AdamW, one
thread. A ramp step should cost (B + R) / B plain ones; half a batch costs a CPU more than half a step,
so the ratios for R = 32 are shown without a target. The arms train the same network, each with its own optimizer, and take turns in shuffled order. A ratio is
that of the medians over rounds, with its 95 % bootstrap interval. A target counts as missed where the
whole interval lies outside it: on a busy machine even the plain step differs from itself.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segue
from benchmarks.measuring import interleaved, ratio_of_medians, verdict
from segue.experiments.supervised.models import ResNetConfig, build_model

B = R = 64
NUM_ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 150
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
    "ramp, joint, R = 32": (segue.constant(0.5), "joint", (0.0, 9.9)),
    "ramp, mix, R = 32": (segue.constant(0.5), "mix", (0.0, 9.9)),
}


def make_step(
    model: nn.Module, schedule: segue.Schedule, way: str, num_source: int = R
) -> Callable[[], None]:
    """Return a function that trains ``model`` for one step."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(B, 3, 32, 32, generator=generator)
    labels = torch.randint(0, 10, (B,), generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    smoothing = replay = None
    if way != "plain":
        bank = (
            torch.randn(256, 3, 32, 32, generator=generator),
            torch.randint(0, 10, (256,), generator=generator),
        )
        replay = segue.Replay(bank, num_examples=None, batch_size=num_source)
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


def own_work() -> dict[str, float]:
    """Seconds that a call adds after the ramp, on a loss that costs next to nothing."""
    smoothing = segue.Smoothing(segue.hard_switch())
    losses, batch = torch.rand(B, requires_grad=True), torch.zeros(B)
    replay = segue.Replay(batch, num_examples=None, batch_size=R)

    def repeat(function: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(1000):
                function()

        return run

    def mix() -> Tensor:
        return smoothing.mix(source=losses.sum, target=losses.mean)

    def blend() -> Tensor:
        return smoothing.blend(target=batch, source=replay, mode="mixed").loss(losses)

    seconds = interleaved(
        {"plain": repeat(losses.mean), "mix": repeat(mix), "blend": repeat(blend)}, 11
    )
    medians = {name: statistics.median(values) / 1000 for name, values in seconds.items()}
    return {name: medians[name] - medians["plain"] for name in ("mix", "blend")}


def main() -> int:
    """Print the ratios; return 1 if a target was missed."""
    torch.set_num_threads(1)
    model = build_model(ResNetConfig(), seed=0)
    steps = {"plain": make_step(model, segue.hard_switch(), "plain")}
    for name, (schedule, way, _) in ARMS.items():
        steps[name] = make_step(model, schedule, way, 32 if name.endswith("R = 32") else R)
    seconds = interleaved(steps, NUM_ROUNDS)
    plain = statistics.median(seconds["plain"])
    print(f"B = {B}, R = {R}, (B + R) / B = {FULL:.3f}, {NUM_ROUNDS} rounds")
    print(f"{'plain step':28s} {1000 * plain:7.1f} ms of process time")
    missed = False
    for name, (_, _, (low, high)) in ARMS.items():
        ratio, first, last = ratio_of_medians(seconds[name], seconds["plain"])
        outside = last < low or first > high
        missed |= outside
        decision = verdict(not outside) if outside or low <= ratio <= high else "within the noise"
        target = f"<= {high:.2f}" if low == 0.0 else f"{low:.3f} to {high:.3f}"
        target = "" if high > 9 else f"target {target}: {decision}"
        print(f"{name:28s} {ratio:7.3f} x  95 % {first:.3f} to {last:.3f}  {target}")
    for name, added in own_work().items():
        print(
            f"{'after the ramp, ' + name:28s} adds {1e6 * added:.1f} microseconds of its own, "
            f"{100 * added / plain:.3f} % of the plain step"
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
