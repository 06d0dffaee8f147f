"""Distillation: the source model itself, frozen at the switch, stands for the source objective."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.batches import leaves
from segue.checks import check_positive, unknown_name

__all__ = ["Distillation", "DistillationKind", "distillation_loss"]

DistillationKind = Literal["logits", "features"]
Forward = Callable[[nn.Module, Any], Any]


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Mean of :math:`T^2 \, \mathrm{KL}(p_T \Vert q_T)` over all rows, in log-softmax forms.

    Args:
        student_logits: Shape (..., classes), finite; :math:`q_T` is the softmax of logits / T.
        teacher_logits: The same shape.
        temperature: T > 0. The factor T² keeps the gradient's size (Hinton, Vinyals and Dean, arXiv
            1503.02531).
        mask: Which rows count, of the shape without the classes. None counts all; where no row
            counts, the loss is 0.

    Raises:
        ValueError: If the shapes differ, which names the label spaces.

    >>> far = torch.tensor([[200.0, -200.0]])
    >>> distillation_loss(-far, far).item()
    400.0
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            "the teacher must have the label space of the network: logits of shape "
            f"{tuple(student_logits.shape)} were expected, got {tuple(teacher_logits.shape)}"
        )
    # Half precision would lose the small probabilities of both.
    exact = torch.promote_types(student_logits.dtype, torch.float32)
    student = F.log_softmax(student_logits.to(exact) / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.to(exact) / temperature, dim=-1)
    rows = (teacher.exp() * (teacher - student)).sum(dim=-1)
    loss = temperature**2 * _mean_of_rows(rows, mask)
    return loss.to(student_logits.dtype)


class Distillation:
    r"""Keeps the outputs of the network near those that it had at the switch.

    A source term without source data: ``smoothing.mix(source=lambda: distillation(inputs), ...)``
    with target inputs (learning without forgetting), or with any unlabelled inputs. The teacher is
    a frozen copy in evaluation mode; its forward has no gradient. On the weights at the switch the
    loss and its gradient are 0, but for what dropout and batch statistics of the network in training
    mode change.

    Args:
        model: The network as it is at the switch.
        scale: Factor > 0 on the loss.
        kind: ``"logits"`` compares by :func:`distillation_loss`, ``"features"`` by the mean squared
            difference.
        temperature: T of the logits.
        layer: Compare the output of this submodule (a name in ``model.named_modules()``) instead of
            the network's. Usual with ``"features"``.
        forward: ``forward(network, inputs)`` gives what is compared; used for network and teacher. By
            default ``network(inputs)``, or ``network(**inputs).logits`` for a dict of inputs.
        teacher: Another network to copy instead of ``model``: it must have the same parameters by
            name and shape.
        input_shape: Shape of one input that the teacher was trained with, to refuse others. None
            refuses only what its forward cannot take.

    Raises:
        ValueError: If an argument is out of range, ``layer`` is unknown, or the teacher has another
            architecture or label space.

    Source: Li and Hoiem, arXiv 1606.09282 (logits, on target inputs); Romero et al., arXiv 1412.6550
    (features).

    >>> network = nn.Linear(2, 3)
    >>> distillation = Distillation(network, scale=1.0)
    >>> inputs = torch.ones(4, 2)
    >>> distillation(inputs).item()
    0.0
    >>> _ = network.weight.data[0].add_(1.0)
    >>> distillation(inputs).item() > 0.1
    True
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        scale: float,
        kind: DistillationKind = "logits",
        temperature: float = 1.0,
        layer: str | None = None,
        forward: Forward | None = None,
        teacher: nn.Module | None = None,
        input_shape: tuple[int, ...] | None = None,
    ) -> None:
        if kind not in get_args(DistillationKind):
            raise ValueError(unknown_name("kind", kind, get_args(DistillationKind)))
        if layer is not None and layer not in (names := dict(model.named_modules())):
            raise ValueError(unknown_name("layer", layer, filter(None, names)))
        self.scale = check_positive("scale", scale)
        self.temperature = check_positive("temperature", temperature)
        self.kind = kind
        self._layer = layer
        self._forward = forward or _default_forward
        self._input_shape = None if input_shape is None else tuple(input_shape)
        self._model: nn.Module | None = model
        if teacher is not None:
            _check_same_architecture(model, teacher)
        # A copy, so that freezing it changes nobody's network.
        self._teacher: nn.Module | None = copy.deepcopy(model if teacher is None else teacher)
        self._teacher.eval().requires_grad_(False)

    def __call__(
        self, inputs: Any, *, outputs: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the loss on ``inputs``, a scalar.

        Args:
            inputs: A batch, as ``forward`` takes it; labels are not needed.
            outputs: What the network gives for them if it is known already, such as the logits of
                the target loss: then only the teacher's forward is run.
            mask: Rows (of features: all but the last dimension) that count, such as an attention
                mask.

        Raises:
            RuntimeError: After :meth:`release`.
            ValueError: If the teacher cannot take the inputs, or has another label space.
        """
        if self._teacher is None or self._model is None:
            raise RuntimeError("the teacher was released: the ramp is over")
        self._check_inputs(inputs)
        with torch.no_grad():
            try:
                reference = self._outputs(self._teacher, inputs)
            except RuntimeError as error:
                if isinstance(error, torch.cuda.OutOfMemoryError):
                    raise
                raise ValueError(
                    f"the teacher must be able to take the inputs, got {_shapes(inputs)}: {error}"
                ) from error
        student = self._outputs(self._model, inputs) if outputs is None else outputs
        if self.kind == "logits":
            loss = distillation_loss(student, reference, temperature=self.temperature, mask=mask)
            return self.scale * loss
        if student.shape != reference.shape:
            raise ValueError(
                "the teacher must give features of the network's shape "
                f"{tuple(student.shape)}, got {tuple(reference.shape)}"
            )
        rows = (student - reference).square().mean(dim=-1)
        return self.scale * _mean_of_rows(rows, mask)

    @property
    def released(self) -> bool:
        """True once the teacher has been freed."""
        return self._teacher is None

    def release(self) -> None:
        """Free the teacher."""
        self._teacher = None
        self._model = None

    def state_dict(self) -> dict[str, Any]:
        """The teacher's weights and buffers; empty once it is released."""
        teacher = {} if self._teacher is None else self._teacher.state_dict()
        return {"teacher": {name: value.detach().clone() for name, value in teacher.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the saved teacher; raises ValueError for that of another network."""
        saved = state["teacher"]
        if not saved:
            self.release()
            return
        if self._teacher is None:
            raise ValueError(
                "the teacher was released and cannot go back into the ramp; make a new Distillation"
            )
        differing = _differing(self._teacher.state_dict(), saved)
        if differing:
            raise ValueError(
                f"model must have the saved teacher's weights; these differ: {differing}"
            )
        self._teacher.load_state_dict(saved)

    def _outputs(self, network: nn.Module, inputs: Any) -> Tensor:
        with _capture(network, self._layer) as captured:
            value = self._forward(network, inputs)
        if self._layer is not None:
            if not captured:
                raise ValueError(f"layer must be used by the forward, {self._layer!r} was not")
            value = captured[-1]
        value = getattr(value, "logits", value)
        if not isinstance(value, Tensor):
            raise TypeError(
                f"forward must give a tensor or an output with logits, got {type(value).__name__}"
            )
        return value

    def _check_inputs(self, inputs: Any) -> None:
        if self._input_shape is None:
            return
        for path, leaf in leaves(inputs, "inputs"):
            if isinstance(leaf, Tensor) and tuple(leaf.shape[1:]) != self._input_shape:
                raise ValueError(
                    f"{path} must have the input size of the teacher {self._input_shape}, "
                    f"got {tuple(leaf.shape[1:])}"
                )


def _default_forward(network: nn.Module, inputs: Any) -> Any:
    return network(**inputs) if isinstance(inputs, Mapping) else network(inputs)


@contextmanager
def _capture(network: nn.Module, layer: str | None) -> Iterator[list[Any]]:
    """Collect what a submodule gives while the network runs."""
    captured: list[Any] = []
    if layer is None:
        yield captured
        return
    handle = network.get_submodule(layer).register_forward_hook(
        lambda module, arguments, output: captured.append(output)
    )
    try:
        yield captured
    finally:
        handle.remove()


def _mean_of_rows(rows: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return rows.mean()
    if mask.shape != rows.shape:
        raise ValueError(f"mask must have shape {tuple(rows.shape)}, got {tuple(mask.shape)}")
    kept = mask.to(rows.dtype)
    # `where`, because 0 times a NaN of a padded row would be NaN.
    total = torch.where(mask.bool(), rows, torch.zeros_like(rows)).sum()
    return total / kept.bool().sum().clamp(min=1)


def _check_same_architecture(model: nn.Module, teacher: nn.Module) -> None:
    mine, its = dict(model.named_parameters()), dict(teacher.named_parameters())
    if list(mine) != list(its):
        differing = sorted(set(mine) ^ set(its)) or "the order of the parameters"
        raise ValueError(
            f"teacher must have the architecture of the network; these differ: {differing}"
        )
    for name, parameter in mine.items():
        if parameter.shape != its[name].shape:
            raise ValueError(
                f"teacher must have the architecture and label space of the network: {name} must "
                f"have shape {tuple(parameter.shape)}, got {tuple(its[name].shape)}"
            )


def _differing(mine: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    return sorted(
        name
        for name in set(mine) | set(saved)
        if name not in mine or name not in saved or mine[name].shape != saved[name].shape
    )


def _shapes(inputs: Any) -> str:
    found = [
        f"{path} of shape {tuple(leaf.shape)}"
        for path, leaf in leaves(inputs, "inputs")
        if isinstance(leaf, Tensor)
    ]
    return ", ".join(found) or type(inputs).__name__
