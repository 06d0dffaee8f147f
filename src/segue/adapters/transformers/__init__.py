"""Loss smoothing for any trainer class of Transformers or TRL, by one call and two arguments.

>>> from transformers import Trainer
>>> SmoothedTrainer = smooth(Trainer)
>>> SmoothedTrainer.__name__, issubclass(SmoothedTrainer, Trainer)
('SmoothedTrainer', True)

The trainer keeps its loop, its loss and its files. What is added, and only while λ > 0, is a source
loss with a collator, a mask and a denominator of its own; see :func:`smooth` and :class:`Source`.
"""

try:
    import accelerate  # noqa: F401
    import transformers  # noqa: F401
except ImportError as error:  # pragma: no cover - needs an environment without transformers
    raise ImportError(
        'segue.adapters.transformers needs transformers: pip install "segue[transformers]"'
    ) from error

from segue.adapters.transformers.mixin import smooth
from segue.adapters.transformers.source import Source

__all__ = ["Source", "smooth"]
