"""Train rejax's PPO on CartPole with and without smoothing, four seeds at once.

Run it with `python examples/rejax_ppo.py`. Needs rejax: `pip install ".[rejax]"`.
"""

import jax
import rejax
from rejax.evaluate import evaluate

import segue
from segue.adapters.rejax import SmoothedPPO

NUM_SEEDS, NUM_EPISODES = 4, 16
SETTINGS = {
    "env": "CartPole-v1",
    "num_envs": 8,
    "num_steps": 64,
    "num_epochs": 4,
    "num_minibatches": 4,
    "learning_rate": 3e-3,
    "max_grad_norm": 0.5,  # rejax clips each element of the gradient, not its norm
    "total_timesteps": 20_480,
    "eval_freq": 10_240,
}


def returns_of(algorithm, state, rng):
    limit = algorithm.env_params.max_steps_in_episode
    act, env, params = algorithm.make_act(state), algorithm.env, algorithm.env_params
    return evaluate(act, rng, env, params, NUM_EPISODES, limit)[1]


def main():
    half = SETTINGS["num_epochs"] * SETTINGS["num_minibatches"] // 2
    arms = {
        "plain rejax": rejax.PPO.create(**SETTINGS),
        "hard switch": SmoothedPPO.create(schedule=segue.hard_switch(), **SETTINGS),
        "smoothing": SmoothedPPO.create(schedule=segue.linear_decay(half), **SETTINGS),
    }
    for name, algorithm in arms.items():
        algorithm = algorithm.replace(eval_callback=returns_of)
        # vmap over keys: the step is the same for all seeds, and the source is skipped for all.
        train = jax.jit(jax.vmap(algorithm.train))
        _, returns = train(jax.random.split(jax.random.PRNGKey(0), NUM_SEEDS))
        means = ", ".join(f"{value:.0f}" for value in returns.mean(axis=(0, 2)))
        print(f"{name}: mean returns {means}")


if __name__ == "__main__":
    main()
