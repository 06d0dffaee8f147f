"""Loss smoothing in a plain loop under Accelerate: one process, DDP or FSDP2."""

from segue.adapters.accelerate.smoothing import AcceleratedSmoothing
from segue.adapters.accelerate.window import Window

__all__ = ["AcceleratedSmoothing", "Window"]
