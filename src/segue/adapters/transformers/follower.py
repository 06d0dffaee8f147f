"""The callback through which a smoothing learns that training starts."""

from __future__ import annotations

import warnings
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback

from segue.adapters.transformers.easing import Easing

__all__ = ["Follower"]


class Follower(TrainerCallback):
    """Starts the clock when training starts, and warns about choices made on the ramp."""

    def __init__(self, trainer: Any, easing: Easing) -> None:
        self._trainer, self._easing = trainer, easing
        self._warned = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock at 0, or where the checkpoint that is resumed from left it."""
        checkpoint = self._trainer._segue_take_checkpoint()
        self._easing.begin(int(state.max_steps), self._trainer.optimizer, checkpoint)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Warn if this evaluation may choose a model, though λ > 0."""
        if self._warned or not self._trainer.is_in_train or not self._easing.on_ramp:
            return
        callbacks = self._trainer.callback_handler.callbacks
        stops = any(isinstance(callback, EarlyStoppingCallback) for callback in callbacks)
        chosen = [
            what
            for what, applies in (
                ("load_best_model_at_end", args.load_best_model_at_end),
                ("early stopping", stops),
            )
            if applies
        ]
        if chosen:
            self._warned = True
            warnings.warn(
                f"{' and '.join(chosen)} during the ramp: the model of step {state.global_step} "
                f"(source weight {self._easing.smoothing.source_weight:.3g}) is compared with later "
                "ones by a loss that is not yet what is trained on; evaluate after the ramp",
                RuntimeWarning,
                stacklevel=2,
            )
