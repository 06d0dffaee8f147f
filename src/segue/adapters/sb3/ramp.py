"""The ramp of an agent: blends the source's gradient into each step of its optimizers.

An algorithm's update computes the online loss of the critic, then that of the actor, each followed
by an optimizer step. Just before such a step the gradient at hand is the target's, the networks are
those it was computed with, and a gradient is linear in the loss: blending there is blending the
losses, whatever algorithm it is, without touching its code.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from stable_baselines3 import SAC, TD3
from torch import Tensor

from segue.adapters.sb3.data import normalized, transitions
from segue.adapters.sb3.losses import SACBC, TD3BC, SourceLosses
from segue.checks import check_at_least_one, check_count
from segue.losses import NonFiniteLossError, Side
from segue.objective import interpolate
from segue.randomness import OwnRandomState, derived_seed
from segue.schedules import Schedule, describe, linear_decay
from segue.smoothing import NonFinitePolicy, Smoothing
from segue.sources.replay import Replay

__all__ = ["Ramp", "Settings"]

Network = Literal["actor", "critic"]


@dataclass(frozen=True)
class Settings:
    """What the user asked for; see :func:`segue.adapters.sb3.smooth`."""

    source: Any = None
    num_smoothing_updates: int | None = None
    schedule: Schedule | None = None
    source_batch_size: int | None = None
    source_losses: SourceLosses | None = None
    source_seed: int = 0
    non_finite: NonFinitePolicy = "raise"


class Ramp:
    """Where an agent's ramp stands, and what it is trained on meanwhile.

    Args:
        model: The agent, set up.
        settings: What the user asked for.
        saved: What :meth:`state_dict` returned for the agent that is being loaded.
    """

    def __init__(self, model: Any, settings: Settings, saved: Mapping[str, Any] | None) -> None:
        self._model = weakref.ref(model)
        self._losses = settings.source_losses or _default_losses(model)
        self._num_updates = settings.num_smoothing_updates
        schedule = settings.schedule
        if self._num_updates is not None and schedule is not None:
            raise ValueError(
                "only one of num_smoothing_updates and schedule may be given, got "
                f"{self._num_updates!r} and {schedule!r}"
            )
        if self._num_updates is None and schedule is None and saved is not None:
            self._num_updates = saved["num_smoothing_updates"]
        if self._num_updates is None and schedule is None:
            raise ValueError(
                "one of num_smoothing_updates and schedule must be given"
                + ("" if saved is None else " again: the saved one was a function of your own")
            )
        if self._num_updates is not None:
            self._num_updates = check_count("num_smoothing_updates", self._num_updates)
            schedule = linear_decay(self._num_updates)
        assert schedule is not None
        self._replay: Replay | None = None
        self._seed = check_count("source_seed", settings.source_seed)
        self.smoothing = Smoothing(
            schedule, non_finite=settings.non_finite, seed=self._seed, sources=[self]
        )
        self._random_state = OwnRandomState(derived_seed("sb3 source losses", self._seed))
        self._batch: dict[str, Tensor] | None = None
        self._update, self._weight = 0, 0.0
        self._noted: dict[str, list[Tensor]] = {}
        if saved is not None:
            self._load(saved)
        if settings.source is not None and not self.smoothing.finished:
            self._replay = Replay(
                transitions(settings.source, model.observation_space, model.action_space),
                num_examples=None,
                batch_size=check_at_least_one(
                    "source_batch_size", settings.source_batch_size or model.batch_size
                ),
                seed=self._seed,
                device=model.device,
            )
            if saved is not None and saved["replay"] is not None:
                self._replay.load_state_dict(saved["replay"])
        model.critic.optimizer.register_step_pre_hook(self._before_critic_step)
        model.actor.optimizer.register_step_pre_hook(self._before_actor_step)

    @property
    def lacks_source(self) -> bool:
        """True if the coming updates need offline data that nobody gave."""
        return self._replay is None and not self.smoothing.finished

    def release(self) -> None:
        """Free the offline data; called by the smoothing when the ramp is over."""
        if self._replay is not None:
            self._replay.release()
            self._replay = None

    def log(self) -> dict[str, float]:
        """λ of the last update, and the means since the last call of what the source gave."""
        means = {name: torch.stack(values).mean().item() for name, values in self._noted.items()}
        self._noted = {}
        return {"source_weight": self._weight, **means}

    def state_dict(self) -> dict[str, Any]:
        """Everything a loaded agent needs to go on; strict JSON."""
        random = self._random_state.state_dict()
        return {
            "num_smoothing_updates": self._num_updates,
            "num_updates": self.smoothing.num_steps,
            "schedule": describe(self.smoothing.schedule),
            "seed": self._seed,
            "random_state": {name: state.tolist() for name, state in random.items()},
            "replay": None if self._replay is None else self._replay.state_dict(),
        }

    # -- inside ----------------------------------------------------------------------------------

    def _load(self, saved: Mapping[str, Any]) -> None:
        state = self.smoothing.state_dict()
        self.smoothing.load_state_dict(
            {
                **state,
                "num_steps": saved["num_updates"],
                "schedule": saved["schedule"],
                "seed": saved["seed"],
            }
        )
        self._random_state.load_state_dict(
            {
                name: torch.tensor(state, dtype=torch.uint8)
                for name, state in saved["random_state"].items()
            }
        )

    def _before_critic_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Begin a gradient update: every algorithm here trains its critic first."""
        self._update, self._weight = self.smoothing.num_steps, self.smoothing.source_weight
        self._batch = None
        if self._weight > 0.0:
            if self._replay is None:
                raise RuntimeError("source must be given again: the ramp of this agent goes on")
            model = self._model()
            assert model is not None
            self._batch = normalized(next(self._replay), model.get_vec_normalize_env())
            self._blend(optimizer, "critic")
        self.smoothing.step()  # may free the data, but not the batch, which the actor needs too

    def _before_actor_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._batch is not None:
            self._blend(optimizer, "actor")

    def _blend(self, optimizer: torch.optim.Optimizer, network: Network) -> None:
        model, batch = self._model(), self._batch
        assert model is not None
        assert batch is not None
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        with torch.enable_grad(), self._random_state.in_use():
            loss = getattr(self._losses, f"{network}_loss")(model, batch)
        keep_source = self._is_kept("source", network, loss.detach())
        held = [p.grad for p in parameters if p.grad is not None]
        all_finite = torch.stack([g.isfinite().all() for g in held]).all() if held else None
        keep_target = all_finite is None or self._is_kept(
            "target", network, torch.where(all_finite, 0.0, torch.nan)
        )
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, source in zip(parameters, found, strict=True):
            target = parameter.grad
            if source is None and target is None:
                continue
            nothing = torch.zeros_like(parameter)
            source = source if source is not None and keep_source else nothing
            target = target if target is not None and keep_target else nothing
            parameter.grad = interpolate(self._weight, source, target)
        self._note(f"{network}_source_loss", loss.detach())
        weighted = interpolate(self._weight, loss.detach(), torch.zeros_like(loss))
        self._note(f"{network}_weighted_source_loss", weighted)
        if network == "critic":
            self._note("source_count", torch.tensor(float(len(batch["rewards"]))))

    def _note(self, name: str, value: Tensor) -> None:
        self._noted.setdefault(name, []).append(value)

    def _is_kept(self, side: Side, network: Network, value: Tensor) -> bool:
        if self.smoothing.non_finite == "ignore" or bool(value.isfinite()):
            return True
        error = NonFiniteLossError(side, float(value), self._update, self._weight)
        error.add_note(f"it is the {network}'s, and a step is a gradient update")
        if self.smoothing.non_finite == "raise":
            raise error
        warnings.warn(f"{network}: {error}; the term is skipped", RuntimeWarning, stacklevel=2)
        return False


def _default_losses(model: Any) -> SourceLosses:
    if isinstance(model, TD3):  # DDPG too
        return TD3BC()
    if isinstance(model, SAC):
        return SACBC()
    raise TypeError(
        f"source_losses must be given for {type(model).__name__}: only TD3, DDPG and SAC have "
        "offline losses by default"
    )
