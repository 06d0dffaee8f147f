"""The source term and the penalty of a method, made from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import segue
from segue.experiments.vision.methods import MethodConfig
from segue.experiments.vision.models import Network
from segue.experiments.vision.task import Examples
from segue.smoothing import Releasable
from segue.sources.anchor import L2SP
from segue.sources.distillation import Distillation
from segue.sources.ewc import EWC
from segue.sources.fisher import Fisher

__all__ = ["Terms"]

_TEMPERATURE = 2.0
_DISTILLED = ("logits", "features")


class Terms:
    """What stands for the source in one adaptation.

    Args:
        method: Which term and which penalty.
        model: The network at the switch.
        source_train: Source examples, or None.
        fisher: Diagonal Fisher of the source model, or None.
        seed: Of the replay bank.
        device: Where the network is.

    Attributes:
        num_source_examples: Source examples in the last source loss.
        num_teacher_examples: Examples that the teacher saw in the last step.
    """

    def __init__(
        self,
        method: MethodConfig,
        model: Network,
        source_train: Examples | None,
        fisher: Mapping[str, Tensor] | None,
        seed: int,
        device: str,
    ) -> None:
        self.method, self.model, self.device = method, model, device
        self.num_source_examples = self.num_teacher_examples = 0
        self.replay: segue.Replay | None = None
        self.anchor: L2SP | None = None
        self.distillation: Distillation | None = None
        term = method.source_term if method.ramps else "nothing"
        wanted = {term, method.penalty}
        if method.needs_source_data:
            assert source_train is not None
            self.replay = segue.Replay(
                source_train,
                num_examples=min(method.num_bank_examples, len(source_train)),
                batch_size=method.replay_batch_size,
                seed=seed,
                device=device,
            )
        if wanted & {"l2sp", "replay_and_l2sp"}:
            self.anchor = L2SP(model, scale=method.scale, includes=self._anchored)
        elif "ewc" in wanted:
            assert fisher is not None
            known = Fisher(fisher, "true", 1)
            self.anchor = EWC(
                model,
                scale=method.scale,
                fisher=known,
                includes=lambda name: self._anchored(name) and name in fisher,
            )
        for kind in _DISTILLED:
            if kind in wanted:
                self.distillation = Distillation(
                    model,
                    scale=method.scale,
                    kind=kind,  # type: ignore[arg-type]
                    temperature=_TEMPERATURE,
                    forward=_source_logits if kind == "logits" else _embedding,
                )

    @property
    def ramped(self) -> list[Releasable]:
        """What to free after the ramp: all but a penalty of constant weight."""
        if not self.method.ramps:
            return []
        held = (self.replay, self.anchor, self.distillation)
        return [term for term in held if term is not None]

    def source_loss(self, inputs: Tensor, embedding: Tensor) -> Tensor:
        """The source loss; ``embedding`` is the network's, of the target batch ``inputs``."""
        self.num_source_examples = 0
        total = torch.zeros((), device=self.device)
        if self.replay is not None:
            images, labels = next(self.replay)
            self.num_source_examples = len(labels)
            total = total + F.cross_entropy(self.model(images), labels)
        return total + self._held(inputs, embedding)

    def penalty(self, inputs: Tensor, embedding: Tensor) -> Tensor | None:
        """What a method adds to the target loss at every step; None if nothing."""
        return None if self.method.penalty == "none" else self._held(inputs, embedding)

    def _held(self, inputs: Tensor, embedding: Tensor) -> Tensor:
        total = torch.zeros((), device=self.device)
        if self.anchor is not None:
            total = total + self.anchor()
        if self.distillation is not None:
            self.num_teacher_examples += len(inputs)
            of_logits = self.distillation.kind == "logits"
            outputs = self.model.source_classify(embedding) if of_logits else embedding
            total = total + self.distillation(inputs, outputs=outputs)
        return total

    def _anchored(self, name: str) -> bool:
        return self.method.initialization == "source" or not name.startswith("head.")

    def state_dict(self) -> dict[str, Any]:
        """States of all terms, None for those that the method lacks."""
        return {
            name: None if term is None else term.state_dict()
            for name, term in self._named().items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        for name, term in self._named().items():
            if term is not None:
                term.load_state_dict(state[name])

    def _named(self) -> dict[str, Any]:
        return {"replay": self.replay, "anchor": self.anchor, "distillation": self.distillation}


def _source_logits(network: Any, inputs: Tensor) -> Tensor:
    logits: Tensor = network.source_logits(inputs)
    return logits


def _embedding(network: Any, inputs: Tensor) -> Tensor:
    embedding: Tensor = network.embed(inputs)
    return embedding
