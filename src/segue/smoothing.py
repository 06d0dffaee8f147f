"""What is trained on during the ramp: the blended objective, its clock and its log."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from segue import blend as blending
from segue.batchnorm import BatchNormPolicy, SourceBatchNorm
from segue.checks import check_count, check_source_weight, unknown_name
from segue.clock import follow_applied_steps
from segue.losses import LossCallable, NonFiniteLossError, Side, Term, evaluate, finite_everywhere
from segue.objective import interpolate
from segue.randomness import OwnRandomState, derived_seed
from segue.schedules import Schedule, describe, horizon

if TYPE_CHECKING:
    import torch.distributed as dist

__all__ = ["NonFinitePolicy", "Releasable", "Smoothing"]

NonFinitePolicy = Literal["raise", "skip", "ignore"]

_NUM_PROBED_STEPS = 1000
_NUM_BLENDS_BEFORE_WARNING = 3


class Releasable(Protocol):
    """Something that holds memory for the source, such as :class:`segue.Replay`."""

    def release(self) -> None:
        """Free that memory."""
        ...


class Smoothing:
    r"""Trains on :math:`\lambda_t L_{source} + (1 - \lambda_t) L_{target}` while λ falls.

    Four ways to execute, all with the same objective:

    =====================  ==========================================  ============================
    :meth:`mix`            two forwards, one backward                  any model, any loss
    :meth:`blend` joint    one forward of B + R examples               per-example losses
    :meth:`blend` mixed    one forward of B examples                   per-example losses, no extra
                                                                       cost, more variance
    :meth:`backward`       two forwards, two backwards                 least memory
    =====================  ==========================================  ============================

    Where λ is 0 the source is not evaluated at all; the target always is. During the ramp a loss
    that is NaN or infinite is named; afterwards nothing is checked.

    The source's random numbers (dropout) come from a generator of its own, so that arms of a paired
    comparison see the same target dropout whether they smooth or not. Under
    ``torch.compile`` this isolation is left out; there ``non_finite="ignore"`` gives one graph for
    λ > 0 and one for λ = 0, and the other policies some more pieces.

    Args:
        schedule: Optimizer step → source weight, see :mod:`segue.schedules`. A pure function.
        optimizer: Its *applied* steps are counted. A step that a gradient scaler skipped does not
            count. Without an optimizer call :meth:`step` once per optimizer step.
        non_finite: What to do about a NaN or infinite loss during the ramp: ``"raise"``
            :class:`NonFiniteLossError`, ``"skip"`` that term for this backward pass with a warning
            (the other term is unaffected; in a :meth:`blend` both share one forward and are skipped
            together), or ``"ignore"`` it. Across ranks the decision is common.
        batch_norm: ``"shared"``, ``"target_only"`` or ``"frozen_source"``, see
            :mod:`segue.batchnorm`. Anything but ``"shared"`` needs ``model``.
        model: The network whose batch-norm layers the policy concerns.
        sources: What to free when the ramp is over for good: each one's ``release()`` is called.
        seed: Seeds the source's dropout and the draws of the mixed mode.
        process_group: Ranks that must agree about non-finite losses; the default group if None.

    Raises:
        TypeError, ValueError: For a wrong argument, or a schedule that gives something else than a
            number in [0, 1] at one of its first 1,000 steps.

    Source: arXiv 2607.00634.

    >>> import segue
    >>> smoothing = Smoothing(segue.linear_decay(num_smoothing_steps=2))
    >>> for _ in range(3):
    ...     loss = smoothing.mix(source=lambda: torch.tensor(4.0), target=lambda: torch.tensor(8.0))
    ...     print(smoothing.source_weight, loss.item())
    ...     smoothing.step()
    1.0 4.0
    0.5 6.0
    0.0 8.0
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        non_finite: NonFinitePolicy = "raise",
        batch_norm: BatchNormPolicy = "shared",
        model: nn.Module | None = None,
        sources: Sequence[Releasable] = (),
        seed: int = 0,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        if not callable(schedule):
            raise TypeError(
                f"schedule must map a step to a source weight, got {type(schedule).__name__}; "
                "write segue.linear_decay(num_smoothing_steps=...)"
            )
        if non_finite not in get_args(NonFinitePolicy):
            raise ValueError(
                unknown_name("non_finite policy", non_finite, get_args(NonFinitePolicy))
            )
        for step in range(_NUM_PROBED_STEPS):
            check_source_weight(schedule(step), step)
        self.schedule = schedule
        self.non_finite = non_finite
        self.seed = check_count("seed", seed)
        for held in sources:
            if not callable(getattr(held, "release", None)):
                raise TypeError(f"sources must have a release() method, got {type(held).__name__}")
        self._sources = tuple(sources)
        self._process_group = process_group
        self._batch_norm = SourceBatchNorm(batch_norm, model)
        self._num_steps = 0
        self._num_blends = 0  # since the last optimizer step
        self._random_state = OwnRandomState(derived_seed("source forward", self.seed))
        self._last: tuple[float | Tensor, Term | None, Term | None] | None = None
        self._warned = False
        self._weight = torch.zeros((), dtype=torch.float64)
        self._move_to(0)
        self._clock = None if optimizer is None else follow_applied_steps(optimizer, self._advance)

    # -- where the ramp stands ---------------------------------------------------------------

    @property
    def num_steps(self) -> int:
        """Optimizer steps applied since the switch."""
        return self._num_steps

    @property
    def source_weight(self) -> float:
        """λ of the coming optimizer step."""
        return self._source_weight

    @property
    def weight_tensor(self) -> Tensor:
        """λ as a 0-d CPU tensor that is updated in place, for compiled code."""
        return self._weight

    @property
    def finished(self) -> bool:
        """True once λ is 0 for good. A schedule that does not know its horizon never finishes."""
        end = horizon(self.schedule)
        return end is not None and self._num_steps >= end and self._source_weight == 0.0

    def step(self) -> None:
        """Count one applied optimizer step.

        Raises:
            RuntimeError: With ``optimizer=``, whose steps are counted already.
        """
        if self._clock is not None:
            raise RuntimeError(
                "the clock follows the optimizer by itself; call smoothing.step() only without "
                "optimizer="
            )
        self._advance()

    def _advance(self) -> None:
        self._move_to(self._num_steps + 1)

    def _move_to(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._num_blends = 0
        self._source_weight = check_source_weight(self.schedule(num_steps), num_steps)
        self._source_active = self._source_weight > 0.0
        self._weight.fill_(self._source_weight)
        if self.finished:
            for source in self._sources:
                source.release()
            self._sources = ()
            self._batch_norm.release()

    # -- four ways to execute ----------------------------------------------------------------

    def mix(self, *, source: LossCallable, target: LossCallable) -> Tensor:
        """Return the blended loss of two forwards; call ``backward()`` on it.

        Args:
            source: The source loss as a function of no argument: a scalar tensor or a
                :class:`LossSum`. Not called where λ is 0.
            target: The target loss, likewise. Always called.

        Raises:
            NonFiniteLossError: During the ramp, with ``non_finite="raise"``.
            TypeError, ValueError: If a loss is not a scalar tensor, or the two differ in device or
                dtype.
        """
        self._count_blend()
        if not self._source_active:
            term = evaluate(target, "target")
            self._note(None, term)
            return term.loss
        source_term = self._evaluate_source(source)
        target_term = evaluate(target, "target")
        _check_alike(source_term.loss, target_term.loss)
        self._note(source_term, target_term)
        return self._interpolate(
            self._kept("source", source_term.loss), self._kept("target", target_term.loss)
        )

    def backward(
        self,
        *,
        source: LossCallable,
        target: LossCallable,
        scaler: torch.amp.GradScaler | None = None,
    ) -> Tensor:
        """Run both backward passes, one after the other, and return the detached blended loss.

        The source's graph is freed before the target's is built. Arguments as in :meth:`mix`;
        ``scaler`` scales both losses if given.
        """
        self._count_blend()
        if not self._source_active:
            target_term = evaluate(target, "target")
            self._note(None, target_term)
            _backward(target_term.loss, scaler)
            return target_term.loss.detach()
        source_term = self._evaluate_source(source)
        nothing = torch.zeros_like(source_term.loss)
        source_part = self._interpolate(self._kept("source", source_term.loss), nothing)
        _backward(source_part, scaler)
        source_part = source_part.detach()
        source_term = Term(source_term.loss.detach(), source_term.count)
        target_term = evaluate(target, "target")
        _check_alike(source_term.loss, target_term.loss)
        self._note(source_term, target_term)
        target_part = self._interpolate(nothing, self._kept("target", target_term.loss))
        _backward(target_part, scaler)
        return source_part + target_part.detach()

    def blend(
        self, *, target: Any, source: blending.ExampleSource, mode: blending.BlendMode
    ) -> blending.Blend:
        """Return one batch of target and source examples, with their weights.

        ``"joint"`` appends a source batch to the target batch: the gradient of :meth:`mix`, in one
        forward. ``"mixed"`` keeps the batch size: in expectation a share λ of the examples are the
        source's, which costs what a plain step costs and uses fewer target examples.

        Args:
            target: A nested batch of tensors with a common first dimension.
            source: Serves batches of the same structure, such as :class:`segue.Replay`.
            mode: ``"joint"`` or ``"mixed"``.

        Raises:
            ValueError: For an unknown mode, or a batch-norm policy that one forward cannot keep.
            TypeError: If the batches differ in structure.

        Example:
            >>> import segue
            >>> replay = segue.Replay(torch.zeros(8, 1), num_examples=None, batch_size=4)
            >>> smoothing = segue.Smoothing(segue.constant(0.5))
            >>> blend = smoothing.blend(target=torch.ones(4, 1), source=replay, mode="joint")
            >>> blend.batch.shape, blend.loss(blend.batch.squeeze(1)).item()
            (torch.Size([8, 1]), 0.5)
        """
        if mode not in get_args(blending.BlendMode):
            raise ValueError(unknown_name("mode", mode, get_args(blending.BlendMode)))
        if self._batch_norm.policy != "shared":
            raise ValueError(
                "blend passes both objectives through one forward, so batch_norm must be 'shared', "
                f"got {self._batch_norm.policy!r}; use mix or backward"
            )
        number = self._num_blends
        self._count_blend()
        if not self._source_active:
            return blending.target_batch(target, self._observe)
        if mode == "joint":
            return blending.joint_batch(target, source, self._source_weight, self._observe)
        draw = random.Random(f"segue mixed {self.seed} {self._num_steps} {number}")
        return blending.mixed_batch(target, source, self._source_weight, draw, self._observe)

    # -- state and log -----------------------------------------------------------------------

    def log(self) -> dict[str, Any]:
        """What happened in the last blended loss.

        Keys: ``source_weight`` (float), and where evaluated, as detached tensors or counts,
        ``source_loss``, ``target_loss``, ``weighted_source_loss``, ``weighted_target_loss``,
        ``source_count``, ``target_count``. Nothing is copied from the device.
        """
        if self._last is None:
            return {"source_weight": self._source_weight}
        weight, source, target = float(self._last[0]), *self._last[1:]
        log: dict[str, Any] = {"source_weight": weight}
        for side, term, share in (("source", source, weight), ("target", target, 1.0 - weight)):
            if term is not None:
                log[f"{side}_loss"] = term.loss
                log[f"weighted_{side}_loss"] = share * term.loss
                if term.count is not None:
                    log[f"{side}_count"] = term.count
        return log

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs; tensors, numbers, strings, dicts and lists only."""
        return {
            "num_steps": self._num_steps,
            "num_blends": self._num_blends,
            "schedule": describe(self.schedule),
            "seed": self.seed,
            "random_state": self._random_state.state_dict(),
            "batch_norm": self._batch_norm.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Continue at a saved step.

        Args:
            state: Made by :meth:`state_dict`.
            strict: Refuse a state that another schedule or seed made. A function of your own has no
                description to compare: that it is the same one is for you to see to.

        Raises:
            ValueError: If ``strict`` and the schedule or seed differs.
        """
        mine = {"schedule": self.state_dict()["schedule"], "seed": self.seed}
        for name, value in mine.items():
            if strict and state[name] != value:
                raise ValueError(
                    f"{name} must be the saved one ({state[name]}), got {value}; "
                    "pass strict=False to change it on purpose"
                )
        self._batch_norm.load_state_dict(state["batch_norm"])
        self._random_state.load_state_dict(state["random_state"])
        self._move_to(check_count("num_steps", state["num_steps"]))
        self._num_blends = check_count("num_blends", state["num_blends"])

    # -- inside ------------------------------------------------------------------------------

    def _interpolate(self, source_loss: Tensor, target_loss: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            # A tensor, because a float would be compiled in as a constant.
            compiled: Tensor = interpolate(
                self._weight.to(source_loss.dtype), source_loss, target_loss
            )
            return compiled
        blended: Tensor = interpolate(self._source_weight, source_loss, target_loss)
        return blended

    def _evaluate_source(self, source: LossCallable) -> Term:
        with self._batch_norm.source_forward():
            if torch.compiler.is_compiling():
                return evaluate(source, "source")
            with self._random_state.in_use():
                return evaluate(source, "source")

    def _kept(self, side: Side, loss: Tensor) -> Tensor:
        """Return ``loss``, or a zero in its place if it is not finite and to be skipped."""
        if self.non_finite == "ignore" or finite_everywhere(loss, self._process_group):
            return loss
        error = NonFiniteLossError(
            side, float(loss.detach().item()), self._num_steps, self._source_weight
        )
        if self.non_finite == "raise":
            raise error
        warnings.warn(f"{error}; the term is skipped", RuntimeWarning, stacklevel=3)
        return torch.zeros_like(loss).requires_grad_()

    def _observe(self, target_term: Term | None, source_term: Term | None) -> tuple[bool, bool]:
        """Log the raw means of a blended batch; return which of them to keep."""
        self._note(source_term, target_term)
        if not self._source_active:
            return True, True
        # Every rank takes part in both reductions, also one whose batch has nothing of a side
        # because it is of another size.
        given = target_term or source_term
        assert given is not None
        nothing = torch.zeros_like(given.loss)
        target = nothing if target_term is None else target_term.loss
        source = nothing if source_term is None else source_term.loss
        return self._kept("target", target) is target, self._kept("source", source) is source

    def _note(self, source: Term | None, target: Term | None) -> None:
        # Compiled code must not read the float: it would be compiled in as a constant.
        compiling = torch.compiler.is_compiling()
        self._last = (
            self._weight.clone() if compiling else self._source_weight,
            None if source is None else Term(source.loss.detach(), source.count),
            None if target is None else Term(target.loss.detach(), target.count),
        )

    def _count_blend(self) -> None:
        # A counter in compiled code would be a constant that recompiles at every step.
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        self._num_blends += 1
        if (
            self._clock is None
            and self._num_blends > _NUM_BLENDS_BEFORE_WARNING
            and not self._warned
            and self._source_active
        ):
            self._warned = True
            warnings.warn(
                f"{_NUM_BLENDS_BEFORE_WARNING} losses were blended without smoothing.step(): call it "
                "once per optimizer step, or pass optimizer= (ignore this if you accumulate "
                "gradients)",
                RuntimeWarning,
                stacklevel=3,
            )


def _check_alike(source: Tensor, target: Tensor) -> None:
    for rule in ("device", "dtype"):
        a, b = getattr(source, rule), getattr(target, rule)
        if a != b:
            raise ValueError(
                f"the source and the target loss must have the same {rule}, got {a} and {b}"
            )


def _backward(loss: Tensor, scaler: torch.amp.GradScaler | None) -> None:
    if scaler is not None:
        loss = scaler.scale(loss)
    loss.backward()  # type: ignore[no-untyped-call]
