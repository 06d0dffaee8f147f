"""Fine-tune a classifier of digits 0-4 for digits 5-9 under Accelerate, with and without Segue.

Run it with `python examples/accelerate_ddp.py`, or on two processes with
`accelerate launch --cpu --num_processes 2 examples/accelerate_ddp.py`.
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import segue
from segue.adapters.accelerate import AcceleratedSmoothing

NUM_SMOOTHING_STEPS = 40


def train(model: nn.Module, data: TensorDataset, epochs: int, source: TensorDataset | None) -> None:
    """Train on `data`, 32 examples a step over all processes; ease in from `source` if given."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    order = torch.Generator().manual_seed(0)
    loader = DataLoader(data, 16 // accelerator.num_processes, shuffle=True, generator=order)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    schedule = segue.linear_decay(NUM_SMOOTHING_STEPS) if source else segue.hard_switch()
    held = {"source": source or data, "source_batch_size": 32, "num_examples": None}
    smoothing = AcceleratedSmoothing(
        accelerator, schedule, model=wrapped, optimizer=optimizer, **held
    )

    def loss_on(batch: list[Tensor]) -> Tensor:
        return F.cross_entropy(wrapped(batch[0]), batch[1])

    for _ in range(epochs):
        for window in smoothing.windows(loader):  # one optimizer step: two micro-batches
            window.backward(source=loss_on, target=loss_on)
            optimizer.step()
            optimizer.zero_grad()


def main() -> None:
    images, labels = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
    images, old = images.float() / 16, labels < 5
    source = TensorDataset(images[old][:700], labels[old][:700])
    target = TensorDataset(images[~old][:100], labels[~old][:100] - 5)  # the same five outputs
    for name in ("hard switch", "smoothing"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
        train(model, source, 10, None)
        train(model, target, 40, source if name == "smoothing" else None)
        new = (model(images[~old][100:]).argmax(1) == labels[~old][100:] - 5).float().mean()
        kept = (model(images[old][700:]).argmax(1) == labels[old][700:]).float().mean()
        Accelerator().print(f"{name}: target accuracy {new:.1%}, source accuracy {kept:.1%}")


if __name__ == "__main__":
    main()
