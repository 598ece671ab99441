"""The model card of a saved posterior, written from the run that its draws come from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from bayesgen.runs import RunRecord

USE = {
    "BayesianCausalLM": (
        "AutoModelForCausalLM",
        """inputs = tokenizer("The", return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=20, do_sample=True, top_p=0.95)
print(tokenizer.decode(output[0]))
print(model.uncertainty(output).epistemic)  # nats: how much the draws disagree on each token""",
    ),
    "BayesianForSequenceClassification": (
        "AutoModelForSequenceClassification",
        """inputs = tokenizer("A text to classify.", return_tensors="pt")
print(model(**inputs).logits.exp())  # probabilities of the mixture
print(model.uncertainty(**inputs).epistemic)  # nats: how much the draws disagree""",
    ),
}
"""Auto class and an example of each kind of model."""
NUMBERS = ("perplexity", "nll", "accuracy", "rmse", "spearman", "pearson", "ece", "brier")
PIPELINES = {
    "BayesianCausalLM": "text-generation",
    "BayesianForSequenceClassification": "text-classification",
}


def facts(record: RunRecord, evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a saved posterior says of its run, plain data.

    Args:
        evaluation: content of one of its evaluation files.
    """
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
    """The card of a model with this configuration (see `bayesgen.export.pretrained`).

    Args:
        architecture: name of the model's class.
    """
    run = config.run
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=PIPELINES[architecture],
        tags=["bayesgen", "bayesian", *([run["sampler"]] if run else [])],
        model_name=_title(config),
        eval_results=[
            _result(run, split, PIPELINES[architecture])
            for split, report in _scored(run).items()
            if report["num_draws"] == config.num_draws  # else they are not this model's
        ]
        or None,
    )
    body = [f"# {_title(config)}", _what(config)]
    body += [_provenance(run)] if run else []
    body += [_table(split, report) for split, report in _scored(run).items()]
    body.append(_use(architecture))
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(body) + "\n")


def _title(config: Any) -> str:
    sampler = f"{config.run['sampler']} posterior" if config.run else "posterior"
    return f"A {sampler} over a {config.text_config.model_type} network"


def _what(config: Any) -> str:
    size = sum(math.prod(entry["shape"]) for entry in config.parameters)
    return (
        f"{config.num_draws} draws of {size:,} parameters, made with bayesgen. The logits are the"
        " log-probabilities of the mixture, the mean of the draws' probabilities."
    )


def _provenance(run: Mapping[str, Any]) -> str:
    data, model = run["data"], run["model"]
    rows = {
        "sampler": f"{run['sampler']}, temperature {run['temperature']:g}",
        "started from": f"`{model['name']}` ({model['family']}, sha256 {model['sha256']})",
        "data": f"`{data['name']}` (sha256 {data['sha256']})",
        "observations N": f"{run['num_observations']:,}",
        "settings that are not the default": ", ".join(
            f"{name} = {value}" for name, value in run["settings"].items()
        ),
        "made with": ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
    }
    return "## Where the draws come from\n\n" + _markdown(("", ""), rows.items())


def _scored(run: Mapping[str, Any]) -> Mapping[str, Any]:
    """Splits whose predictors were scored."""
    splits = run.get("evaluation", {})
    return {name: report for name, report in splits.items() if "predictors" in report}


def _table(split: str, report: Mapping[str, Any]) -> str:
    predictors = report["predictors"]
    names = [n for n in NUMBERS if any(n in scores for scores in predictors.values())]
    rows = [
        (predictor, *(f"{scores[n]:.4f}" if scores.get(n) is not None else "" for n in names))
        for predictor, scores in predictors.items()
    ]
    heading = f"## Scores on {split} ({report['num_draws']} draws)\n\n"
    return heading + _markdown(("predictor", *names), rows)


def _result(run: Mapping[str, Any], split: str, task: str) -> EvalResult:
    return EvalResult(
        task_type=task,
        dataset_type=run["data"]["name"],
        dataset_name=run["data"]["name"],
        dataset_split=split,
        metric_type="nll",
        metric_name="NLL of the mixture, nats",
        metric_value=run["evaluation"][split]["predictors"]["bma"]["nll"],
    )


def _markdown(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _use(architecture: str) -> str:
    auto, call = USE[architecture]
    return f"""## How to use it

```python
import bayesgen.export  # registers the class with transformers
from transformers import {auto}, AutoTokenizer

folder = "."  # of this file
model = {auto}.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)

{call}
```"""
