"""rejax's PPO, eased into every new rollout by the previous one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from rejax import PPO
from rejax.algos.ppo import AdvantageMinibatch

from segue.adapters.jax import never_smooths, smoothed_value_and_grad, traceable
from segue.adapters.rejax.gradients import Probe, as_loss
from segue.adapters.rejax.state import check_state, static, with_absent_source, with_field
from segue.rl.ppo_rollout import minibatch_order
from segue.schedules import Schedule, check_horizon, hard_switch, horizon

__all__ = ["SmoothedPPO"]


class SmoothedPPO(PPO):  # type: ignore[misc]
    """rejax's PPO; the previous rollout eases every iteration into the new one.

    The first K updates of an iteration minimise λ·(loss on the previous rollout, with its own
    log-probabilities, advantages and value targets) + (1 − λ)·(loss on the new rollout). λ starts
    over in every iteration; the first one has no previous rollout and is plain. Source minibatches
    follow shuffled epochs of their own; the target's are those of plain rejax.

    Attributes:
        schedule: Source weight over the updates of one iteration.

    Source: arXiv 2607.00634; PPO: arXiv 1707.06347.
    """

    schedule: Schedule = static(default=hard_switch())

    @classmethod
    def create(cls, *, schedule: Schedule, **config: Any) -> SmoothedPPO:
        """Return a learner.

        Args:
            schedule: Source weight over the ``num_epochs * num_minibatches`` updates of an iteration.
            config: As for ``rejax.PPO.create``.

        Raises:
            TypeError: If the schedule cannot be traced.
            ValueError: If the ramp is longer than an iteration's updates. Both before compilation.
        """
        made: SmoothedPPO = super().create(schedule=schedule, **config)
        return made

    def __post_init__(self) -> None:
        """Check what is static; ``replace`` comes by here too."""
        traceable(self.schedule)
        check_horizon(
            self.schedule,
            self.num_updates,
            f"the updates of an iteration ({self.num_updates} = {self.num_epochs} epochs * "
            f"{self.num_minibatches} minibatches)",
        )

    @property
    def num_updates(self) -> int:
        """Updates of an iteration."""
        return int(self.num_epochs * self.num_minibatches)

    def init_state(self, rng: jax.Array) -> Any:
        """Return rejax's state, with room for the previous rollout where there is smoothing."""
        state = super().init_state(rng)
        if never_smooths(self.schedule):
            return state
        shapes = jax.eval_shape(self._collect, state)[1]
        previous = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return with_field(state, "previous", previous)

    def train_iteration(self, ts: Any) -> Any:
        """Collect one rollout and learn from it and from the one before."""
        if never_smooths(self.schedule):
            return super().train_iteration(ts)
        check_state(self, ts, "previous")
        is_first = ts.global_step == 0
        ts, current = self._collect(ts)
        # Far from what a split of the same key gives.
        source_key = jax.random.fold_in(ts.rng, 2**31)
        order = minibatch_order(
            source_key, self.iteration_size, self._num_source_updates, self.num_minibatches
        )
        previous = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), ts.previous)

        def source_loss(params: Any, index: jax.Array) -> jax.Array:
            chosen = order[jnp.minimum(index, order.shape[0] - 1)]
            batch = jax.tree.map(lambda leaf: leaf[chosen], previous)
            return as_loss(self._gradients, params, ts, batch)

        def target_loss(params: Any, batch: Any) -> jax.Array:
            return as_loss(self._gradients, params, ts, batch)

        value_and_grad = smoothed_value_and_grad(
            source_loss, target_loss, with_absent_source(self.schedule)
        )

        def update(carry: Any, given: tuple[Any, jax.Array]) -> tuple[Any, None]:
            batch, index = given
            step = jnp.where(is_first, 0, 1 + index)
            params = tuple(part.params for part in carry)
            _, gradients = value_and_grad(params, step, index, batch)
            stepped = zip(carry, gradients, strict=True)
            return tuple(part.apply_gradients(grads=gradient) for part, gradient in stepped), None

        def epoch(carry: Any, indices: jax.Array) -> tuple[Any, None]:
            rng, learners = carry
            rng, minibatch_rng = jax.random.split(rng)
            batches = self.shuffle_and_split(current, minibatch_rng)
            return (rng, lax.scan(update, learners, (batches, indices))[0]), None

        indices = jnp.arange(self.num_updates).reshape(self.num_epochs, self.num_minibatches)
        start = (ts.rng, (ts.actor_ts, ts.critic_ts))
        (rng, (actor, critic)), _ = lax.scan(epoch, start, indices)
        return ts.replace(rng=rng, actor_ts=actor, critic_ts=critic, previous=current)

    @property
    def _num_source_updates(self) -> int:
        """How many updates of an iteration may need a source minibatch."""
        last = horizon(self.schedule)
        if last is None or self.schedule(last) > 0.0:
            return self.num_updates
        return max(last, 1)

    def _collect(self, ts: Any) -> tuple[Any, Any]:
        ts, trajectories = self.collect_trajectories(ts)
        last_value = self.critic.apply(ts.critic_ts.params, ts.last_obs)
        last_value = jnp.where(ts.last_done, 0, last_value)
        advantages, targets = self.calculate_gae(trajectories, last_value)
        return ts, AdvantageMinibatch(trajectories, advantages, targets)

    def _gradients(self, params: Any, ts: Any, batch: Any) -> tuple[Any, Any]:
        """Return rejax's gradients for actor and critic."""
        actor, critic = params
        found = self.update(ts.replace(actor_ts=Probe(actor), critic_ts=Probe(critic)), batch)
        return found.actor_ts, found.critic_ts
