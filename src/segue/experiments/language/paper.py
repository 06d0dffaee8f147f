"""The paper's language experiment: OLMo-1B revisions, Anthropic-HH and Tulu-v1. For a GPU."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from segue.checks import check_at_least_one, unknown_name
from segue.experiments.language.config import OptimizerConfig, Split, check_fine_tuning
from segue.experiments.language.methods import MethodConfig, make_method

if TYPE_CHECKING:
    from segue.runs.execution import RunContext, RunResult
    from segue.runs.grid import RunConfig
    from segue.runs.records import Record

__all__ = [
    "KNOWN_REVISIONS", "LEARNING_RATES", "METHODS", "NUM_TARGET_STEPS", "PaperConfig",
    "PaperShiftConfig", "check_paper", "paper_grid", "paper_plan", "paper_revisions",
]  # fmt: skip

KNOWN_REVISIONS = (
    "step330000-tokens1383B",
    "step447000-tokens1874B",
    "step512000-tokens2146B",
    "step561250-tokens2353B",
    "step600000-tokens2515B",
)
"""Five of the paper's seven pretraining budgets; the other two are not known to us."""
NUM_REVISIONS = 7
REVISIONS_VARIABLE = "SEGUE_OLMO_REVISIONS"
"""Environment variable that names the other two, with a comma between them."""
NUM_TARGET_STEPS = {"anthropic_hh": 141, "tulu_v1": 483}
LEARNING_RATES = (1e-5, 5e-5, 1e-4)
SEEDS = (0, 1, 2)
METHODS = ("hard_switch", "smoothing", "constant_replay")
_TOKENS_PER_UPDATE = 262_144
_LENGTH = 2048
_BATCH = _TOKENS_PER_UPDATE // _LENGTH

# OLMo-1B, arXiv 2402.00838: layers, width, feed-forward width, vocabulary (padded), tied.
_LAYERS, _WIDTH, _INNER, _VOCABULARY = 16, 2048, 8192, 50_304
_PARAMETERS = _VOCABULARY * _WIDTH + _LAYERS * (4 * _WIDTH**2 + 3 * _WIDTH * _INNER)
_TOKENS_PER_STEP = 2048 * 2048  # of its pretraining; a revision's name must agree with it
_REVISION = re.compile(r"step(\d+)-tokens(\d+)B")

Target = Literal["anthropic_hh", "tulu_v1"]


@dataclass(frozen=True)
class PaperShiftConfig:
    """OLMo's pretraining text → a target.

    Attributes:
        name: ``anthropic_hh`` (chosen transcripts, every token counts) or ``tulu_v1`` (chats, what
            the assistant says counts).
    """

    name: Target

    def __post_init__(self) -> None:
        if self.name not in get_args(Target):
            raise ValueError(unknown_name("target", self.name, get_args(Target)))


@dataclass(frozen=True)
class PaperConfig:
    """Fine-tune one OLMo-1B revision on one target with one method.

    Attributes:
        shift: Target.
        revision: Of ``repository``, such as ``step330000-tokens1383B``.
        method: What happens at the switch.
        seed: Draws the order of the data and the replay bank (the model is the same for all).
        num_target_steps: Optimizer steps; there is no early stopping.
        repository: Hub repository in Transformers' format, or a folder.
        length: Tokens of a sequence.
        batch_size: Target sequences per step: 262,144 tokens.
        num_micro_batches: Parts that a step is divided into.
        optimizer: AdamW; half a cosine to 0.
        num_target_examples: Always None: all of the target's sequences.
        split: Held-out part that is reported.
        num_curve_examples: Held-out sequences per point of the curves.
        num_test_examples: Held-out sequences behind the final metrics.
        num_generated_answers: Always 0: responses are compared by the judge.
        keep_weights: Keep the final weights (bfloat16) as an artifact, for the judge.
    """

    shift: PaperShiftConfig
    revision: str
    method: MethodConfig
    seed: int
    num_target_steps: int
    repository: str = "allenai/OLMo-1B-hf"
    length: int = _LENGTH
    batch_size: int = _BATCH
    num_micro_batches: int = 16
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(1e-5, 0.0))
    num_target_examples: None = None
    split: Split = "test"
    num_curve_examples: int = 32
    num_test_examples: int = 128
    num_generated_answers: int = 0
    keep_weights: bool = True

    family: ClassVar[str] = "language"
    kind: ClassVar[str] = "target"

    def __post_init__(self) -> None:
        check_revision(self.revision)
        check_at_least_one("length", self.length)
        check_fine_tuning(self)
        if self.method.lora_rank:
            raise ValueError(f"lora_rank must be 0 at paper scale, got {self.method.lora_rank}")

    def requires(self) -> tuple[RunConfig, ...]:
        """Nothing: the revision comes from the hub."""
        return ()

    def cost(self) -> float:
        """Sequences that pass forward and backward."""
        replayed = self.method.num_replayed(self.num_target_steps, self.batch_size)
        return float(self.num_target_steps * self.batch_size + replayed)

    def execute(self, context: RunContext) -> RunResult:
        """Run the fine-tuning."""
        from segue.experiments.language.paper_run import fine_tune_revision

        return fine_tune_revision(self, context)


def check_revision(revision: str) -> str:
    """Return ``revision`` if it is of the form that OLMo's have and agrees with itself.

    Raises:
        ValueError: If it is not, or its tokens are not those of its steps (4,194,304 a step).
    """
    found = _REVISION.fullmatch(revision)
    if found is None:
        raise ValueError(f"revision must look like step330000-tokens1383B, got {revision!r}")
    billions = int(found[1]) * _TOKENS_PER_STEP / 1e9
    if abs(billions - int(found[2])) > max(2.0, 0.002 * billions):
        raise ValueError(
            f"revision must name the tokens of its steps (about {billions:.0f}B), got {revision!r}"
        )
    return revision


