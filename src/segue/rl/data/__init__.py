"""Offline data sets: one form in memory, three formats on disk, and a generator."""

from segue.rl.data.dataset import DatasetError, OfflineDataset
from segue.rl.data.files import read, read_d4rl, read_npz, write_d4rl, write_npz
from segue.rl.data.generate import QUALITIES, TASKS, collect, generate, generate_files
from segue.rl.data.minari import read_minari, write_minari
from segue.rl.data.validation import check_matches_environment, validate

__all__ = [
    "QUALITIES",
    "TASKS",
    "DatasetError",
    "OfflineDataset",
    "check_matches_environment",
    "collect",
    "generate",
    "generate_files",
    "read",
    "read_d4rl",
    "read_minari",
    "read_npz",
    "validate",
    "write_d4rl",
    "write_minari",
    "write_npz",
]
