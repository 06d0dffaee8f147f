"""Fine-tune a classifier of digits 0-4 for digits 5-9 in a plain PyTorch loop, with and without Segue.

Run it with `python examples/plain_loop.py`. Needs scikit-learn for its data.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import segue

NUM_SMOOTHING_STEPS = 40


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return (model(images).argmax(dim=1) == labels).float().mean().item()


def train(
    model: nn.Module, data: TensorDataset, num_epochs: int, replay: segue.Replay | None
) -> None:
    """Train on `data`; with a replay bank, ease into it from what the bank holds."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = segue.linear_decay(NUM_SMOOTHING_STEPS) if replay else segue.hard_switch()
    smoothing = segue.Smoothing(schedule, optimizer=optimizer)
    loader = DataLoader(data, 32, shuffle=True, generator=torch.Generator().manual_seed(0))

    def loss_on(batch: list[Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    for _ in range(num_epochs):
        for batch in loader:
            loss = smoothing.mix(
                source=lambda: loss_on(next(replay)), target=lambda batch=batch: loss_on(batch)
            )
            loss.backward()
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
        train(model, source, num_epochs=10, replay=None)
        smooth = name == "smoothing"
        train(model, target, 40, segue.Replay(source, batch_size=32) if smooth else None)
        new = accuracy(model, images[~old][100:], labels[~old][100:] - 5)
        kept = accuracy(model, images[old][700:], labels[old][700:])
        print(f"{name}: target accuracy {new:.1%}, source accuracy {kept:.1%}")


if __name__ == "__main__":
    main()
