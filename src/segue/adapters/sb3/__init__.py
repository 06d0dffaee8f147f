"""Loss smoothing from offline data to online training with Stable-Baselines3.

``SmoothedTD3 = smooth(TD3)`` is TD3 but for the first gradient updates after the switch: there the
actor and the critic are trained on λ·(their offline loss on an offline batch) + (1 − λ)·(their
online loss on an online batch). The algorithm's own code is used as it is.
"""

try:
    import stable_baselines3  # noqa: F401
except ImportError as error:  # pragma: no cover - needs an environment without it
    raise ImportError(
        'segue.adapters.sb3 needs stable-baselines3: pip install "segue[sb3]"'
    ) from error

from segue.adapters.sb3.algorithm import Smoothed, smooth
from segue.adapters.sb3.losses import SACBC, TD3BC, SourceLosses

__all__ = ["SACBC", "TD3BC", "Smoothed", "SourceLosses", "smooth"]
