"""Fine-tune a Lightning classifier of digits 0-4 for digits 5-9, with and without Segue.

Run it with `python examples/lightning_module.py`. Needs lightning, and scikit-learn for its data.
"""

import logging
import warnings

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from segue.adapters.lightning import SmoothingCallback, SmoothingMixin

warnings.filterwarnings("ignore", module="lightning")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        return (self.net(images).argmax(dim=1) == labels).float().mean().item()


class Smoothed(SmoothingMixin, Classifier):  # the whole change to the module
    pass


def fit(model: Classifier, data: TensorDataset, num_epochs: int, *callbacks: pl.Callback) -> None:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=num_epochs, callbacks=[*callbacks], **quiet, enable_checkpointing=False)  # fmt: skip
    order = torch.Generator().manual_seed(0)
    trainer.fit(model, DataLoader(data, 32, shuffle=True, generator=order))


images, labels = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
images, old = images.float() / 16, labels < 5
source = TensorDataset(images[old][:700], labels[old][:700])
target = TensorDataset(images[~old][:100], labels[~old][:100] - 5)  # the same five outputs
torch.manual_seed(0)
pretrained = Classifier()
fit(pretrained, source, 10)
for name, model in (("hard switch", Classifier()), ("smoothing", Smoothed())):
    model.load_state_dict(pretrained.state_dict())
    ramp = SmoothingCallback(source, num_smoothing_steps=0.25, batch_size=32)
    fit(model, target, 40, *([ramp] if isinstance(model, Smoothed) else []))
    new, kept = model.accuracy(images[~old][100:], labels[~old][100:] - 5), model.accuracy(images[old][700:], labels[old][700:])  # fmt: skip
    print(f"{name}: target accuracy {new:.1%}, source accuracy {kept:.1%}")
