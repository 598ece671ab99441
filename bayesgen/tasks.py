"""What a model does: one object for each task, in one registry.

A script or a package adds a task of its own by registering one (or by an entry point of the group
`bayesgen.tasks`):

    TASKS.register(
        Task(
            "parity",
            "whether a number is odd",
            labels="class",
            loader="my_parity:load",  # the path of a model -> torch.nn.Module
            reader="my_parity:read",  # model and settings -> its data
        )
    )

`bayesgen train --task parity --model MODEL --data FILE` then samples it, and `--help` lists it.
Importing this module imports neither torch nor transformers: whatever does is named by where it
lies, "module:attribute".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bayesgen.registry import Registry, resolved

Labels = Literal["token", "class", "number"]
Capability = Literal["sample", "finetune", "generate", "similarity", "export", "head"]
Reference = str | Callable[..., Any]
"""An object, or where it lies: "module:attribute"."""


@dataclass(frozen=True)
class Task:
    """One task: how its model is loaded, its data are read and its labels are scored.

    Attributes:
        name: what `task` is called.
        summary: what the model does, in a few words.
        labels: tokens of a text, one of a few classes that someone chose, or real numbers.
        auto_class: the class of transformers that loads the model.
        loader: in its place for other networks: the path or name of a model -> nn.Module, whose
            attribute `config`, if it has one, holds plain data that a run records.
        call: (apply, batch) -> outputs, of a network that `loader` gives (see
            `models.functional.Call`).
        likelihood: makes log p(labels | outputs) (see `bayesgen.likelihoods.Likelihood`); by
            default categorical, or Gaussian for real numbers.
        reader: (model, settings, block_size) -> `workflow.inputs.Inputs`; None for a task whose
            data no command reads.
        capabilities: what else accepts the task beside sampling: `finetune`, `generate`,
            `similarity` and `export` are commands, `head` the settings of a head of its own.
        inputs: what the network is called with beside the batch.
        new_head: whether a model may come without its head, which then starts at random.
        text: whether the model reads text, and comes with a tokenizer.
        sentence: whether the model is an encoder whose mean token vector is classified, or compared
            with that of a second text.
        masking: how the targets of a masked language model are hidden: by a mask token, or by a
            permutation in which they come last.
    """

    name: str
    summary: str
    labels: Labels = "token"
    auto_class: str = ""
    loader: Reference | None = None
    call: Reference | None = None
    likelihood: Reference | None = None
    reader: Reference | None = None
    capabilities: frozenset[str] = frozenset()
    inputs: Mapping[str, Any] = field(default_factory=dict)
    new_head: bool = False
    text: bool = True
    sentence: bool = False
    masking: Literal["replace", "permute"] | None = None

    @property
    def is_labelled(self) -> bool:
        """Whether the labels were given by someone, and are not the text itself."""
        return self.labels != "token"

    @property
    def compares(self) -> bool:
        """Whether the model scores how alike two texts are, each embedded on its own."""
        return self.sentence and self.labels == "number"

    def can(self, what: Capability) -> bool:
        """Whether a command accepts the task."""
        return self.reader is not None if what == "sample" else what in self.capabilities

    def read(self, model: Any, settings: Any, block_size: int | None = None) -> Any:
        """The data of `settings` for `model`: `workflow.inputs.Inputs`.

        Raises:
            UserError: the data are missing, damaged or of another kind.
        """
        assert self.reader is not None
        return resolved(self.reader)(model, settings, block_size)


TASKS: Registry[Task] = Registry(
    "task",
    {
        task.name: task
        for task in (
            Task(
                "causal-lm",
                "predicts the next token of a text",
                auto_class="AutoModelForCausalLM",
                reader="bayesgen.workflow.inputs:read_text",
                capabilities=frozenset({"generate", "export"}),
                inputs={"use_cache": False},
            ),
            Task(
                "masked-lm",
                "predicts masked tokens of a text, as BERT does",
                auto_class="AutoModelForMaskedLM",
                reader="bayesgen.workflow.inputs:read_text",
                new_head=True,
                masking="replace",
            ),
            Task(
                "permutation-lm",
                "predicts tokens of a text in a random order, as XLNet does",
                auto_class="AutoModelForCausalLM",
                reader="bayesgen.workflow.inputs:read_text",
                inputs={"use_mems": False},
                new_head=True,
                masking="permute",
            ),
            Task(
                "seq2seq-lm",
                "predicts the tokens of one text from another",
                auto_class="AutoModelForSeq2SeqLM",
                inputs={"use_cache": False},
            ),
            Task(
                "sequence-classification",
                "classifies texts or pairs of texts",
                "class",
                auto_class="AutoModelForSequenceClassification",
                reader="bayesgen.workflow.inputs:read_rows",
                capabilities=frozenset({"finetune", "export"}),
                new_head=True,
            ),
            Task(
                "regression",
                "gives texts or pairs of texts a real number",
                "number",
                auto_class="AutoModelForSequenceClassification",
                reader="bayesgen.workflow.inputs:read_rows",
                capabilities=frozenset({"finetune"}),
                new_head=True,
            ),
            Task(
                "sentence-classification",
                "classifies texts by the mean of their token vectors",
                "class",
                auto_class="AutoModel",
                reader="bayesgen.workflow.inputs:read_rows",
                capabilities=frozenset({"finetune", "similarity", "head"}),
                new_head=True,
                sentence=True,
            ),
            Task(
                "sentence-similarity",
                "scores how alike two texts are, by the means of their token vectors",
                "number",
                auto_class="AutoModel",
                reader="bayesgen.workflow.inputs:read_rows",
                capabilities=frozenset({"finetune", "similarity"}),
                sentence=True,
            ),
            Task(
                "token-classification",
                "classifies each token of a text",
                "class",
                auto_class="AutoModelForTokenClassification",
                new_head=True,
            ),
            Task(
                "image-classification",
                "classifies images",
                "class",
                auto_class="AutoModelForImageClassification",
                new_head=True,
                text=False,
            ),
        )
    },
)


def tasks_that(can: Capability, *labels: Labels) -> tuple[str, ...]:
    """Names of the tasks that a command accepts, with labels of these kinds (default: of any)."""
    found = (TASKS[name] for name in TASKS)
    return tuple(t.name for t in found if t.can(can) and (not labels or t.labels in labels))
