"""Training of the family: the offline agent to its plateau, and its life online."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.experiments.compiled import prepare_jax
from segue.experiments.offline_to_online.config import OfflineConfig, OnlineConfig
from segue.experiments.offline_to_online.methods import MethodConfig, build_schedule
from segue.experiments.offline_to_online.task import load_task
from segue.experiments.training import Curves
from segue.rl.control import Control, ReturnControl, SourceLossControl
from segue.rl.evaluation import Evaluation, evaluate, evaluation_seeds
from segue.rl.measures import d4rl_reference_score, evaluation_env_steps, measure_switch
from segue.rl.networks import to_numpy
from segue.rl.objective import Objective
from segue.rl.offline import OfflineTraining, reached_plateau
from segue.rl.preprocessing import Preprocessing
from segue.rl.state import agent_from_state, agent_state
from segue.rl.switch import OnlineTraining, SwitchConfig
from segue.rl.td3 import init_agent, start_values
from segue.runs.execution import RunResult

if TYPE_CHECKING:
    from segue.runs.execution import RunContext

__all__ = ["OnlineRun", "build_objective", "train_offline", "train_online"]

_STRETCH = 1_000  # environment steps between two looks at the clock of checkpoints
_EARLY = 10_000  # environment steps within which the fall at the switch is looked for
_DISCOUNTED = "discounted_return"


def train_offline(config: OfflineConfig, context: RunContext) -> RunResult:
    """Train until the returns no longer rise; agent and preprocessing are the run's artifact."""
    prepare_jax(context.store.cache)
    task = load_task(config.shift, context.data_root, context.store.cache)
    training = OfflineTraining(config.learner, task.dataset, task.preprocessing, seed=config.seed)
    curves = Curves()
    state = context.load_checkpoint()
    if state is not None:
        training.load_state_dict(state["training"])
        curves.points = state["curves"]
    seeds = evaluation_seeds(config.seed, config.num_episodes)
    plateau = _at_plateau(config, curves)  # a run may be cut off just after it was reached
    while training.num_updates < config.max_updates and not plateau:
        training.train(config.num_updates_per_evaluation)
        found = evaluate(
            task.evaluation_env, task.preprocessing, to_numpy(training.agent.actor), seeds
        )
        curves.add("return", training.num_updates, found.mean_return)
        for name in ("critic_loss", "actor_loss", "cloning_distance", "q_mean"):
            curves.add(name, training.num_updates, training.metrics[name])
        plateau = _at_plateau(config, curves)
        context.progress(training.num_updates, config.max_updates)
        if context.should_checkpoint(training.num_updates):
            context.save_checkpoint({"training": training.state_dict(), "curves": curves.points})
    last = curves.points["return"]["value"][-1]
    returns = task.dataset.returns()
    return RunResult(
        metrics={
            "offline_return": last,
            "offline_score": d4rl_reference_score(config.shift.environment_id, last),
            "data_return": float(returns.mean()),
            "data_score": d4rl_reference_score(config.shift.environment_id, float(returns.mean())),
            "num_offline_updates": training.num_updates,
            "reached_plateau": plateau,
        },
        curves=curves.points,
        artifact=_artifact(training),
        data_fingerprint=task.dataset.fingerprint(),
    )


def _at_plateau(config: OfflineConfig, curves: Curves) -> bool:
    found = curves.points.get("return", {"step": [0], "value": []})
    return found["step"][-1] >= config.min_updates and reached_plateau(
        found["value"], tolerance=config.plateau_tolerance
    )


def train_online(config: OnlineConfig, context: RunContext) -> RunResult:
    """Take the offline agent online."""
    prepare_jax(context.store.cache)
    run = OnlineRun(config, context)
    state = context.load_checkpoint()
    if state is not None:
        run.load_state_dict(state)
    for goal in evaluation_env_steps(config.num_env_steps):
        for now in run.stretches(goal):
            context.progress(now, config.num_env_steps)
            if context.should_checkpoint(now):
                context.save_checkpoint(run.state_dict())
        if goal > run.last_evaluated:
            run.measure()
    return run.result()


