"""Anchors: a pull towards the weights that the network had at the switch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segue.checks import check_positive

__all__ = ["L2SP"]


class L2SP:
    r"""The squared distance to the source weights, :math:`\tfrac{\beta}{2} \lVert w - w_0 \rVert^2`.

    A loss callable: use it as the source term of a ramp, ``smoothing.mix(source=anchor, ...)``, or
    add ``anchor()`` to the target loss at every step for L2-SP as it is usually used. Its gradient
    is zero at the start, where w = w₀.

    Args:
        model: The network as it is at the switch; its weights are copied.
        scale: Factor β > 0.
        includes: Which parameters are anchored, by name; all that require a gradient if None. A new
            head is usually left out.

    Raises:
        ValueError: If ``scale`` is not positive and finite, or no parameter is included.

    Source: L2-SP, Li, Grandvalet and Davoine, arXiv 1802.01483.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> anchor = L2SP(layer, scale=2.0)
    >>> anchor().item()
    0.0
    >>> _ = layer.weight.data.add_(3.0)
    >>> round(anchor().item(), 4)
    9.0
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        scale: float,
        includes: Callable[[str], bool] | None = None,
    ) -> None:
        self.scale = check_positive("scale", scale)
        self._parameters = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and (includes is None or includes(name))
        }
        if not self._parameters:
            raise ValueError("includes must keep at least one parameter of the model, got none")
        self._anchor = {name: p.detach().clone() for name, p in self._parameters.items()}

    def __call__(self) -> Tensor:
        """Return the penalty at the current weights, a scalar."""
        if not self._anchor:
            raise RuntimeError("the anchor was released: the ramp is over")
        squares = [
            (parameter - self._anchor[name]).square().sum()
            for name, parameter in self._parameters.items()
        ]
        return 0.5 * self.scale * torch.stack(squares).sum()

    def release(self) -> None:
        """Free the copy of the source weights."""
        self._anchor = {}
        self._parameters = {}

    def state_dict(self) -> dict[str, Any]:
        """The anchored weights."""
        return {"anchor": dict(self._anchor)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the anchored weights; raises ValueError for those of another network."""
        saved = state["anchor"]
        if not saved:
            self.release()
            return
        if set(saved) != set(self._anchor):
            differing = sorted(set(saved) ^ set(self._anchor))
            raise ValueError(f"model must have the anchored parameters; these differ: {differing}")
        self._anchor = {
            name: value.to(self._parameters[name].device, copy=True)
            for name, value in saved.items()
        }
