"""What a smoothing needs to know about the trainer it is added to."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from segue.adapters.transformers.easing import Host
from segue.adapters.transformers.loss import SourceLoss
from segue.adapters.transformers.source import Source

__all__ = ["check_parallelism", "describe_host", "make_source_loss"]


def check_parallelism(trainer: Trainer) -> None:
    """Refuse what the source's share has not been worked out for.

    Raises:
        ValueError: For DataParallel, DeepSpeed, or ranks that share their examples.
    """
    if trainer.args.n_gpu > 1:
        raise ValueError(
            f"smoothing needs one process per GPU, got one for {trainer.args.n_gpu} (DataParallel); "
            "start it with torchrun or accelerate launch"
        )
    if trainer.is_deepspeed_enabled:
        raise ValueError("smoothing does not work with DeepSpeed, which steps inside its backward")
    config = getattr(trainer.accelerator, "parallelism_config", None)
    for name in ("tp", "cp", "sp"):
        size = getattr(config, f"{name}_size", 1) or 1
        if size > 1:
            raise ValueError(
                f"smoothing needs every rank to have data of its own, got {name}_size={size}"
            )


def describe_host(trainer: Trainer) -> Host:
    """Collect what the easing needs of a constructed trainer."""
    args, accelerator = trainer.args, trainer.accelerator
    num_ranks = int(accelerator.num_processes)

    def sum_over_ranks(value: Tensor) -> Tensor:
        if num_ranks == 1:
            return value
        total: Tensor = accelerator.reduce(value, reduction="sum")
        return total

    tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
    padding = getattr(tokenizer, "pad_token_id", None)
    return Host(
        name=type(trainer).__name__,
        seed=int(args.seed),
        device=torch.device(args.device),
        rank=int(accelerator.process_index),
        num_ranks=num_ranks,
        target_batch_size=int(args.train_batch_size)
        * int(args.gradient_accumulation_steps)
        * num_ranks,
        max_length=getattr(args, "max_length", None),
        tokenizer=tokenizer,
        padding_id=0 if padding is None else int(padding),
        collate=lambda examples: trainer._get_collator_with_removed_columns(
            trainer.data_collator, description="source"
        )(examples),
        prepare_inputs=trainer._prepare_inputs,
        sum_over_ranks=sum_over_ranks,
    )


def make_source_loss(trainer: Trainer, source: Source) -> SourceLoss:
    """Make the source loss for the trainer's model, which counts labels as the trainer does."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    shifts = getattr(trainer, "_loss_shifts_labels", None)
    if shifts is None:
        shifts = type(inner).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    config: Any = getattr(inner, "config", None)
    parameters: Mapping[str, Any] = inspect.signature(type(inner).forward).parameters
    arguments: dict[str, Any] = {}
    if "use_cache" in parameters:
        arguments["use_cache"] = False
    if getattr(config, "output_router_logits", False):
        arguments["output_router_logits"] = False  # the source has no load-balancing loss
    return SourceLoss(
        source,
        shifts_labels=bool(shifts),
        divides_by_given_count=bool(trainer.model_accepts_loss_kwargs),
        forward_arguments=arguments,
    )
