"""What the families that train with JAX share: how a worker's process is set up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax

__all__ = ["prepare_jax"]


def prepare_jax(cache: Path) -> None:
    """One thread, as runs are what is parallel; and compiled programs are kept between runs.

    For a process of its own, before it first computes with JAX.
    """
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ.setdefault("XLA_FLAGS", flags)
    set_option: Any = jax.config.update
    set_option("jax_compilation_cache_dir", str((cache / "jax").absolute()))
    set_option("jax_persistent_cache_min_compile_time_secs", 0.5)
