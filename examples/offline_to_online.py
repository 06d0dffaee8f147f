"""Take an offline policy online: TD3+BC on recorded data, then TD3 in the environment."""

import gymnasium
import numpy as np

import segue
from segue.rl.data import collect
from segue.rl.evaluation import evaluate, evaluation_seeds
from segue.rl.measures import measure_switch
from segue.rl.networks import to_numpy
from segue.rl.objective import Objective
from segue.rl.offline import OfflineTraining
from segue.rl.preprocessing import fit_preprocessing
from segue.rl.switch import OnlineTraining, SwitchConfig
from segue.rl.td3 import TD3Config

NUM_SMOOTHING_STEPS, NUM_ENV_STEPS = 500, 1_500
GAINS = np.array([0.5, 15.0, 0.5, 2.5])
LEARNER = TD3Config(hidden_widths=(32, 32), batch_size=64, actor_learning_rate=1e-3)


def make_env() -> gymnasium.Env:  # a balancing pendulum in MuJoCo
    return gymnasium.make("InvertedPendulum-v5", max_episode_steps=200)


def main() -> None:
    data = collect(make_env(), lambda o: GAINS @ o[:, None], 3_000, noise=0.3, seed=0)
    space = make_env().action_space
    preprocessing = fit_preprocessing(data.observations, space.low, space.high)
    offline = OfflineTraining(LEARNER, data, preprocessing, seed=0)
    offline.train(1_000)

    for name, schedule in {
        "hard switch": segue.hard_switch(),
        "smoothing": segue.linear_decay(NUM_SMOOTHING_STEPS),
        "smoothing to a floor": segue.linear_decay(NUM_SMOOTHING_STEPS, final_weight=0.3),
    }.items():
        objective = Objective(schedule, num_env_steps_before_updates=64)  # a batch
        training = OnlineTraining(
            SwitchConfig(LEARNER, objective, num_env_steps_per_round=10),
            make_env(),
            preprocessing,
            seed=0,
            dataset=data,
            agent=offline.agent,
        )
        steps, returns = list(range(0, NUM_ENV_STEPS + 1, 250)), []
        for step in steps:
            training.train(step)
            actor = to_numpy(training.agent.actor)
            found = evaluate(make_env(), preprocessing, actor, evaluation_seeds(0, 5))
            returns.append(found.mean_return)
        fall = measure_switch(steps, returns)
        print(
            f"{name}: {fall.start:.0f} at first, {fall.lowest:.0f} at worst, then {fall.final:.0f}"
        )


if __name__ == "__main__":
    main()
