"""A run on disk: its folder, its record, and files that are whole or not there."""

from bayesgen.runs.files import RunRecord, atomic_save, atomic_write, file_sha256, finite
from bayesgen.runs.run import (
    Run,
    Snapshot,
    new_run_path,
    newest_unfinished,
    require_empty,
    sampler_folder,
)

__all__ = [
    "Run",
    "RunRecord",
    "Snapshot",
    "atomic_save",
    "atomic_write",
    "file_sha256",
    "finite",
    "new_run_path",
    "newest_unfinished",
    "require_empty",
    "sampler_folder",
]
