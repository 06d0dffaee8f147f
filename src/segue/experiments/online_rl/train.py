"""Training of the online family: iterations of PPO with evaluations in between."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import torch

from segue.experiments.online_rl.config import OnlineConfig, ShiftConfig
from segue.experiments.online_rl.methods import MethodConfig
from segue.rl.environments import make_environment
from segue.rl.ppo import PPO, PPOState
from segue.rl.ppo_checkpoint import arrays_of, state_from_arrays
from segue.rl.ppo_settings import PPOSettings, TaskChange
from segue.runs.context import RunResult

if TYPE_CHECKING:
    from segue.runs.context import RunContext

__all__ = ["evaluation_iterations", "num_gradient_examples", "train_online"]

_MEASURED = ("target_loss", "source_loss", "source_weight", "policy_churn", "value_churn")
_NEVER = 2**31 - 1


def train_online(config: OnlineConfig, context: RunContext) -> RunResult:
    """Train the learner of ``config``; a run that was cut off goes on bit by bit."""
    platform = "cpu" if context.device == "cpu" else "gpu"
    with jax.default_device(jax.devices(platform)[0]):
        run = _Run(config)
        saved = context.load_checkpoint()
        if saved is not None:
            run.load_state_dict(saved)
        when = set(evaluation_iterations(config))
        for iteration in range(run.iteration, config.num_iterations):
            if iteration in when:
                run.evaluate(config.num_episodes)
            run.iterate()
            context.progress(iteration + 1, config.num_iterations)
            if context.should_checkpoint(iteration + 1):
                context.save_checkpoint(run.state_dict())
        run.evaluate(4 * config.num_episodes)
        return run.result()


def evaluation_iterations(config: OnlineConfig) -> list[int]:
    """Iterations before which the policy is evaluated: evenly spread, and densely after a change."""
    num, every = config.num_iterations, max(1, config.num_iterations // config.num_evaluations)
    found = set(range(0, num, every))
    if config.shift.shift.changes:
        found |= {num // 2 + after for after in (0, 1, 2, 4, 8) if num // 2 + after < num}
    return sorted(found)


def num_gradient_examples(config: OnlineConfig, source_evaluated: float) -> int:
    """Examples that passed forward and backward in an iteration.

    ``source_evaluated`` is the share of its updates whose branch with the source was taken; where
    only the target's weight is ramped, that branch holds no examples.
    """
    settings = config.settings
    size = settings.num_examples // settings.num_minibatches
    num_source = 0 if config.method.source_term == "nothing" else source_evaluated
    return round(settings.num_updates * (1.0 + num_source)) * size


@functools.lru_cache(maxsize=64)
def _compiled(
    shift: ShiftConfig, method: MethodConfig, plain: PPOSettings, change_iteration: int
) -> tuple[PPO, Any, Any, Any]:
    """A learner and its compiled functions; seeds and learning rates share them."""
    settings, task = method.settings(plain), shift.shift
    learner = PPO(
        make_environment(task.environment),
        settings,
        method.schedule(settings.num_updates),
        source_term=method.source_term,
        source_advantages=method.source_advantages,
        change=TaskChange(change_iteration, dict(task.changes)) if task.changes else None,
    )
    train = jax.jit(learner.train, static_argnums=2)
    evaluate = jax.jit(learner.evaluate, static_argnums=3)
    return learner, jax.jit(learner.init), train, evaluate


class _Run:
    """State of one run: everything a checkpoint holds."""

    def __init__(self, config: OnlineConfig) -> None:
        self.config = config
        changes = bool(config.shift.shift.changes)
        self.change = config.num_iterations // 2 if changes else _NEVER
        self.learner, init, self._train, self._evaluate = _compiled(
            config.shift, config.method, config.learner, self.change
        )
        self.state: PPOState = init(np.uint32(config.seed), np.float32(config.learning_rate))
        self.iteration = 0
        self.num_gradient_examples = 0
        self.curves: dict[str, dict[str, list[Any]]] = {}

    @property
    def num_env_steps(self) -> int:
        """Environment steps so far."""
        return self.iteration * self.learner.settings.num_examples

    def iterate(self) -> None:
        """One iteration, and a point on each of its curves."""
        self.state, measured = self._train(self.state, self.iteration, 1)
        found = {name: float(value[0]) for name, value in measured.items()}
        self.iteration += 1
        self.num_gradient_examples += num_gradient_examples(self.config, found["source_evaluated"])
        for name in _MEASURED:
            self._add(name, found[name])
        if found["num_episodes"] > 0:
            self._add("training_return", found["sum_of_returns"] / found["num_episodes"])

    def evaluate(self, num_episodes: int) -> None:
        """Evaluate in the task as it now is, in environments that training does not see."""
        # The same first states and draws for every method: those of the seed and the step.
        key = jax.random.fold_in(jax.random.key(1_000_003 + self.config.seed), self.num_env_steps)
        constants = self.learner.constants_at(self.iteration)
        returns = self._evaluate(self.state.params, key, constants, num_episodes)
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
        if self.change != _NEVER:
            metrics |= self._around_the_change(steps, values)
        weights = {name: torch.from_numpy(value) for name, value in self._arrays("params").items()}
        return RunResult(metrics=metrics, curves=self.curves, weights=weights)

    def _around_the_change(
        self, steps: np.ndarray[Any, Any], values: np.ndarray[Any, Any]
    ) -> dict[str, Any]:
        # The evaluation at the change itself is in the new task, by the policy of the old one.
        first = self.change * self.learner.settings.num_examples
        before, after = values[steps < first], steps >= first
        return {
            "return_before_change": float(before[-1]),
            "return_at_change": float(values[after][0]),
            "lowest_return_after_change": float(values[after].min()),
            "area_after_change": _mean_height(steps[after], values[after]),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "iteration": self.iteration,
            "num_gradient_examples": self.num_gradient_examples,
            "curves": self.curves,
            "learner": {name: _to_torch(value) for name, value in arrays_of(self.state).items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.iteration = state["iteration"]
        self.num_gradient_examples = state["num_gradient_examples"]
        self.curves = state["curves"]
        like = arrays_of(self.state)
        arrays = {
            name: tensor.numpy().view(like[name].dtype) if name in like else tensor.numpy()
            for name, tensor in state["learner"].items()
        }
        self.state = state_from_arrays(self.state, arrays)

    def _arrays(self, part: str) -> dict[str, np.ndarray[Any, Any]]:
        return {
            name: np.array(value) for name, value in arrays_of(getattr(self.state, part)).items()
        }


def _to_torch(array: np.ndarray[Any, Any]) -> torch.Tensor:
    # Unsigned integers are kept as signed ones of the same bits, which every version of torch has.
    signed = array.view(np.int32) if array.dtype == np.uint32 else array
    return torch.from_numpy(np.array(signed))


def _mean_height(steps: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> float:
    """Area under the curve by the trapezoidal rule, over its length: a return."""
    return float(np.trapezoid(values, steps) / (steps[-1] - steps[0]))
