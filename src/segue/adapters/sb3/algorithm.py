"""The classes that a user makes: an off-policy algorithm of Stable-Baselines3 with a ramp."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from segue.adapters.sb3.losses import SourceLosses
from segue.adapters.sb3.ramp import Ramp, Settings
from segue.schedules import Schedule
from segue.smoothing import NonFinitePolicy, Smoothing

__all__ = ["Smoothed", "smooth"]

AlgorithmT = TypeVar("AlgorithmT", bound=OffPolicyAlgorithm)

if TYPE_CHECKING:
    _Base = OffPolicyAlgorithm
else:
    _Base = object


class Smoothed(_Base):
    """What :func:`smooth` adds to an algorithm; its arguments are described there."""

    _segue_state: dict[str, Any] | None = None  # what a saved agent carries

    def __init__(
        self,
        *args: Any,
        source: Any = None,
        num_smoothing_updates: int | None = None,
        schedule: Schedule | None = None,
        source_batch_size: int | None = None,
        source_losses: SourceLosses | None = None,
        source_seed: int = 0,
        non_finite: NonFinitePolicy = "raise",
        **kwargs: Any,
    ) -> None:
        self._settings = Settings(
            source, num_smoothing_updates, schedule, source_batch_size, source_losses, source_seed,
            non_finite,
        )  # fmt: skip
        super().__init__(*args, **kwargs)

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: Any,
        env: Any = None,
        *,
        source: Any = None,
        num_smoothing_updates: int | None = None,
        schedule: Schedule | None = None,
        source_batch_size: int | None = None,
        source_losses: SourceLosses | None = None,
        source_seed: int = 0,
        non_finite: NonFinitePolicy = "raise",
        new_ramp: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load an agent: one without a ramp begins one, one within its ramp goes on with it.

        An agent that was saved within its ramp needs ``source`` again to train on; its length and
        its place in the data are known. With ``new_ramp`` it begins another instead, after a further
        switch. Other arguments as in SB3.
        """
        settings = Settings(
            source, num_smoothing_updates, schedule, source_batch_size, source_losses, source_seed,
            non_finite,
        )  # fmt: skip
        # SB3 sets further arguments as attributes before it sets the agent up.
        if new_ramp:
            kwargs["_segue_state"] = None
        return super().load(path, env, _settings=settings, **kwargs)

    @property
    def smoothing(self) -> Smoothing:
        """The clock: ``model.smoothing.source_weight`` is λ of the coming gradient update."""
        return self._ramp.smoothing

    def save(
        self, path: Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None
    ) -> None:
        """Save the agent as SB3 does, and where its ramp stands."""
        self._segue_state = self._ramp.state_dict()
        super().save(path, exclude, include)

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Do gradient updates as the algorithm does, blended while λ > 0, and log the ramp."""
        super().train(gradient_steps=gradient_steps, batch_size=batch_size)
        for name, value in self._ramp.log().items():
            self.logger.record(f"segue/{name}", value)

    def _setup_model(self) -> None:
        super()._setup_model()
        for network in ("actor", "critic"):
            if not hasattr(getattr(self, network, None), "optimizer"):
                raise TypeError(
                    f"the algorithm must train an actor and a critic, {type(self).__name__} has no "
                    f"{network} with an optimizer"
                )
        self._ramp = Ramp(self, self._settings, self._segue_state)
        # The ramp has its own copy, which it frees.
        self._settings = dataclasses.replace(self._settings, source=None)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        if self._ramp.lacks_source:
            raise ValueError(
                "source must be given while the ramp is not over, got None; pass source= to the "
                "constructor or to load"
            )
        return super()._setup_learn(*args, **kwargs)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_ramp", "_settings"]


@functools.cache
def smooth(algorithm: type[AlgorithmT]) -> type[AlgorithmT]:
    """Return ``algorithm`` with a ramp from offline data to online training.

    In the first gradient updates each optimizer step of the critic and of the actor follows
    λ·(source loss on an offline batch) + (1 − λ)·(the algorithm's loss on its own batch), with two
    independent batches. Afterwards, and with ``hard_switch()`` from the start, an update is
    bitwise the algorithm's, and the offline data are freed. One gradient update is one step of the
    critic's optimizer; a delayed actor is trained with the λ of the update it belongs to.

    The class takes the algorithm's arguments and these, by name, also in ``load``:

    * ``source``: a ``ReplayBuffer``, a Minari dataset, or a mapping of arrays ``observations``,
      ``actions``, ``rewards``, ``next_observations``, ``terminations`` (time limits are no
      terminations; buffers of SB3 know theirs). Actions in the environment's units. If the
      environment is wrapped in ``VecNormalize``, the data are normalised with it, as the agent's
      own buffer is.
    * ``num_smoothing_updates``: length of a linear ramp in gradient updates; or ``schedule``.
    * ``source_batch_size``: offline transitions per update; the agent's ``batch_size`` if None.
    * ``source_losses``: the offline objective, see :class:`segue.adapters.sb3.SourceLosses`;
      TD3+BC for TD3 and DDPG, SAC with imitation for SAC, if None.
    * ``source_seed``: seeds the order of the data and the random numbers of the source losses,
      which leave the global random states alone.
    * ``non_finite``: as for :class:`segue.Smoothing`. What is looked at of the target is its
      gradient.

    Logged by SB3's logger: ``segue/source_weight``, raw and weighted source losses of both networks,
    and their count; ``train/critic_loss`` and ``train/actor_loss`` stay the raw target losses.

    Raises:
        TypeError: If ``algorithm`` is no off-policy algorithm with an actor and a critic.

    Source: arXiv 2607.00634.

    Example:
        >>> from stable_baselines3 import TD3
        >>> smooth(TD3).__name__
        'SmoothedTD3'
    """
    if not (isinstance(algorithm, type) and issubclass(algorithm, OffPolicyAlgorithm)):
        raise TypeError(
            f"algorithm must be an off-policy algorithm class of stable_baselines3, got {algorithm!r}"
        )
    made = type(f"Smoothed{algorithm.__name__}", (Smoothed, algorithm), {"__doc__": smooth.__doc__})
    return made
