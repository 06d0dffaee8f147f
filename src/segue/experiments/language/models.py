"""Tiny language models of the OLMo architecture, in Transformers' own class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from segue.checks import check_at_least_one
from segue.experiments.language.requirements import needed

__all__ = ["ModelConfig", "add_lora", "build_model"]

_LORA_MODULES = (
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
)  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """Size of an OLMo: rotary positions, SwiGLU, layer norm without parameters, tied embeddings.

    Attributes:
        vocab_size: Tokens.
        hidden_size: Width; a multiple of ``num_heads``.
        num_layers: Blocks.
        num_heads: Attention heads.
        intermediate_size: Width inside a block's feed-forward part.
        max_length: Longest sequence.
    """

    vocab_size: int = 1024
    hidden_size: int = 96
    num_layers: int = 3
    num_heads: int = 4
    intermediate_size: int = 256
    max_length: int = 192

    def __post_init__(self) -> None:
        for name in (
            "vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size",
            "max_length",
        ):  # fmt: skip
            check_at_least_one(name, getattr(self, name))
        if self.hidden_size % (2 * self.num_heads):  # rotary positions turn pairs of features
            raise ValueError(
                f"hidden_size must be a multiple of 2 * num_heads ({2 * self.num_heads}), "
                f"got {self.hidden_size}"
            )

    @property
    def num_parameters(self) -> int:
        """Parameters of the model."""
        block = 4 * self.hidden_size**2 + 3 * self.hidden_size * self.intermediate_size
        return self.vocab_size * self.hidden_size + self.num_layers * block


def build_model(config: ModelConfig, *, seed: int, device: str = "cpu") -> nn.Module:
    """Build a model on ``device`` whose initial weights depend on ``seed`` alone.

    The global random state is left as it was.
    """
    with needed("transformers"):
        from transformers import OlmoConfig, OlmoForCausalLM

    settings = OlmoConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        max_position_embeddings=config.max_length,
        tie_word_embeddings=True,
        use_cache=False,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        model: nn.Module = OlmoForCausalLM(settings)
    return model.to(device)


def add_lora(model: nn.Module, rank: int, *, seed: int) -> nn.Module:
    """Freeze ``model`` and add trainable low-rank updates to all its linear layers.

    Source: LoRA, Hu et al., arXiv 2106.09685; scale 2 (``lora_alpha = 2 * rank``), no dropout.
    """
    with needed("peft"):
        from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=list(_LORA_MODULES),
        task_type="CAUSAL_LM",
    )
    device = next(model.parameters()).device
    inner: Any = model
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        adapted: nn.Module = get_peft_model(inner.cpu(), settings)
    return adapted.to(device)
