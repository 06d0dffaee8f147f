"""Process time and memory of each source term during the ramp, as ratios to the plain step.

Small ResNet, images of 3 x 32 x 32, B = 64 target and R = 64 source examples, SGD, one thread. The arms
train the same network and take turns in shuffled order in one process; a ratio is that of the medians
over rounds, with its 95 % bootstrap interval. Memory is what a term holds beyond the network, as a ratio
to the network's weights. After the ramp it must hold nothing, and the step must be a plain one: only that
can be missed.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segue
from benchmarks.measuring import interleaved, ratio_of_medians, verdict
from segue.experiments.supervised.models import ResNetConfig, build_model
from segue.sources.distillation import Distillation
from segue.sources.ewc import EWC
from segue.sources.fisher import Fisher, diagonal_fisher

B = R = 64
NUM_ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 100
NUM_FISHER_EXAMPLES = 16
MEGABYTE = 2**20

Source = Callable[[Tensor, Tensor], Tensor]
"""Source loss, given the target's images and their logits."""


def random_images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images with labels."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randn(count, 3, 32, 32, generator=generator)
    return pictures, torch.randint(0, 10, (count,), generator=generator)


def make_terms(name: str, model: nn.Module, fisher: Fisher) -> tuple[list[Any], Source]:
    """Return what a term holds, and its loss."""
    bank = segue.Replay(random_images(256, 1), num_examples=None, batch_size=R)

    def replayed() -> Tensor:
        images, labels = next(bank)
        return F.cross_entropy(model(images), labels)

    if name == "replay":
        return [bank], lambda x, logits: replayed()
    if name == "L2-SP":
        anchor = segue.L2SP(model, scale=0.01)
        return [anchor], lambda x, logits: anchor()
    if name == "replay + L2-SP":
        anchor = segue.L2SP(model, scale=0.01)
        return [bank, anchor], lambda x, logits: replayed() + anchor()
    if name == "EWC":
        ewc = EWC(model, scale=1.0, fisher=fisher)
        return [ewc], lambda x, logits: ewc()
    if name == "distillation, features":
        features = Distillation(
            model, scale=1.0, kind="features", forward=lambda network, x: network.features(x)
        )
        return [features], lambda x, logits: features(x)
    distillation = Distillation(model, scale=1.0, temperature=2.0)
    if name == "distillation, same logits":
        return [distillation], lambda x, logits: distillation(x, outputs=logits)
    if name == "distillation, target inputs":
        return [distillation], lambda x, logits: distillation(x)
    assert name == "distillation, unlabelled"
    return [distillation, bank], lambda x, logits: distillation(next(bank)[0])


NAMES = (
    "replay", "L2-SP", "EWC", "replay + L2-SP", "distillation, same logits",
    "distillation, target inputs", "distillation, unlabelled", "distillation, features",
)  # fmt: skip


def held_tensors(terms: list[Any]) -> list[weakref.ref[Tensor]]:
    """Weak references to every tensor that terms hold beyond the network's own."""
    found: list[Tensor] = []
    for term in terms:
        if isinstance(term, segue.Replay):
            found += term._bank
        elif isinstance(term, Distillation):
            assert term._teacher is not None
            found += [*term._teacher.parameters(), *term._teacher.buffers()]
        else:
            found += [*term._anchor.values(), *getattr(term, "_fisher", {}).values()]
    return [weakref.ref(tensor) for tensor in found]


def num_bytes(references: list[weakref.ref[Tensor]]) -> int:
    """Bytes of those that are alive."""
    alive = [tensor for tensor in (reference() for reference in references) if tensor is not None]
    return sum(tensor.numel() * tensor.element_size() for tensor in alive)


def make_step(
    model: nn.Module, source: Source | None, smoothing: segue.Smoothing | None
) -> Callable[[], None]:
    """Return a function that trains ``model`` for one step."""
    x, y = random_images(B, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)

    def step() -> None:
        logits = model(x)
        if source is None or smoothing is None:
            F.cross_entropy(logits, y).backward()
        else:
            smoothing.mix(
                source=lambda: source(x, logits), target=lambda: F.cross_entropy(logits, y)
            ).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> int:
    """Print the ratios; return 1 if a term holds something or costs something after the ramp."""
    torch.set_num_threads(1)
    model = build_model(ResNetConfig(), seed=0)
    examples = random_images(NUM_FISHER_EXAMPLES, 2)
    start = time.process_time()
    fisher = diagonal_fisher(model, examples, kind="true")
    fisher_seconds = (time.process_time() - start) / NUM_FISHER_EXAMPLES
    steps = {"plain": make_step(model, None, None), "plain again": make_step(model, None, None)}
    held, smoothings = {}, {}
    for name in NAMES:
        terms, source = make_terms(name, model, fisher)
        held[name] = held_tensors(terms)
        smoothings[name] = segue.Smoothing(segue.constant(0.5), sources=terms)
        steps[name] = make_step(model, source, smoothings[name])
        over = segue.Smoothing(segue.hard_switch(), sources=[])
        if name == NAMES[-1]:
            steps["after the ramp"] = make_step(model, source, over)
    del terms, source
    for smoothing in smoothings.values():
        smoothing._warned = True  # the clock stands still here on purpose
    seconds = interleaved(steps, NUM_ROUNDS)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    plain = statistics.median(seconds["plain"])
    print(f"B = {B}, R = {R}, {NUM_ROUNDS} rounds, weights {weights / MEGABYTE:.2f} MiB")
    print(f"{'plain step':28s} {1000 * plain:7.1f} ms of process time")
    for name in ("plain again", *NAMES, "after the ramp"):
        ratio, low, high = ratio_of_medians(seconds[name], seconds["plain"])
        memory = num_bytes(held[name]) if name in held else 0
        print(
            f"{name:28s} {ratio:6.3f} x  95 % {low:.3f} to {high:.3f}   "
            f"holds {memory / MEGABYTE:6.2f} MiB, {memory / weights:6.2f} x the weights"
        )
    cheap = ratio_of_medians(seconds["after the ramp"], seconds["plain"])[1] <= 1.01
    print(f"after the ramp a plain step  {verdict(cheap)}")
    print(
        f"Fisher (true, 10 classes), once: {fisher_seconds / plain:.2f} plain steps of {B} images "
        "per source example"
    )
    left = release_and_count(smoothings, held)
    print(f"after the ramp the terms hold {left} bytes  target 0: {verdict(left == 0)}")
    return int(not cheap or left > 0)


def release_and_count(
    smoothings: dict[str, segue.Smoothing], held: dict[str, list[weakref.ref[Tensor]]]
) -> int:
    """End every ramp, as a schedule does at its horizon, and count what is still alive."""
    for smoothing in smoothings.values():
        smoothing.schedule = segue.hard_switch()
        smoothing.step()
    gc.collect()
    return sum(num_bytes(references) for references in held.values())


if __name__ == "__main__":
    sys.exit(main())
