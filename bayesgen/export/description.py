"""What a saved posterior says of itself: its configuration, and the model card written from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoConfig, PreTrainedConfig

from bayesgen.runs.files import RunRecord


class BayesianConfig(PreTrainedConfig):  # type: ignore[misc]
    """What a saved posterior is made of, as plain data.

    Args:
        text_config: the network's own configuration, or the dictionary of it.
        parameters: layout of a draw (`bayesgen.parameters.Layout.to_json`).
        num_draws: S.
        adapters: PEFT's configuration of the adapters in the network; empty where it has none.
        run: where the draws come from (see `facts`).
    """

    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig}

    def __init__(self, text_config: Any = None, **settings: Any) -> None:
        if isinstance(text_config, Mapping):
            text_config = AutoConfig.for_model(**text_config)
        self.text_config = text_config
        self.parameters: list[Mapping[str, Any]] = []
        self.num_draws = 1
        self.adapters: dict[str, Any] = {}
        self.run: dict[str, Any] = {}
        super().__init__(**settings)


class BayesianCausalLMConfig(BayesianConfig):
    model_type = "bayesian-causal-lm"
    __init__ = BayesianConfig.__init__  # transformers makes one where a class has none


class BayesianForSequenceClassificationConfig(BayesianConfig):
    model_type = "bayesian-sequence-classification"
    __init__ = BayesianConfig.__init__


KINDS = {
    "BayesianCausalLM": (
        "text-generation",
        "AutoModelForCausalLM",
        """inputs = tokenizer("The", return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=20, do_sample=True, top_p=0.95)
print(tokenizer.decode(output[0]))
print(model.uncertainty(output).epistemic)  # nats: how much the draws disagree on each token""",
    ),
    "BayesianForSequenceClassification": (
        "text-classification",
        "AutoModelForSequenceClassification",
        """inputs = tokenizer("A text to classify.", return_tensors="pt")
print(model(**inputs).logits.exp())  # probabilities of the mixture
print(model.uncertainty(**inputs).epistemic)  # nats: how much the draws disagree""",
    ),
}
"""Pipeline, Auto class and an example of each class of models."""
NUMBERS = ("perplexity", "nll", "accuracy", "rmse", "spearman", "pearson", "ece", "brier")


def facts(record: RunRecord, evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a saved posterior says of its run, plain data; `evaluation` is the content of one of its
    evaluation files."""
    splits = evaluation["splits"] if evaluation else {}
    kept = ("num_tokens", "num_draws", "predictors", "entropy", "variance")
    return {
        "sampler": record.sampler,
        "temperature": record.settings["temperature"],
        "num_observations": record.num_observations,
        "model": record.model.model_dump(include={"name", "family", "sha256"}),
        "data": record.data.to_json(),
        "settings": {name: record.settings[name] for name in sorted(record.sources)},
        "evaluation": {
            split: {name: report[name] for name in kept if name in report}
            for split, report in splits.items()
        },
        "versions": dict(record.versions),
    }


def model_card(config: Any, architecture: str) -> ModelCard:
    """The card of a model with this configuration, whose class has the name `architecture`."""
    run = config.run
    pipeline, auto_class, example = KINDS[architecture]
    splits = run.get("evaluation", {}).items()
    scored = {split: report for split, report in splits if "predictors" in report}
    name = f"{run['sampler']} posterior" if run else "posterior"
    title = f"A {name} over a {config.text_config.model_type} network"
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=pipeline,
        tags=["bayesgen", "bayesian", *([run["sampler"]] if run else [])],
        model_name=title,
        eval_results=[
            EvalResult(
                task_type=pipeline,
                dataset_type=run["data"]["name"],
                dataset_name=run["data"]["name"],
                dataset_split=split,
                metric_type="nll",
                metric_name="NLL of the mixture, nats",
                metric_value=report["predictors"]["bma"]["nll"],
            )
            for split, report in scored.items()
            if report["num_draws"] == config.num_draws  # else they are not this model's
        ]
        or None,
    )
    size = sum(math.prod(entry["shape"]) for entry in config.parameters)
    what = (
        f"{config.num_draws} draws of {size:,} parameters, made with bayesgen. The logits are the"
        " log-probabilities of the mixture, the mean of the draws' probabilities."
    )
    use = f"""## How to use it

```python
import bayesgen.export  # registers the class with transformers
from transformers import {auto_class}, AutoTokenizer

folder = "."  # of this file
model = {auto_class}.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)

{example}
```"""
    tables = [_scores(split, report) for split, report in scored.items()]
    provenance = [_provenance(run)] if run else []
    body = "\n\n".join([f"# {title}", what, *provenance, *tables, use])
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n")


def _provenance(run: Mapping[str, Any]) -> str:
    data, model = run["data"], run["model"]
    changed, versions = run["settings"].items(), run["versions"].items()
    rows = {
        "sampler": f"{run['sampler']}, temperature {run['temperature']:g}",
        "started from": f"`{model['name']}` ({model['family']}, sha256 {model['sha256']})",
        "data": f"`{data['name']}` (sha256 {data['sha256']})",
        "observations N": f"{run['num_observations']:,}",
        "settings that are not the default": ", ".join(f"{k} = {v}" for k, v in changed),
        "made with": ", ".join(f"{name} {version}" for name, version in versions),
    }
    return "## Where the draws come from\n\n" + _markdown(("", ""), rows.items())


def _scores(split: str, report: Mapping[str, Any]) -> str:
    predictors = report["predictors"]
    names = [n for n in NUMBERS if any(n in scores for scores in predictors.values())]
    rows = [
        (predictor, *(f"{scores[n]:.4f}" if scores.get(n) is not None else "" for n in names))
        for predictor, scores in predictors.items()
    ]
    heading = f"## Scores on {split} ({report['num_draws']} draws)\n\n"
    return heading + _markdown(("predictor", *names), rows)


def _markdown(heads: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
