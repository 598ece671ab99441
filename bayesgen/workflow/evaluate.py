"""Posteriors scored: `bayesgen.evaluate` in one call, and finished runs side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bayesgen.config import DataSettings, ScoringSettings, check_ranges, described
from bayesgen.config.jobs import EvaluateSettings
from bayesgen.errors import UserError, nearest, warn
from bayesgen.posterior import Posterior, open_posterior
from bayesgen.reports.tables import plain, predictor_caption, table_of
from bayesgen.runs import Run
from bayesgen.tasks import TASKS
from bayesgen.workflow.inputs import GIVEN, Inputs, read_inputs
from bayesgen.workflow.own_data import scored_whole
from bayesgen.workflow.scoring import check_draws, score_run

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False)
class Report:
    """Scores of a posterior, split by split; `str()` of it is the table of predictors.

    Attributes:
        content: plain data, what the evaluation file of a run holds (docs: Evaluation).

    Example:
        >>> from bayesgen import Report
        >>> scores = {"bma": {"nll": 1.2}, "deterministic": {"nll": 1.4}}
        >>> report = Report({"splits": {"val": {"predictors": scores}}})
        >>> report.predictors("val")["bma"]["nll"], list(report.splits)
        (1.2, ['val'])
    """

    content: Mapping[str, Any]

    @property
    def splits(self) -> Mapping[str, Mapping[str, Any]]:
        """Split -> its report: `predictors`, `entropy` or `variance` (nats, squared units),
        `num_tokens`, `num_draws`, `bma_minus` with 95 % intervals, ..."""
        return cast(Mapping[str, Mapping[str, Any]], self.content["splits"])

    def predictors(self, split: str | None = None) -> Mapping[str, Mapping[str, float | None]]:
        """Predictor -> metric -> number, of a split (default: the first)."""
        if split is not None and split not in self.splits:
            raise UserError(f"`split={split}`: this report has {', '.join(self.splits)}")
        report = self.splits[split or next(iter(self.splits))]
        return cast(Mapping[str, Mapping[str, float | None]], report["predictors"])

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each split and predictor, a column for each metric.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise UserError("to_pandas needs pandas; pip install pandas") from error
        rows = [
            {"split": split, "predictor": name, **scores}
            for split, report in self.splits.items()
            for name, scores in report["predictors"].items()
        ]
        return pandas.DataFrame(rows).set_index(["split", "predictor"])

    def __str__(self) -> str:
        table = table_of("predictors", {"": self.content})
        shown = "" if table is None else plain(table)
        return f"{shown}\n{predictor_caption(self.content)}"

    __repr__ = __str__


def evaluate(
    posterior: Posterior | str | Path,
    data: Any = None,
    *,
    splits: Sequence[str] | None = None,
    text: str | Path | None = None,
    **settings: Any,
) -> Report:
    """Score a posterior beside the network that its chains started from.

    What the command `bayesgen evaluate` does: every target once under `deterministic`,
    `temperature_scaled`, `posterior_mean`, `mean_of_draws` and `bma`, the mixture.

    Args:
        posterior: from `sample` or `load`, or the folder of a run.
        data: default: the run's own, or those of that name or path; rows of (text, label), tensors
            or whatever else `sample` takes are scored whole, as the split "data".
        splits: of "train", "val" and "test"; default: test where there is one, else val.
        text: for a language model a name or path of a text that is scored whole, as the split
            "text", beside the splits of its data.
        settings: of the command's flags, with or without `eval_` in front: `max_samples=200`,
            `batch_size=32`, `num_text_samples=100`, `ood_corpus="python-docs"`, ...

    Returns:
        The scores; a run keeps them in its folder, too, and a second look is cheap.

    Raises:
        UserError: something that the caller can put right: one line that names the setting.

    Example:
        >>> import bayesgen
        >>> report = bayesgen.evaluate("runs/x", splits=["val"])
        >>> sorted(report.predictors("val"))[:2]
        ['bma', 'deterministic']
        >>> report.predictors("val")["bma"]["nll"] > 0
        True
    """
    if not isinstance(posterior, Posterior):
        posterior = Posterior.load(posterior)
    scoring = _scoring(splits, settings)
    inputs = _inputs(posterior, data)
    check_draws(scoring, len(posterior))
    material = inputs.material(scoring, None if text is None else str(text))
    if posterior.run is not None:
        return Report(score_run(posterior.run, posterior.model, scoring, material, posterior))
    with tempfile.TemporaryDirectory(prefix="bayesgen-") as folder:
        return Report(score_run(Run(Path(folder)), posterior.model, scoring, material, posterior))


def _scoring(splits: Sequence[str] | None, given: Mapping[str, Any]) -> ScoringSettings:
    known = described(ScoringSettings)
    values = {name if name in known else f"eval_{name}": value for name, value in given.items()}
    for name in values:
        if name not in known:
            raise UserError(f"`{name}` is no setting of an evaluation{nearest(name, known)}")
    if splits is not None:
        values["eval_splits"] = (splits,) if isinstance(splits, str) else tuple(splits)
    settings = ScoringSettings(**values)
    check_ranges(settings)
    return settings


def _inputs(posterior: Posterior, data: Any) -> Inputs:
    """What is scored: the run's own data, or others."""
    model, info, own = posterior.model, posterior.info, _own(posterior)
    key = "data" if model.task.is_labelled else "corpus"
    if data is not None and not isinstance(data, str | Path):
        return scored_whole(model, data, own, info.data.classes if info else None)
    if data is None and (not info or getattr(own, key) == GIVEN):
        raise UserError("`data`: these draws are of data that were given in Python; give them")
    inputs, same = _read(posterior, {} if data is None else {key: str(data)})
    if info and not same:
        if data is None:
            raise UserError(
                f"`{key}`: '{inputs.data['name']}' is not what the run '{info.data.name}' was"
                " made on any more (its sha256 differs); copy it back, or give other `data`"
            )
        warn(f"'{inputs.data['name']}' is not what the run was made on: its own splits are scored")
    return inputs


