"""`bayesgen train`: sample a posterior over a model's weights, and score it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from bayesgen.cli.command import Command, Given, Word, early, scored_next, typed
from bayesgen.config import TrainSettings, described
from bayesgen.config.fields import refuse_idle
from bayesgen.errors import UserError, as_flags, memory_guard
from bayesgen.inference.registry import SAMPLERS, settings_classes
from bayesgen.tasks import TASKS

SAMPLER = Word("NAME", f"one of {', '.join(SAMPLERS)} (default: sghmc)", "sampler")
RESUME = Word(
    "RUN",
    "continue a run's folder; auto: the newest unfinished one, or a new run if there is none",
)


def for_sampler(
    command: Command[TrainSettings], argv: Sequence[str], only: str | None = None
) -> Command[TrainSettings]:
    """`command` with the settings of the sampler that `argv` names; where there is no choice but
    `only`, the command's own defaults stand."""
    first = early(argv, "sampler", "resume", "task", "prior", "init_from")
    if only is not None and first["sampler"] is not None:
        raise UserError(f"`sampler` has no effect here: this is always {only}")
    name = only or first["sampler"]
    if name is None and first["resume"] not in {None, "auto"}:
        from bayesgen.runs import Run

        name = Run.open(first["resume"]).record().sampler
    name = name or "sghmc"
    spec = SAMPLERS[name]

    # an unknown task is refused below
    task = first["task"] if first["task"] in TASKS else spec.settings.task

    def defaults(given: Mapping[str, Any]) -> Mapping[str, Any]:
        of = {key: given.get(key, first[key]) for key in ("prior", "init_from")}
        return spec.defaults(task, **of)

    return replace(
        command,
        description=command.description.format(sampler=f"{name} ({spec.summary})"),
        settings=spec.settings,
        defaults=command.defaults if only else defaults,
        preset=f"CONFIG_{name.upper()}" + ("_LABELLED" if TASKS[task].is_labelled else ""),
        elsewhere=partial(_owners, name),
        run=partial(_run, name),
    )


def _owners(name: str, setting: str) -> str | None:
    owners = [other for other, cls in settings_classes().items() if setting in described(cls)]
    return f"is not a setting of {name}; it belongs to {', '.join(owners)}" if owners else None


def _run(name: str, given: Given[TrainSettings]) -> str:
    from bayesgen.workflow.preflight import less_memory
    from bayesgen.workflow.resuming import resumed_settings, run_to_resume
    from bayesgen.workflow.session import show_results, train

    run = run_to_resume(name, given.settings, given.words.get("resume"))
    chosen = given if run is None else resumed_settings(run, name, given.flags)
    settings = chosen.settings
    SAMPLERS[name].validate(settings)
    refuse_idle(given.flags, SAMPLERS[name].without_effect(settings))
    with memory_guard(less_memory(settings)):
        run = train(name, chosen, run, as_flags)
        show_results(run)
    if given.command.name == "prior learn":
        return typed("prior", "show", run.path)
    return scored_next(settings.task, run.path) if settings.eval else typed("evaluate", run.path)


COMMAND = Command[TrainSettings](
    name="train",
    description="Sample a posterior over a model's weights, and score it. Flags of {sampler}:",
    settings=TrainSettings,
    run=partial(_run, "sghmc"),
    words={"--sampler": SAMPLER, "--resume": RESUME},
    adapt=for_sampler,
    examples="""
# a posterior over the baseline's weights by SGHMC, and its perplexity
bayesgen train --sampler sghmc --eval
# the last layer only, a Gaussian by Laplace, on TinyShakespeare
bayesgen train --sampler laplace --parameters last-layer --corpus shakespeare --eval
# a nanoGPT checkpoint, four chains; the same line again after a reboot continues
bayesgen train --sampler baoa --model out/ckpt.pt --corpus data/my_corpus \\
    --chains 4 --sampling-steps 1000000 --resume auto
# the flags of another sampler
bayesgen train --sampler vi --help
""",
)
