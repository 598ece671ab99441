"""Which run is continued, and with which settings: its own, but for what may change."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from bayesgen.config import EvalSettings, TrainSettings, described
from bayesgen.config.provenance import Chosen, by_flag
from bayesgen.errors import UserError
from bayesgen.inference.registry import SAMPLERS
from bayesgen.runs import Run, newest_unfinished

CHANGEABLE = {*described(EvalSettings), "base_dir", "device", "out", "wandb", "checkpoint_every"}
"""Settings that may differ when a run is resumed. (Another device does not give the same bits.)"""


def run_to_resume(sampler: str, settings: TrainSettings, resume: str | None) -> Run | None:
    """The run to continue; None for a new one.

    Args:
        resume: a run's folder, or `auto`: the run in `out`, or the newest that is not finished.

    Raises:
        UserError: there is no run in the folder that is named.
    """
    if resume is None:
        return None
    if resume != "auto":
        return Run.open(resume)
    if settings.out is not None:
        out = Path(settings.out)
        return Run(out) if (out / "run.json").is_file() else None
    return newest_unfinished(Path(settings.base_dir), sampler)


def resumed_settings(run: Run, sampler: str, given: Mapping[str, Any]) -> Chosen[TrainSettings]:
    """The run's own settings, with what may change changed.

    Args:
        given: settings that were chosen for this time.

    Raises:
        UserError: one of them contradicts the run, or another version wrote it.
    """
    record = run.record()
    if record.sampler != sampler:
        raise UserError(f"`sampler={sampler}`: '{run.path}' is a run of {record.sampler}")
    if "out" in given and Path(given["out"]).resolve() != run.path.resolve():
        raise UserError(f"`out={given['out']}`: a resumed run stays in its folder, '{run.path}'")
    cls = SAMPLERS[sampler].settings
    values = continued(cls, record.settings, given, CHANGEABLE, run.path, "run")
    changed = by_flag(name for name in given if name in CHANGEABLE)
    return Chosen(cls(**values), record.sources | changed)


def continued(
    cls: type,
    record: Mapping[str, Any],
    given: Mapping[str, Any],
    changeable: Container[str],
    folder: Path,
    what: str,
) -> dict[str, Any]:
    """The settings in `record`, of the run or fine-tune in `folder`, with those of `given`.

    Raises:
        UserError: a setting that may not change is given another value, or the names are not those
            of `cls`.
    """
    stored = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
    known = described(cls)
    if stored.keys() != known.keys():
        odd = min(stored.keys() ^ known.keys())
        raise UserError(
            f"`resume`: '{folder}' was written by another version (setting '{odd}'); continue it"
            " with that version"
        )
    for name, value in given.items():
        if name not in changeable and stored[name] != value:
            raise UserError(
                f"`{name}={value}`: '{folder}' was started with {stored[name]}; a resumed {what}"
                " keeps its settings, start a new one to change them"
            )
    return {**stored, **given}