class OnlineRun:
    """State of one online run: everything a checkpoint holds."""

    def __init__(self, config: OnlineConfig, context: RunContext) -> None:
        self.config = config
        self.task = load_task(config.shift, context.data_root, context.store.cache)
        preprocessing, agent = self.task.preprocessing, None
        if config.requires():
            artifact: Mapping[str, Any] = context.artifact(config.source)
            preprocessing = Preprocessing.from_state_dict(artifact["preprocessing"])
            if preprocessing != self.task.preprocessing:
                raise ValueError(
                    "preprocessing of the offline agent must be that of the data set: the artifact "
                    "was trained on other data"
                )
            sizes = preprocessing.num_observations, preprocessing.num_actions
            template = init_agent(config.source.learner, *sizes, config.seed)
            agent = agent_from_state(template, artifact["agent"])
        self.training = OnlineTraining(
            SwitchConfig(
                learner=config.source.learner,
                objective=build_objective(config.method, config.num_updates_per_env_step),
                num_env_steps_per_round=config.num_env_steps_per_round,
                num_random_env_steps=config.method.num_random_env_steps,
                exploration_noise=config.exploration_noise,
                reset_optimizers=config.method.reset_optimizers,
                buffer_capacity=config.num_env_steps,
            ),
            self.task.training_env,
            preprocessing,
            seed=config.seed,
            dataset=self.task.dataset,
            agent=agent,
            control=_build_control(config.method),
        )
        self.curves = Curves()
        self.last_evaluated = -1

    def stretches(self, goal: int) -> Iterator[int]:
        """Train until an environment step; yields the step after each stretch.

        The stretches are part of what a run is: a round never crosses the end of one.
        """
        while self.training.num_env_steps < goal:
            now = self.training.num_env_steps
            self.training.train(min(goal, (now // _STRETCH + 1) * _STRETCH))
            yield self.training.num_env_steps

    def measure(self) -> None:
        """Evaluate, and add a point to every curve."""
        config, training = self.config, self.training
        step = self.last_evaluated = training.num_env_steps
        num = config.num_episodes_at_switch if step == 0 else config.num_episodes
        found = evaluate(
            self.task.evaluation_env,
            self.task.preprocessing,
            to_numpy(training.agent.actor),
            evaluation_seeds(config.seed, config.num_episodes_at_switch)[:num],
            discount=config.source.learner.discount,
        )
        score = d4rl_reference_score(config.shift.environment_id, found.mean_return)
        values = {
            "return": found.mean_return,
            "score": score,
            "return_std": float(found.returns.std()),
            "episode_length": float(found.lengths.mean()),
            "saturated_share": found.saturated_share,
            **self._value_error(found),
            "source_weight": training.source_weight,
        }
        # Of the last round; NaN where a loss was not evaluated, which makes no point.
        values.update(
            (f"train_{name}", value)
            for name, value in training.metrics.items()
            if name != "source_weight" and np.isfinite(value)
        )
        for name, value in values.items():
            self.curves.add(name, step, value)

    def _value_error(self, found: Evaluation) -> dict[str, float]:
        """How far the critic's value of the first states is from what was really returned."""
        learner, training = self.config.source.learner, self.training
        num_actions = self.task.preprocessing.num_actions
        values = start_values(learner, training.agent, found.first_observations, num_actions)
        value, returned = float(np.mean(values)), float(found.discounted_returns.mean())
        return {"start_value": value, _DISCOUNTED: returned, "start_value_error": value - returned}

    def result(self) -> RunResult:
        """Measures of the switch, on scores and on raw returns."""
        training, points = self.training, self.curves.points
        steps, scores = points["score"]["step"], points["score"]["value"]
        metrics: dict[str, Any] = measure_switch(steps, scores).as_metrics("score_")
        raw = points["return"]["value"]
        early = [v for s, v in zip(steps, scores, strict=True) if 0 < s <= _EARLY]
        episodes = [value for _, value in training.episode_returns]
        metrics.update(
            {
                "return_start": raw[0],
                "return_lowest": min(raw[1:]),
                "return_final": raw[-1],
                "return_mean": _mean_of_curve(steps, raw),
                "score_lowest_early": min(early),
                "source_weight_final": training.source_weight,
                "num_env_steps": training.num_env_steps,
                "num_updates": training.num_updates,
                "num_gradient_batches": self._num_gradient_batches(),
                "num_training_episodes": len(episodes),
                "training_return_last_10": float(np.mean(episodes[-10:])) if episodes else None,
            }
        )
        curves = {**points, "training_return": _training_curve(training.episode_returns)}
        return RunResult(
            metrics=metrics,
            curves=curves,
            weights=self.result_weights(),
            data_fingerprint=self.task.dataset.fingerprint(),
        )

    def result_weights(self) -> dict[str, Any]:
        """Everything that learns, by path: what the hash in the record is of."""
        return _tensors(agent_state(self.training.agent))

    def _num_gradient_batches(self) -> int:
        """Batches that the critics learnt from: the unit of equal compute."""
        schedule, num = self.training.config.objective.schedule, self.training.num_updates
        if not self.config.method.evaluates_source or not self.config.method.smooth_critic:
            return num
        if schedule is None:  # λ is moved by a control, which need not reach 0
            return 2 * num
        clock_at = self.training.config.objective.clock_at
        return num + sum(schedule(clock_at(update)) > 0.0 for update in range(num))

    def state_dict(self) -> dict[str, Any]:
        """Training, curves, and where the last evaluation was."""
        return {
            "training": self.training.state_dict(),
            "curves": self.curves.points,
            "last_evaluated": self.last_evaluated,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.training.load_state_dict(state["training"])
        self.curves.points = state["curves"]
        self.last_evaluated = state["last_evaluated"]


def build_objective(method: MethodConfig, num_updates_per_env_step: int = 1) -> Objective:
    """Return the objective that a method's settings name."""
    schedule = build_schedule(method.schedule) if method.control == "clock" else None
    return Objective(
        schedule=schedule,
        clock=method.clock,
        num_updates_per_env_step=num_updates_per_env_step,
        num_env_steps_before_updates=method.num_env_steps_before_updates,
        smooth_actor=method.smooth_actor,
        smooth_critic=method.smooth_critic,
        source_term=method.source_term,
        batches=method.batches,
        offline_share=build_schedule(method.offline_share),
        cloning_weight=build_schedule(method.cloning_weight),
    )


def _build_control(method: MethodConfig) -> Control | None:
    num_steps, floor = method.schedule.num_smoothing_steps, method.schedule.final_weight
    if method.control == "return":
        return ReturnControl(num_steps, final_weight=floor)
    if method.control == "source_loss":
        return SourceLossControl(num_steps, final_weight=floor)
    return None


def _artifact(training: OfflineTraining) -> dict[str, Any]:
    return {
        "agent": agent_state(training.agent),
        "preprocessing": training.preprocessing.state_dict(),
    }


def _tensors(tree: Any, name: str = "") -> dict[str, Any]:
    """Flatten nested dicts of tensors to one dict by path."""
    if not isinstance(tree, Mapping):
        return {name: tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found.update(_tensors(value, f"{name}.{key}" if name else str(key)))
    return found


def _training_curve(episodes: list[tuple[int, float]]) -> dict[str, list[Any]]:
    return {"step": [step for step, _ in episodes], "value": [value for _, value in episodes]}


def _mean_of_curve(steps: list[int], values: list[float]) -> float:
    return float(np.trapezoid(values, steps) / steps[-1])
