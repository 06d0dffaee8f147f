"""Elastic weight consolidation: an anchor that holds each weight by how much the source needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segue.sources.anchor import L2SP
from segue.sources.fisher import Fisher, load_fisher

__all__ = ["EWC"]


class EWC(L2SP):
    r"""The Fisher-weighted distance, :math:`\tfrac{\beta}{2} \sum_i F_i (w_i - w_{0,i})^2`.

    A loss callable as :class:`segue.L2SP` is. It needs source data once, to take the Fisher (or the
    file of somebody who had them), so it is no answer where there never were any.

    Args:
        model: The network as it is at the switch; its weights are copied.
        scale: Factor β > 0.
        fisher: From :func:`segue.sources.fisher.diagonal_fisher`, or the path of a stored one.
        includes: Which parameters are anchored, by name; all that the Fisher holds if None. A new
            head is usually left out.

    Raises:
        ValueError: If ``scale`` is not positive, the Fisher lacks an included parameter, has one of
            another shape, is negative or not finite, or is 0 everywhere.

    Source: Kirkpatrick et al., arXiv 1612.00796, equation 3.

    >>> from segue.sources.fisher import diagonal_fisher
    >>> layer = nn.Linear(1, 2, bias=False)
    >>> _ = nn.init.zeros_(layer.weight)
    >>> fisher = diagonal_fisher(layer, (torch.tensor([[2.0]]), torch.tensor([0])), kind="true")
    >>> anchor = EWC(layer, scale=3.0, fisher=fisher)
    >>> anchor().item()
    0.0
    >>> _ = layer.weight.data[0].add_(2.0)
    >>> round(anchor().item(), 4)
    6.0
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        scale: float,
        fisher: Fisher | str | Path,
        includes: Callable[[str], bool] | None = None,
    ) -> None:
        if isinstance(fisher, str | Path):
            fisher = load_fisher(fisher)
        if not isinstance(fisher, Fisher):
            raise TypeError(f"fisher must be a Fisher or a path, got {type(fisher).__name__}")
        known = fisher.diagonal
        super().__init__(
            model, scale=scale, includes=includes if includes is not None else known.__contains__
        )
        self.fisher_kind = fisher.kind
        self._fisher = {name: _checked(name, p, known) for name, p in self._parameters.items()}
        if not any(bool((value > 0).any()) for value in self._fisher.values()):
            raise ValueError(
                "fisher must be positive somewhere, got 0 everywhere: the penalty would always be 0"
            )

    def __call__(self) -> Tensor:
        """Return the penalty at the current weights, a scalar."""
        if not self._anchor:
            raise RuntimeError("the anchor was released: the ramp is over")
        terms = [
            (self._fisher[name] * (parameter - self._anchor[name]).square()).sum()
            for name, parameter in self._parameters.items()
        ]
        return 0.5 * self.scale * torch.stack(terms).sum()

    def release(self) -> None:
        """Free the copy of the source weights, and the Fisher."""
        super().release()
        self._fisher = {}

    def state_dict(self) -> dict[str, Any]:
        """The anchored weights and their Fisher."""
        return {**super().state_dict(), "fisher": dict(self._fisher), "kind": self.fisher_kind}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore weights and Fisher; raises ValueError for those of another network or kind."""
        if state["kind"] != self.fisher_kind:
            raise ValueError(
                f"fisher must be of the saved kind {state['kind']!r}, got {self.fisher_kind!r}"
            )
        super().load_state_dict(state)
        self._fisher = {
            name: value.to(self._parameters[name].device, copy=True)
            for name, value in state["fisher"].items()
            if name in self._parameters
        }


def _checked(name: str, parameter: Tensor, fisher: Mapping[str, Tensor]) -> Tensor:
    if name not in fisher:
        raise ValueError(f"fisher must hold every included parameter, {name} is missing")
    value = fisher[name]
    if value.shape != parameter.shape:
        raise ValueError(
            f"fisher of {name} must have shape {tuple(parameter.shape)}, got {tuple(value.shape)}"
        )
    if not bool((value >= 0).all()) or not bool(torch.isfinite(value).all()):
        raise ValueError(f"fisher of {name} must be finite and >= 0")
    return value.detach().to(parameter.device, parameter.dtype, copy=True)
