"""The offline phase: TD3+BC until the returns no longer rise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from segue.checks import check_at_least_one
from segue.rl.buffers import prepare_rows
from segue.rl.data.dataset import OfflineDataset
from segue.rl.data.validation import validate
from segue.rl.identity import check_identity, identity_of
from segue.rl.objective import offline_objective
from segue.rl.preprocessing import Preprocessing
from segue.rl.state import agent_from_state, agent_state
from segue.rl.td3 import Agent, TD3Config, init_agent, make_updates

__all__ = ["OfflineTraining", "reached_plateau"]


class OfflineTraining:
    """TD3+BC on a data set, from fresh networks.

    Raises:
        DatasetError: If the data set is not whole; names field and index.

    Attributes:
        agent: What was trained so far.
        num_updates: Updates so far.
        metrics: Averages over the updates of the last call of :meth:`train`.
    """

    def __init__(
        self,
        learner: TD3Config,
        dataset: OfflineDataset,
        preprocessing: Preprocessing,
        *,
        seed: int,
    ) -> None:
        sizes = preprocessing.num_observations, preprocessing.num_actions
        self.learner, self.preprocessing, self.seed = learner, preprocessing, seed
        self.agent: Agent = init_agent(learner, *sizes, seed)
        self.num_updates = 0
        self.metrics: dict[str, float] = {}
        validate(dataset)  # whoever made it: a NaN would show after hours
        self._rows = jnp.asarray(prepare_rows(dataset, preprocessing))
        self._fingerprint = dataset.fingerprint()
        self._updates = make_updates(learner, offline_objective(), *sizes)

    def train(self, num_updates: int) -> None:
        """Do ``num_updates`` more updates; each number of them compiles once.

        Raises:
            FloatingPointError: If the critics' loss is not finite.
        """
        check_at_least_one("num_updates", num_updates)
        self.agent, metrics = self._updates(
            self.agent, self._rows, self._rows, np.int32(len(self._rows)),
            np.uint32(2 * self.seed), np.int32(self.num_updates), np.float32(0.0),
            num_updates=num_updates,
        )  # fmt: skip
        self.metrics = {name: float(value) for name, value in metrics.items()}
        self.num_updates += num_updates
        if not np.isfinite(self.metrics["critic_loss"]):
            raise FloatingPointError(
                f"critic_loss is {self.metrics['critic_loss']} within the {num_updates} offline "
                f"updates before {self.num_updates}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything it takes to go on bit for bit."""
        return {
            "identity": self._identity(),
            "agent": agent_state(self.agent),
            "num_updates": self.num_updates,
            "preprocessing": self.preprocessing.state_dict(),
            "offline_fingerprint": self._fingerprint,
        }

    def _identity(self) -> dict[str, str | None]:
        return identity_of(learner=self.learner, seed=self.seed)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; one that is refused changes nothing.

        Raises:
            ValueError: If it was saved with another learner or seed, other data or another
                preprocessing; names what differs.
        """
        check_identity(state["identity"], self._identity())
        if state["offline_fingerprint"] != self._fingerprint:
            raise ValueError("the offline data set must be the one the state was saved with")
        if Preprocessing.from_state_dict(state["preprocessing"]) != self.preprocessing:
            raise ValueError("preprocessing must be the one the state was saved with")
        self.agent = agent_from_state(self.agent, state["agent"])
        self.num_updates = state["num_updates"]


def reached_plateau(scores: Sequence[float], *, num: int = 3, tolerance: float = 0.05) -> bool:
    """Whether the last ``num`` scores differ by at most ``tolerance`` of the largest one's size.

    >>> reached_plateau([1.0, 50.0, 100.0]), reached_plateau([1.0, 97.0, 99.0, 100.0])
    (False, True)
    """
    last = np.asarray(scores[-num:], np.float64)
    return len(last) == num and bool(np.ptp(last) <= tolerance * np.abs(last).max())
