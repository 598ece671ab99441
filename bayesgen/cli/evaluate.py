"""`bayesgen evaluate`: score finished runs again, without sampling, and set them side by side."""

from __future__ import annotations

from bayesgen.cli.command import Command, Given, Word, scored_next
from bayesgen.config.jobs import EvaluateSettings


def _run(given: Given[EvaluateSettings]) -> str:
    from bayesgen.reports.tables import TABLES, predictor_caption, show, tables_of
    from bayesgen.runs import Run
    from bayesgen.workflow.evaluate import evaluate_runs

    runs = given.words["runs"]
    contents = evaluate_runs(runs, given.settings)
    first, *others = tables_of(contents, TABLES)
    show(first)
    for name, content in contents.items():
        print(f"{name}: {predictor_caption(content)}")
    for table in others:
        print()
        show(table)
    return scored_next(Run.open(runs[0]).record().settings["task"], runs[0])


COMMAND = Command(
    name="evaluate",
    description="Score the draws of finished runs. What the networks said of every token is cached"
    " in the run: a second evaluation is cheap.",
    settings=EvaluateSettings,
    run=_run,
    words={"runs": Word("RUN", "folders of runs", more={"nargs": "+"})},
    own_model=True,
    examples="""
# a run on the validation split, every token once
bayesgen evaluate checkpoints/samplers/sghmc_sampler/run_20260101-120000
# two runs side by side, with BLEU and ROUGE of 100 continuations each
bayesgen evaluate RUN RUN --eval-num-text-samples 100
# does the posterior know what it does not know? (a classifier: --ood-data sst2)
bayesgen evaluate RUN --ood-corpus python-docs
# both splits, ten draws, and a text of your own
bayesgen evaluate RUN --eval-splits val train --eval-num-posterior-samples 10 --text my.txt
""",
)
