"""`bayesgen export`: a run's posterior as a folder that transformers loads."""

from __future__ import annotations

import shlex
from pathlib import Path

from bayesgen.cli.command import SOURCE, Command, Given
from bayesgen.config.jobs import ExportSettings


def _run(given: Given[ExportSettings]) -> str:
    from bayesgen.workflow.export import export_run

    made = export_run(given.words["source"], given.settings)
    out = Path(str(given.settings.out))
    size = sum(path.stat().st_size for path in out.iterdir()) / 2**20
    print(f"{len(made.draws)} draws of {type(made.network).__name__} in {out}, {size:.1f} MiB")
    what = "text-generation" if made.can_generate() else "text-classification"
    code = (
        "import bayesgen.export.pretrained; from transformers import pipeline;"
        f" print(pipeline({what!r}, {str(out)!r})('Once'))"
    )
    return f"python -c {shlex.quote(code)}"


COMMAND = Command(
    name="export",
    description="Write a run's posterior (or a checkpoint) as a Hugging Face model: network, draws,"
    " tokenizer and model card in one folder.",
    settings=ExportSettings,
    run=_run,
    words={"source": SOURCE},
    own_model=True,
    examples="""
# all draws of a run, with their network and tokenizer
bayesgen export RUN --out posterior
# ten draws, of a run whose model has moved
bayesgen export RUN --out posterior --num-draws 10 --model models/gpt2
# then
python -c "import bayesgen.export.pretrained; from transformers import pipeline;
    print(pipeline('text-generation', 'posterior')('First Citizen:'))"
""",
)