def paper_revisions() -> tuple[str, ...]:
    """The known revisions and those that the environment variable names, by their steps.

    Raises:
        ValueError: If one is malformed, known already, or there are more than seven.
    """
    text = os.environ.get(REVISIONS_VARIABLE, "")
    given = [check_revision(part.strip()) for part in text.split(",") if part.strip()]
    revisions = [*KNOWN_REVISIONS, *given]
    if len(set(revisions)) < len(revisions) or len(revisions) > NUM_REVISIONS:
        raise ValueError(
            f"{REVISIONS_VARIABLE} must name {NUM_REVISIONS - len(KNOWN_REVISIONS)} other "
            f"revisions than the known ones, got {text!r}"
        )
    return tuple(sorted(revisions, key=_tokens_of))


def check_paper(data_root: str) -> None:
    """Raise ValueError unless the user has named the two revisions that are not known to us."""
    number = len(paper_revisions())
    if number < NUM_REVISIONS:
        raise ValueError(
            f"the paper used {NUM_REVISIONS} revisions of OLMo-1B, of which {number} are known: set "
            f"{REVISIONS_VARIABLE}=stepA-tokensB,stepC-tokensD to the others (--dry-run works without)"
        )


def paper_grid(records: Sequence[Record]) -> list[RunConfig]:
    """Every revision, target, method, learning rate and seed."""
    return list(_configs())


def _configs() -> list[PaperConfig]:
    configs = []
    for revision in paper_revisions():
        for target, num_steps in NUM_TARGET_STEPS.items():
            for name in METHODS:
                method = make_method(name, num_smoothing_steps=round(num_steps / 4))
                # A quarter of the target's batch, from a bank of 256 sequences.
                method = replace(method, replay_batch_size=_BATCH // 4)
                for rate in LEARNING_RATES:
                    for seed in SEEDS:
                        configs.append(
                            PaperConfig(
                                shift=PaperShiftConfig(target),  # type: ignore[arg-type]
                                revision=revision,
                                method=method,
                                seed=seed,
                                num_target_steps=num_steps,
                                optimizer=OptimizerConfig(rate, 0.0),
                            )
                        )
    return configs


def paper_plan(
    *, num_flops_per_second: float = 4e14, grid: Callable[[], list[PaperConfig]] = _configs
) -> list[str]:
    """Count what the paper's preset would take, without downloading anything.

    Args:
        num_flops_per_second: What the GPU really does: 4e14 is 40 % of an H100's bfloat16 peak.
        grid: The runs; making them checks every field.

    Returns:
        Lines for people: revisions, runs, steps, tokens, memory, hours.
    """
    configs = grid()
    revisions = sorted({config.revision for config in configs}, key=_tokens_of)
    missing = NUM_REVISIONS - len(revisions)
    steps = sum(config.num_target_steps for config in configs)
    target = sum(config.num_target_steps * config.batch_size * config.length for config in configs)
    everything = sum(int(config.cost()) * config.length for config in configs)
    first = configs[0]
    micro = first.batch_size // first.num_micro_batches
    seconds = everything * num_flops_per_token(first.length) / num_flops_per_second
    lines = [
        f"{first.repository}: {len(revisions)} revisions ({', '.join(revisions)})",
        f"{len(configs)} runs: {len(NUM_TARGET_STEPS)} targets, {len(METHODS)} methods, "
        f"{len(LEARNING_RATES)} learning rates, {len(SEEDS)} seeds; every field checked",
        *(
            f"{name}: {number} updates of {first.batch_size * first.length:,} target tokens = "
            f"{number * first.batch_size * first.length:,} a run"
            for name, number in NUM_TARGET_STEPS.items()
        ),
        f"{steps:,} updates; {target:,} target tokens, {everything - target:,} source tokens",
        f"{_PARAMETERS / 1e9:.3f} billion parameters; about {memory_gib(micro, first.length):.0f} GiB "
        f"of GPU memory at {micro} sequences a micro-batch (weights, gradients and Adam in float32, "
        "activations recomputed)",
        f"about {seconds / 3600:,.0f} h on one GPU at {num_flops_per_second / 1e12:.0f} TFLOP/s "
        f"(activations recomputed), {seconds / len(configs) / 60:.0f} min a run; evaluation, loading "
        f"and {len(revisions) * _PARAMETERS * 4 / 2**30:.0f} GiB of downloads come on top",
        f"{sum(c.keep_weights for c in configs) * _PARAMETERS * 2 / 2**40:.2f} TiB of disk for the final "
        "weights, which the judge needs",
    ]
    if missing:
        lines.append(
            f"{missing} revisions are not known to us: set {REVISIONS_VARIABLE} to run it; they add "
            f"{missing * len(configs) // len(revisions)} runs"
        )
    return lines


def num_flops_per_token(length: int) -> float:
    """Floating-point operations of a token's forward, recomputed forward and backward pass."""
    attention = 2 * _LAYERS * length * _WIDTH  # scores and weighted values, half of them masked
    return 4 * (2.0 * _PARAMETERS + attention)


def memory_gib(micro_batch_size: int, length: int) -> float:
    """GPU memory of a step, in GiB: states, one block's activations, block inputs and logits."""
    tokens = micro_batch_size * length
    states = 16 * _PARAMETERS
    inputs = 2 * _LAYERS * tokens * _WIDTH
    block = 2 * tokens * (10 * _WIDTH + 4 * _INNER)
    logits = (2 + 4 + 4) * tokens * _VOCABULARY
    return (states + inputs + block + logits) / 2**30


def _tokens_of(revision: str) -> int:
    return int(revision.partition("-tokens")[2].removesuffix("B"))
