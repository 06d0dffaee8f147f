"""What batch normalisation does while the source passes through the network.

A mixed objective sends two domains through the same layers. With two forwards, three policies are
possible, and the choice shows at evaluation, where the running statistics are used:

``shared``
    Do nothing. Both forwards normalise by their own batch and both update the running statistics,
    which end up between the domains during the ramp.
``target_only``
    The source forward normalises by its own batch but updates nothing: the running statistics are
    those of the target.
``frozen_source``
    The source forward normalises by the running statistics that the network had at the switch, which
    are those it was trained with, and updates nothing.

Layers without batch statistics (group norm, layer norm) are not concerned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from segue.checks import unknown_name

__all__ = ["BatchNormPolicy", "SourceBatchNorm"]

BatchNormPolicy = Literal["shared", "target_only", "frozen_source"]
_STATISTICS = ("running_mean", "running_var")


class SourceBatchNorm:
    """Applies a batch-norm policy to the source forward of ``model``.

    Args:
        policy: ``shared``, ``target_only`` or ``frozen_source``, see above.
        model: The network; needed for every policy but ``shared``.

    Raises:
        ValueError: If the policy is unknown, or needs a model and has none.
    """

    def __init__(self, policy: BatchNormPolicy, model: nn.Module | None) -> None:
        if policy not in get_args(BatchNormPolicy):
            raise ValueError(unknown_name("batch_norm policy", policy, get_args(BatchNormPolicy)))
        if policy != "shared" and model is None:
            raise ValueError(f"batch_norm={policy!r} needs model=, got None")
        self.policy = policy
        self._layers: dict[str, _BatchNorm] = {}
        self._frozen: dict[str, Tensor] = {}
        if policy == "shared" or model is None:
            return
        self._layers = {
            name: layer
            for name, layer in model.named_modules()
            if isinstance(layer, _BatchNorm) and layer.track_running_stats
        }
        if policy == "frozen_source":
            for name, layer in self._layers.items():
                for kind in _STATISTICS:
                    self._frozen[f"{name}.{kind}"] = getattr(layer, kind).detach().clone()

    @contextmanager
    def source_forward(self) -> Iterator[None]:
        """Hold while the source loss is evaluated; everything is as before afterwards."""
        if not self._layers:
            yield
            return
        saved: list[tuple[_BatchNorm, bool, bool, Tensor | None, Tensor | None]] = []
        for name, layer in self._layers.items():
            saved.append(
                (
                    layer,
                    layer.training,
                    layer.track_running_stats,
                    layer.running_mean,
                    layer.running_var,
                )
            )
            if self.policy == "target_only":
                if layer.training:
                    layer.track_running_stats = False
                continue
            # References are exchanged, nothing is written in place: autograd may hold either.
            layer.training = False
            layer.running_mean = self._frozen[f"{name}.running_mean"]
            layer.running_var = self._frozen[f"{name}.running_var"]
        try:
            yield
        finally:
            for layer, training, track, mean, var in saved:
                layer.training, layer.track_running_stats = training, track
                layer.running_mean, layer.running_var = mean, var

    def release(self) -> None:
        """Free the frozen statistics; the source is evaluated no more."""
        # The layers belong to the model anyway, and loading an earlier state needs them again.
        self._frozen = {}

    def state_dict(self) -> dict[str, Any]:
        """Policy and frozen statistics."""
        return {"policy": self.policy, "frozen": dict(self._frozen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the frozen statistics; raises ValueError for those of another network."""
        if state["policy"] != self.policy:
            raise ValueError(
                f"batch_norm must be the saved policy {state['policy']!r}, got {self.policy!r}"
            )
        frozen = state["frozen"]
        if not frozen:
            self._frozen = {}
            return
        expected = {f"{name}.{kind}": name for name in self._layers for kind in _STATISTICS}
        if set(frozen) != set(expected):
            unknown = sorted(set(frozen) ^ set(expected))
            raise ValueError(
                f"model must have the saved batch-norm layers; these differ: {unknown}"
            )
        self._frozen = {
            name: value.to(_device(self._layers[expected[name]]), copy=True)
            for name, value in frozen.items()
        }


def _device(layer: _BatchNorm) -> torch.device | None:
    return None if layer.running_mean is None else layer.running_mean.device
