"""Training of the online family: iterations of a learner with evaluations in between."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import torch

from segue.experiments.compiled import prepare_jax
from segue.experiments.online_rl.config import (
    OnlineConfig,
    PPOConfig,
    ShiftConfig,
    TD3OnlineConfig,
)
from segue.experiments.online_rl.methods import MethodConfig
from segue.experiments.online_rl.td3_methods import TD3MethodConfig
from segue.rl.environments import make_environment
from segue.rl.ppo import PPO
from segue.rl.ppo_checkpoint import arrays_of, state_from_arrays
from segue.rl.ppo_settings import PPOSettings, TaskChange
from segue.rl.td3_online import TD3
from segue.rl.td3_online_settings import OnlineTD3Settings
from segue.runs.context import RunResult

if TYPE_CHECKING:
    from segue.runs.context import RunContext

__all__ = ["build_learner", "evaluation_points", "train_online"]

_MEASURED = ("target_loss", "source_loss", "source_weight", "policy_churn", "value_churn")
_NEVER = 2**31 - 1


def train_online(config: OnlineConfig, context: RunContext) -> RunResult:
    """Train the learner of ``config``; a run that was cut off goes on bit by bit."""
    prepare_jax(context.store.cache)
    platform = "cpu" if context.device == "cpu" else "gpu"
    with jax.default_device(jax.devices(platform)[0]):
        run = _Run(config)
        saved = context.load_checkpoint()
        if saved is not None:
            run.load_state_dict(saved)
        when = set(evaluation_points(config))
        for point in range(run.point, config.num_points):
            if point in when:
                run.evaluate(config.num_episodes)
            run.advance()
            context.progress(point + 1, config.num_points)
            if context.should_checkpoint(point + 1):
                context.save_checkpoint(run.state_dict())
        run.evaluate(4 * config.num_episodes)
        return run.result()


def evaluation_points(config: OnlineConfig) -> list[int]:
    """Points before which the policy is evaluated: evenly spread, and densely after a change."""
    num, every = config.num_points, max(1, config.num_points // config.num_evaluations)
    found = set(range(0, num, every))
    if config.shift.shift.changes:
        found |= {num // 2 + after for after in (0, 1, 2, 4, 8) if num // 2 + after < num}
    return sorted(found)


def build_learner(config: OnlineConfig) -> PPO | TD3:
    """Return the learner that a run trains.

    Raises:
        TypeError: If the configuration is of neither learner.
    """
    if isinstance(config, PPOConfig):
        return _ppo(config.shift, config.method, config.learner, _change_iteration(config))
    if isinstance(config, TD3OnlineConfig):
        return _td3(config.shift, config.method, config.learner, _change_iteration(config))
    raise TypeError(f"config must be one of PPO or TD3, got {type(config).__name__}")


def _change_iteration(config: OnlineConfig) -> int:
    if not config.shift.shift.changes:
        return _NEVER
    return config.num_points // 2 * config.num_iterations_per_point


def _change(shift: ShiftConfig, iteration: int) -> TaskChange | None:
    return TaskChange(iteration, dict(shift.shift.changes)) if shift.shift.changes else None


# Seeds and learning rates share a learner, and with it its compiled functions.
@functools.lru_cache(maxsize=64)
def _ppo(shift: ShiftConfig, method: MethodConfig, plain: PPOSettings, change: int) -> PPO:
    settings = method.settings(plain)
    return PPO(
        make_environment(shift.shift.environment),
        settings,
        method.schedule(settings.num_updates),
        source_term=method.source_term,
        source_advantages=method.source_advantages,
        change=_change(shift, change),
    )


@functools.lru_cache(maxsize=64)
def _td3(shift: ShiftConfig, method: TD3MethodConfig, plain: OnlineTD3Settings, change: int) -> TD3:
    settings = method.settings(plain)
    return TD3(
        make_environment(shift.shift.environment),
        settings,
        method.schedule(settings.period),
        source_term=method.source_term,
        change=_change(shift, change),
    )


@functools.lru_cache(maxsize=64)
def _compiled(learner: PPO | TD3) -> tuple[Any, Any, Any]:
    train = jax.jit(learner.train, static_argnums=2)
    evaluate = jax.jit(learner.evaluate, static_argnums=3)
    return jax.jit(learner.init), train, evaluate


class _Run:
    """State of one run: everything a checkpoint holds."""

    def __init__(self, config: OnlineConfig) -> None:
        self.config = config
        self.change_point = config.num_points // 2 if config.shift.shift.changes else None
        self.learner = build_learner(config)
        init, self._train, self._evaluate = _compiled(self.learner)
        self.state: Any = init(np.uint32(config.seed), np.float32(config.learning_rate))
        self.point = 0
        self.num_gradient_examples = 0
        self.curves: dict[str, dict[str, list[Any]]] = {}

    @property
    def num_env_steps(self) -> int:
        """Environment steps so far."""
        return self.point * self.config.num_env_steps_per_point

    def advance(self) -> None:
        """Train to the next point, and add it to the curves."""
        num = self.config.num_iterations_per_point
        self.state, measured = self._train(self.state, self.point * num, num)
        found = {name: np.asarray(value, np.float64) for name, value in measured.items()}
        self.point += 1
        self.num_gradient_examples += self.config.num_gradient_examples(
            float(found["source_evaluated"].mean())
        )
        for name in _MEASURED:
            self._add(name, float(found[name].mean()))
        num_episodes = found["num_episodes"].sum()
        if num_episodes > 0:
            self._add("training_return", float(found["sum_of_returns"].sum() / num_episodes))

    def evaluate(self, num_episodes: int) -> None:
        """Evaluate in the task as it now is, in environments that training does not see."""
        # The same first states and draws for every method: those of the seed and the step.
        key = jax.random.fold_in(jax.random.key(1_000_003 + self.config.seed), self.num_env_steps)
        constants = self.learner.constants_at(self.point * self.config.num_iterations_per_point)
        policy = self.learner.policy(self.state)
        returns = self._evaluate(policy, key, constants, num_episodes)
        self._add("return", float(returns.mean()))

    def _add(self, name: str, value: float) -> None:
        curve = self.curves.setdefault(name, {"step": [], "value": []})
        curve["step"].append(self.num_env_steps)
        curve["value"].append(value)

    def result(self) -> RunResult:
        """Final metrics and the curves."""
        curve = self.curves["return"]
        steps, values = np.asarray(curve["step"]), np.asarray(curve["value"])
        metrics: dict[str, Any] = {
            "final_return": float(values[-1]),
            "area_under_curve": _mean_height(steps, values),
            "policy_churn": float(np.mean(self.curves["policy_churn"]["value"])),
            "value_churn": float(np.mean(self.curves["value_churn"]["value"])),
            "num_env_steps": self.num_env_steps,
            "num_gradient_examples": self.num_gradient_examples,
        }
        if self.change_point is not None:
            metrics |= self._around(self.change_point, steps, values)
        networks = self.state.params if isinstance(self.learner, PPO) else self.state.agent
        weights = {name: _to_torch(value) for name, value in arrays_of(networks).items()}
        return RunResult(metrics=metrics, curves=self.curves, weights=weights)

    def _around(
        self, change_point: int, steps: np.ndarray[Any, Any], values: np.ndarray[Any, Any]
    ) -> dict[str, Any]:
        # The evaluation at the change itself is in the new task, by the policy of the old one.
        first = change_point * self.config.num_env_steps_per_point
        before, after = values[steps < first], steps >= first
        return {
            "return_before_change": float(before[-1]),
            "return_at_change": float(values[after][0]),
            "lowest_return_after_change": float(values[after].min()),
            "area_after_change": _mean_height(steps[after], values[after]),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "point": self.point,
            "num_gradient_examples": self.num_gradient_examples,
            "curves": self.curves,
            "learner": {name: _to_torch(value) for name, value in arrays_of(self.state).items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.point = state["point"]
        self.num_gradient_examples = state["num_gradient_examples"]
        self.curves = state["curves"]
        like = arrays_of(self.state)
        arrays = {
            name: tensor.numpy().view(like[name].dtype) if name in like else tensor.numpy()
            for name, tensor in state["learner"].items()
        }
        self.state = state_from_arrays(self.state, arrays)


def _to_torch(array: np.ndarray[Any, Any]) -> torch.Tensor:
    # Unsigned integers are kept as signed ones of the same bits, which every version of torch has.
    signed = array.view(np.int32) if array.dtype == np.uint32 else array
    return torch.from_numpy(np.array(signed))


def _mean_height(steps: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> float:
    """Area under the curve by the trapezoidal rule, over its length: a return."""
    return float(np.trapezoid(values, steps) / (steps[-1] - steps[0]))
