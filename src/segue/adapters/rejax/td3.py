"""rejax's TD3, eased into every hard update of its targets by lagged ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from rejax import TD3

from segue.adapters.jax import never_smooths, smoothed_value_and_grad, traceable
from segue.adapters.rejax.gradients import Probe, as_loss
from segue.adapters.rejax.state import check_state, static, with_absent_source, with_field
from segue.checks import check_at_least_one
from segue.schedules import Schedule, check_horizon, hard_switch

__all__ = ["LaggedTargets", "SmoothedTD3"]


class LaggedTargets(NamedTuple):
    """Former target networks and the clock of the ramp; part of a smoothed TD3's state.

    Attributes:
        actors: Former target actors, oldest first, stacked: leading dimension ``lag``.
        critics: Former target critics likewise.
        num_replacements: Hard updates of the targets since learning began.
        num_updates: Critic updates since the last of them.
    """

    actors: Any
    critics: Any
    num_replacements: jax.Array
    num_updates: jax.Array


class SmoothedTD3(TD3):  # type: ignore[misc]
    """rejax's TD3; lagged targets ease the critic into every hard update of its targets.

    After a hard update the critic minimises λ·(loss on the lagged targets) + (1 − λ)·(loss on the
    present ones), on the same minibatch with the same target noise. λ starts over at every hard
    update; until there are lagged targets it is 0. The actor's loss holds no targets and is plain.

    Needs ``polyak=0``: then targets are replaced outright, every ``target_update_freq`` environment
    steps. Where they are averaged, former targets are all but the present ones, and there is no
    switch to smooth.

    Attributes:
        schedule: Source weight over the critic updates since the last hard update.
        lag: How many hard updates the source's targets lie behind.

    Source: arXiv 2607.00634; TD3: arXiv 1802.09477.
    """

    schedule: Schedule = static(default=hard_switch())
    lag: int = static(default=1)

    @classmethod
    def create(cls, *, schedule: Schedule, lag: int = 1, **config: Any) -> SmoothedTD3:
        """Return a learner.

        Args:
            schedule: Source weight over the critic updates since the last hard update.
            lag: How many hard updates the source's targets lie behind.
            config: As for ``rejax.TD3.create``; with ``polyak=0`` unless the schedule never smooths.

        Raises:
            TypeError: If the schedule cannot be traced.
            ValueError: If ``polyak`` is not 0, ``lag < 1``, or the ramp is longer than
                :attr:`num_updates_per_period`. All of it before compilation.
        """
        made: SmoothedTD3 = super().create(schedule=schedule, lag=lag, **config)
        return made

    def __post_init__(self) -> None:
        """Check what is static; ``replace`` comes by here too."""
        traceable(self.schedule)
        check_at_least_one("lag", self.lag)
        if never_smooths(self.schedule):
            return
        # Under vmap over hyperparameters it may be traced, and then cannot be checked.
        if isinstance(self.polyak, int | float) and self.polyak != 0:
            raise ValueError(
                "polyak must be 0 (rejax's weight of the old target; 0 replaces the targets every "
                f"target_update_freq environment steps), got {self.polyak}: under averaging the "
                "previous targets are all but the present ones, and there is nothing to smooth"
            )
        period = self.num_updates_per_period
        check_horizon(
            self.schedule,
            period,
            "the critic updates between two hard updates of the "
            f"targets ({period}, from target_update_freq={self.target_update_freq} environment "
            "steps)",
        )

    @property
    def num_updates_per_period(self) -> int:
        """Critic updates between two hard updates of the targets.

        rejax looks whether one is due after every ``policy_delay`` steps of all environments. Where
        ``target_update_freq`` is no multiple of that, periods differ, and this is the shortest.
        """
        num_env_steps = self.num_envs * self.policy_delay
        num_looks = max(1, self.target_update_freq // num_env_steps)
        return int(num_looks * self.policy_delay * self.num_epochs)

    def init_state(self, rng: jax.Array) -> Any:
        """Return rejax's state, with room for former targets where there is smoothing."""
        state = super().init_state(rng)
        if never_smooths(self.schedule):
            return state

        def repeated(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: jnp.stack([leaf] * self.lag), tree)

        former = repeated(state.actor_target_params), repeated(state.critic_target_params)
        return with_field(state, "lagged", LaggedTargets(*former, jnp.int32(0), jnp.int32(0)))

    def update_critic(self, ts: Any, minibatch: Any) -> Any:
        """Step the critic on both losses."""
        if never_smooths(self.schedule):
            return super().update_critic(ts, minibatch)
        check_state(self, ts, "lagged")
        lagged: LaggedTargets = ts.lagged

        def source_loss(params: Any, _: None) -> jax.Array:
            actor, critic = (
                jax.tree.map(lambda leaf: leaf[0], former)
                for former in (lagged.actors, lagged.critics)
            )
            before = ts.replace(actor_target_params=actor, critic_target_params=critic)
            return as_loss(self._gradients, params, before, minibatch)

        def target_loss(params: Any, _: None) -> jax.Array:
            return as_loss(self._gradients, params, ts, minibatch)

        value_and_grad = smoothed_value_and_grad(
            source_loss, target_loss, with_absent_source(self.schedule)
        )
        exists = lagged.num_replacements >= self.lag
        step = jnp.where(exists, 1 + lagged.num_updates, 0)
        _, gradients = value_and_grad(ts.critic_ts.params, step, None, None)
        return ts.replace(
            critic_ts=ts.critic_ts.apply_gradients(grads=gradients),
            lagged=lagged._replace(num_updates=lagged.num_updates + 1),
        )

    def train_policy(self, ts: Any, minibatches: Any, old_global_step: Any) -> Any:
        """Step the actor and, when due, replace the targets; keep those they had."""
        former = ts
        ts = super().train_policy(ts, minibatches, old_global_step)
        if never_smooths(self.schedule):
            return ts
        num_steps = self.target_update_freq
        is_due = ts.global_step // num_steps > old_global_step // num_steps
        # While the buffer is being filled, targets are replaced by themselves.
        is_due = is_due & (ts.lagged.num_updates > 0)

        def replaced() -> LaggedTargets:
            return LaggedTargets(
                _shifted(ts.lagged.actors, former.actor_target_params),
                _shifted(ts.lagged.critics, former.critic_target_params),
                ts.lagged.num_replacements + 1,
                jnp.zeros_like(ts.lagged.num_updates),
            )

        return ts.replace(lagged=lax.cond(is_due, replaced, lambda: ts.lagged))

    def _gradients(self, params: Any, ts: Any, minibatch: Any) -> Any:
        """Return rejax's gradient for the critic."""
        return super().update_critic(ts.replace(critic_ts=Probe(params)), minibatch).critic_ts


def _shifted(history: Any, newest: Any) -> Any:
    return jax.tree.map(lambda old, new: jnp.concatenate([old[1:], new[None]]), history, newest)
