"""Take an offline Pendulum policy online with TD3 of Stable-Baselines3, with and without Segue.

Run it with `python examples/sb3_offline_to_online.py`. Needs stable-baselines3.
"""

from tempfile import TemporaryDirectory

import gymnasium as gym
import numpy as np
from stable_baselines3 import TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import NormalActionNoise

import segue
from segue.adapters.sb3 import TD3BC, smooth

SmoothedTD3 = smooth(TD3)
SETTINGS = {"policy_kwargs": {"net_arch": [64, 64]}, "policy_delay": 1, "batch_size": 64, "seed": 0}


def controller(observation: np.ndarray) -> float:
    cos, sin, speed = observation  # swing up along the motion, then hold the pendulum there
    return -8 * sin - 2 * speed if cos > 0.8 else 4 * speed


def record(num_steps: int) -> ReplayBuffer:
    env, draw = gym.make("Pendulum-v1", max_episode_steps=80), np.random.default_rng(0)
    buffer = ReplayBuffer(num_steps, env.observation_space, env.action_space, device="cpu")
    observation, _ = env.reset(seed=0)
    for _ in range(num_steps):
        force = np.clip(controller(observation), -2, 2) + 0.5 * draw.normal()
        action = np.clip([force], -2, 2).astype(np.float32)
        following, reward, end, timeout, _ = env.step(action)
        info = {"TimeLimit.truncated": timeout}  # a time limit is no end: its value is bootstrapped
        buffer.add(observation[None], following[None], action / 2, reward, end or timeout, [info])
        observation = env.reset()[0] if end or timeout else following
    return buffer


source = {"source": record(4000), "source_losses": TD3BC(alpha=0.5)}
offline = SmoothedTD3("MlpPolicy", "Pendulum-v1", schedule=segue.constant(1), **source, **SETTINGS)
offline.replay_buffer = source["source"]
offline.set_logger(configure(None, []))
offline.train(gradient_steps=600, batch_size=64)  # TD3+BC: the offline loss alone
with TemporaryDirectory() as folder:
    offline.save(f"{folder}/agent")
    floor = segue.linear_decay(400, final_weight=0.3)  # in gradient updates
    for name, schedule in (("hard switch", segue.hard_switch()), ("smoothing to a floor", floor)):
        ramp = {"schedule": schedule, "new_ramp": True, "learning_starts": 0}
        model = SmoothedTD3.load(f"{folder}/agent", gym.make("Pendulum-v1"), **ramp, **source)
        model.action_noise = NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))
        model.set_random_seed(0)
        returns = []
        for _ in range(5):
            returns.append(round(evaluate_policy(model, make_vec_env("Pendulum-v1", seed=1), 5)[0]))
            model.learn(125, reset_num_timesteps=False)
        print(f"{name}: returns {returns}")