def _own(posterior: Posterior) -> DataSettings:
    """How the data of a run were read."""
    stored = posterior.info.settings if posterior.info else {}
    return DataSettings(**{f.name: stored.get(f.name, f.default) for f in fields(DataSettings)})


def _read(posterior: Posterior, moved: Mapping[str, Any]) -> tuple[Inputs, bool]:
    """The data of a run, but for the settings `moved`, and whether they are what it was made on."""
    info = posterior.info
    chosen = replace(_own(posterior), **moved)
    inputs = read_inputs(posterior.model, chosen, info.block_size if info else None)
    return inputs, bool(info and inputs.data["sha256"] == info.data.sha256)


def evaluate_runs(names: Sequence[str], settings: EvaluateSettings) -> dict[str, dict[str, Any]]:
    """Score the runs in the folders `names`; the content of each evaluation file, by a short name.
    What cannot be scored, or compared with the others, is refused before any is scored."""
    if len({Path(name).resolve() for name in names}) < len(names):
        raise UserError("a run is named twice; name each once")
    for name in names:
        if not (Path(name) / "run.json").is_file():
            raise UserError(f"'{name}' is not the folder of a run (it holds no run.json)")
    moved = {k: v for k in ("data_dir", "corpus", "data") if (v := getattr(settings, k))}
    prepared = {}
    for name in names:
        posterior = open_posterior(name, model=settings.model, device=settings.device)
        inputs, same = _read(posterior, moved)
        if not same:
            raise UserError(
                f"`corpus`, `data`: '{inputs.data['name']}' is not what the run '{name}' was made"
                " on (its sha256 differs)"
            )
        check_draws(settings, len(posterior))
        prepared[name] = posterior, inputs.material(settings, settings.text)
    models = {name: posterior.model for name, (posterior, _) in prepared.items()}
    real = [name for name, model in models.items() if model.labels == "number"]
    other = next((name for name in names if name not in real), None)
    if real and other:
        raise UserError(
            f"the labels of '{real[0]}' are real numbers and those of '{other}' are classes, which"
            " have no score in common: evaluate them separately"
        )
    for name in names:
        if not Run(Path(name)).finished:
            warn(
                f"the run '{name}' is not finished: its draws so far are scored; continue"
                f" it with `resume='{name}'`"
            )
    short = _short(names)
    contents = {
        short[name]: score_run(Run(Path(name)), posterior.model, settings, material)
        for name, (posterior, material) in prepared.items()
    }
    if len({content["corpus"]["sha256"] for content in contents.values()}) > 1:
        warn("the runs are of different corpora: compare within each only")
    tasks = {model.info.task for model in models.values()}
    if len(tasks) > 1 and not all(TASKS[task].is_labelled for task in tasks):
        warn(
            f"the runs are of different tasks ({', '.join(sorted(tasks))}), which have no"
            " tokens in common: compare within each only"
        )
    return contents


def _short(names: Sequence[str]) -> dict[str, str]:
    """The shortest ends of the paths that differ."""
    for parts in range(1, 20):
        short = {name: "/".join(Path(name).absolute().parts[-parts:]) for name in names}
        if len(set(short.values())) == len(names):
            return short
    return {name: name for name in names}
