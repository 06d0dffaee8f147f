"""Loss smoothing for a ``LightningModule``: a callback that holds the source, a mixin that blends.

Lightning divides the loss of a micro-batch by ``accumulate_grad_batches``, whatever it holds, and a
short last window by the same number. A target step that returns a mean is left at that, and is
bitwise the plain trainer's where λ is 0. One that returns a :class:`segue.LossSum` is divided by its
count over the whole window and all ranks. The source always is: it takes its turn at the window's
last micro-batch, with a whole source batch in every window.
"""

try:
    import lightning.pytorch  # noqa: F401
except ImportError as error:  # pragma: no cover - needs an environment without lightning
    raise ImportError(
        'segue.adapters.lightning needs lightning: pip install "segue[lightning]"'
    ) from error

from segue.adapters.lightning.callback import SmoothingCallback
from segue.adapters.lightning.mixin import SmoothingMixin

__all__ = ["SmoothingCallback", "SmoothingMixin"]
