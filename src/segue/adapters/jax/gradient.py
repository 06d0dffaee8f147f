"""The blended loss and its gradient, with a branch that holds no source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from segue.adapters.jax.schedules import Step, never_smooths, traceable
from segue.objective import interpolate
from segue.schedules import Schedule

__all__ = ["SmoothedLosses", "ValueAndGrad", "check_losses", "smoothed_value_and_grad"]


class SmoothedLosses(NamedTuple):
    """What one step saw; arrays on the device, so that logging costs no synchronisation.

    Attributes:
        loss: The blended loss.
        source_weight: λ.
        target_loss: Raw target loss: the one to watch, since the blended one falls with λ too.
        source_loss: Raw source loss; 0 where the source was not evaluated.
        source_evaluated: Whether the source was evaluated.
        target_aux: What the target loss returned beside the loss, else None.
        source_aux: What the source loss returned beside it, else None; zeros where not evaluated.
    """

    loss: jax.Array
    source_weight: jax.Array
    target_loss: jax.Array
    source_loss: jax.Array
    source_evaluated: jax.Array
    target_aux: Any = None
    source_aux: Any = None

    def log(self) -> dict[str, jax.Array]:
        """λ, both raw and both weighted losses, by the names of :meth:`segue.Smoothing.log`."""
        return {
            "source_weight": self.source_weight,
            "source_loss": self.source_loss,
            "target_loss": self.target_loss,
            "weighted_source_loss": self.source_weight * self.source_loss,
            "weighted_target_loss": (1.0 - self.source_weight) * self.target_loss,
        }


ValueAndGrad = Callable[[Any, Step, Any, Any], tuple[SmoothedLosses, Any]]


def smoothed_value_and_grad(
    source_loss: Callable[..., Any],
    target_loss: Callable[..., Any],
    schedule: Schedule,
    *,
    has_aux: bool = False,
) -> ValueAndGrad:
    """Return a function that gives the blended loss and its gradient, and skips the source.

    The result is called as ``value_and_grad(params, step, source, target)``. While λ > 0 it
    evaluates both losses; from the first step with λ = 0 on, a ``lax.cond`` takes the branch that
    holds no source at all. Put whatever belongs to the source, the drawing of its batch included,
    into ``source_loss``: what is computed outside is computed for ever.

    Under ``vmap`` over parameters or data the step is not batched and the branch is still skipped.
    Under ``vmap`` over the *step* (or a batched schedule) ``cond`` becomes ``select``: both branches
    run at every step, and the result is the same.

    With a schedule that never smooths (:func:`segue.hard_switch`) the branch is left out in Python:
    the traced program is ``jax.value_and_grad`` of the target, and ``source_loss`` is not traced.

    Args:
        source_loss: ``source_loss(params, source)`` → scalar, or ``(scalar, aux)``.
        target_loss: ``target_loss(params, target)`` → scalar, or ``(scalar, aux)``. Each loss is
            divided by its own count; under ``shard_map`` by its own count over all devices.
        schedule: As for :func:`traceable`.
        has_aux: Whether both losses return ``(scalar, aux)``.

    Returns:
        A function of the parameters, the step (applied optimizer steps since the switch), and one
        pytree for each loss, that gives :class:`SmoothedLosses` and the gradient.

    Raises:
        TypeError: If a loss is not callable or the schedule cannot be traced.

    Source: arXiv 2607.00634, the interpolated objective.

    >>> import segue
    >>> step_of = smoothed_value_and_grad(
    ...     lambda w, source: (w - source) ** 2,
    ...     lambda w, target: (w - target) ** 2,
    ...     segue.linear_decay(2),
    ... )
    >>> for step in range(3):
    ...     losses, gradient = step_of(0.0, step, 1.0, -1.0)
    ...     print(float(losses.source_weight), float(gradient))
    1.0 -2.0
    0.5 0.0
    0.0 2.0
    """
    for name, loss in (("source_loss", source_loss), ("target_loss", target_loss)):
        if not callable(loss):
            raise TypeError(f"{name} must be a function, got {type(loss).__name__}")
    weight_at, plain = traceable(schedule), never_smooths(schedule)
    of_source = jax.value_and_grad(source_loss, has_aux=has_aux)
    of_target = jax.value_and_grad(target_loss, has_aux=has_aux)

    def call(params: Any, step: Step, source: Any, target: Any) -> tuple[SmoothedLosses, Any]:
        value, target_grads = of_target(params, target)
        target_value, target_aux = value if has_aux else (value, None)
        if plain:
            zero, never = jnp.zeros_like(target_value), jnp.asarray(False)
            losses = SmoothedLosses(target_value, zero, target_value, zero, never, target_aux)
            return losses, target_grads
        weight = weight_at(step)

        def smoothed() -> tuple[Any, ...]:
            value, source_grads = of_source(params, source)
            source_value, source_aux = value if has_aux else (value, None)
            blended, grads = _interpolate_trees(
                weight, (source_value, source_grads), (target_value, target_grads)
            )
            return blended, source_value, source_aux, grads

        shapes = jax.eval_shape(smoothed)

        def target_alone() -> tuple[Any, ...]:
            blended, source_value, source_aux, grads = shapes
            return (
                _as_varying(target_value, blended),
                jax.tree.map(_zeros, source_value),
                jax.tree.map(_zeros, source_aux),
                jax.tree.map(_as_varying, target_grads, grads),
            )

        evaluated = weight > 0.0
        blended, source_value, source_aux, grads = lax.cond(evaluated, smoothed, target_alone)
        losses = SmoothedLosses(
            blended, weight, target_value, source_value, evaluated, target_aux, source_aux
        )
        return losses, grads

    return call


def check_losses(losses: SmoothedLosses, first_step: int = 0) -> None:
    """Raise if a loss of the ramp was not finite; for the host, after a step or after a scan.

    Args:
        losses: Of one step, or stacked over steps by ``lax.scan``.
        first_step: Step of the first of them.

    Raises:
        segue.NonFiniteLossError: Names the loss, its step and λ. After the ramp nothing is checked.
    """
    from segue.losses import NonFiniteLossError, Side

    weights = np.atleast_1d(np.asarray(losses.source_weight))
    sides: tuple[tuple[Side, jax.Array], ...] = (
        ("source", losses.source_loss),
        ("target", losses.target_loss),
    )
    values = {side: np.atleast_1d(np.asarray(loss, np.float32)) for side, loss in sides}
    for index, weight in enumerate(weights):
        for side, _ in sides:
            value = float(values[side][index])
            if weight > 0.0 and not np.isfinite(value):
                raise NonFiniteLossError(side, value, first_step + index, float(weight))


def _interpolate_trees(weight: jax.Array, source: Any, target: Any) -> Any:
    # In the target's own precision: λ is float32, and must not turn a bfloat16 gradient into it.
    return jax.tree.map(lambda s, t: interpolate(weight, s, t).astype(t.dtype), source, target)


def _zeros(shape: Any) -> jax.Array:
    return _as_varying(jnp.zeros(shape.shape, shape.dtype), shape)


def _as_varying(value: jax.Array, like: Any) -> jax.Array:
    """Under ``shard_map`` both branches must be known to vary over the same mesh axes."""
    axes = _varying_axes(like) - _varying_axes(jax.typeof(value))
    return lax.pcast(value, tuple(sorted(axes)), to="varying") if axes else value


def _varying_axes(kind: Any) -> frozenset[str]:
    manual = getattr(kind, "manual_axis_type", None)  # older releases of JAX call it vma
    axes = getattr(kind, "vma", None) if manual is None else manual.varying
    return frozenset(axes or ())
