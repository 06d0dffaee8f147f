"""Smoothing for users of rejax: its PPO and TD3 with a schedule, and nothing else changed.

    from segue.adapters.rejax import SmoothedPPO

    algorithm = SmoothedPPO.create(env="CartPole-v1", schedule=segue.linear_decay(32))
    state, evaluation = jax.jit(algorithm.train)(jax.random.PRNGKey(0))

Gradients come from rejax's own update functions, so losses, networks, normalisation, evaluation and
random numbers are rejax's; with :func:`segue.hard_switch` the traced program is rejax's too.

What rejax 0.1.3 does that its names do not say, and that these classes keep: ``max_grad_norm`` clips
each element of the gradient, not its norm; buffer and advantages know ``done`` alone, so a time limit
counts as a terminal state and is not bootstrapped; ``polyak`` is the weight of the *old* target;
``target_update_freq`` counts environment steps. It needs ``gymnax<1``.

``jax.vmap(algorithm.train)`` over keys keeps the branch that skips the source. States that were made
by ``jax.vmap(algorithm.init_state)`` have a batched step count: then both branches run.
"""

from __future__ import annotations

try:
    import rejax as _rejax  # noqa: F401
except ImportError as error:
    raise ImportError('segue.adapters.rejax needs rejax: pip install "segue[rejax]"') from error

from segue.adapters.rejax.ppo import SmoothedPPO
from segue.adapters.rejax.td3 import LaggedTargets, SmoothedTD3

__all__ = ["LaggedTargets", "SmoothedPPO", "SmoothedTD3"]
