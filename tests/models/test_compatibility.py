"""What works with which architecture: each cell of docs/compatibility.md is a check in this file.

    python -m tests.models.test_compatibility

runs all of them and writes the document again.
"""

from __future__ import annotations

import inspect
import re
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesgen.inference.log_posterior import LogPosterior, chunks
from bayesgen.inference.registry import SAMPLERS
from bayesgen.models import FunctionalModel, Lora
from bayesgen.models.functional import Piece
from bayesgen.models.lora import merged
from bayesgen.predictive import Forward
from bayesgen.priors import normal
from bayesgen.workflow.job import make_job
from tests.models.zoo import ARCHITECTURES, ROWS, Architecture, Specimen, Zoo

DOCUMENT = Path(__file__).parents[2] / "docs" / "compatibility.md"
COMMAND = "python -m tests.models.test_compatibility"
PRIOR_STD, OBSERVATIONS, STEPS = 0.2, 100, 2

YES = "yes"
NOTES = {
    "one-by-one": (
        "One draw after the other: transformers' cache is not a tree of tensors, which stacking"
        " the draws would need."
    ),
    "causal": "bayesgen generates text with causal language models only.",
    "classifier": (
        "The classifier alone: by default linear layers get an adapter, and convolutions none."
    ),
    "bare": (
        "The feed-forward layers alone: the matrices of the attention are no layers of their own,"
        " which is what PEFT adapts."
    ),
}


# what the checks compare with: nothing of bayesgen


def plain_loss(specimen: Specimen, batch: Mapping[str, Tensor], reduction: str = "mean") -> Tensor:
    """The negative log-likelihood by the network's own forward."""
    labels = batch["labels"]
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    if specimen.task == "seq2seq-lm":
        inputs["labels"] = labels  # the network shifts them itself
    logits = specimen.module(**inputs).logits
    if specimen.task in {"regression", "sentence-similarity"}:
        nll = -torch.distributions.Normal(logits[:, 0], 1.0).log_prob(labels)
        return nll.mean() if reduction == "mean" else nll.sum()
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction=reduction)


def plain_gradient(value: Tensor, module: nn.Module) -> Tensor:
    parameters = list(module.parameters())
    gradients = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def assert_untouched(specimen: Specimen, *modules: nn.Module) -> None:
    """Running statistics, and whatever else is not θ, are those of the network that was saved."""
    expected = dict(specimen.module.named_buffers())
    for module in modules:
        torch.testing.assert_close(dict(module.named_buffers()), expected, rtol=0, atol=0)
        assert not module.training


# the checks


def gradient(specimen: Specimen) -> str:
    """The gradient of the log posterior that drives the chains equals that of plain autograd
    through the network as it was saved, and that of `torch.func` through the model as a pure
    function. Buffers, such as the running statistics of a BatchNorm, stay as they were loaded."""
    model, batch, module = specimen.model, specimen.batch(), specimen.module
    target = log_posterior(model)
    phi = tuple(piece.clone() for piece in chunks(model.theta))

    prior = torch.distributions.Normal(0.0, PRIOR_STD)
    log_prior = sum(prior.log_prob(p).sum() for p in module.parameters())
    value = log_prior / OBSERVATIONS - plain_loss(specimen, batch)
    expected = plain_gradient(value, module)

    for way in (target, target.functional):
        (found,), (value_, _) = torch.func.grad_and_value(way, has_aux=True)(phi, batch)
        torch.testing.assert_close(value_, value.detach())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert_untouched(specimen, model.module, target.flat.module)
    return YES


def vmapped(specimen: Specimen) -> str:
    """`torch.vmap` of the model over a stack of weights, [S, P], gives what the model gives for
    one vector of weights after the other. Evaluating all draws in one pass needs it."""
    model, batch = specimen.model, specimen.batch()
    thetas = scattered(model)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        together = torch.vmap(lambda theta: model(theta, batch))(thetas)
        each = torch.stack([model(theta, batch) for theta in thetas])
    torch.testing.assert_close(together, each, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(each[0], each[1], atol=1e-3)
    return YES


def per_example(specimen: Specimen) -> str:
    """The Jacobian of the rows' log-likelihoods, [B, P], equals the gradients of the rows, taken
    one by one with plain autograd. EKF and Laplace are made of it."""
    model, batch = specimen.model, specimen.batch()
    phi = tuple(piece.clone() for piece in chunks(model.theta))
    target = log_posterior(model)
    (jacobian,), _ = torch.func.jacrev(target.per_sequence, has_aux=True)(phi, batch)
    rows = []
    for row in range(ROWS):
        alone = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        rows.append(plain_gradient(-plain_loss(specimen, alone, "sum"), specimen.module))
    torch.testing.assert_close(jacobian, torch.stack(rows), rtol=1e-4, atol=1e-5)
    return YES


def sampled(sampler: str, specimen: Specimen) -> str:
    """The sampler runs on the architecture through the same job as the training command: losses
    and draws are finite, float32, fit the layout of θ and predict something else than the loaded
    weights. A second run with the same seed gives the same bits, and the network that was loaded
    is left alone."""
    draw = first_draw(sampler, specimen)
    assert torch.equal(draw, first_draw(sampler, specimen))

    model, batch = specimen.model, specimen.batch()
    named = dict(specimen.module.named_parameters())
    assert draw.dtype == torch.float32
    assert draw.shape == (sum(p.numel() for p in named.values()),)
    assert {name: v.shape for name, v in model.layout.views(draw).items()} == {
        name: p.shape for name, p in named.items()
    }
    assert torch.equal(model.theta, model.layout.ravel(named))
    with torch.no_grad():
        before, after = model(model.theta, batch), model(draw, batch)
    assert after.isfinite().all()
    assert not torch.equal(before, after)
    return YES


def adapted(specimen: Specimen) -> str:
    """`parameters="lora"` makes θ the adapters: P is their size, the network starts as it was
    saved, each matrix B has a gradient wherever the weight that it adapts has one, and a draw that
    is merged into the network gives the same outputs. Where PEFT has no choice of layers for an
    architecture, all linear layers get an adapter."""
    rank, batch = 2, specimen.batch()
    model = specimen.load(parameters="lora", lora=Lora(r=rank))
    adapters = {name.partition(".lora_")[0] for name in model.layout.names}
    layers = {name: specimen.module.get_submodule(name) for name in adapters}
    assert model.layout.size == sum(rank * sum(layer.weight.shape) for layer in layers.values())
    with torch.no_grad():
        start = specimen.model(specimen.model.theta, batch)
        torch.testing.assert_close(model(model.theta, batch), start)

    phi = tuple(piece.clone() for piece in chunks(model.theta))
    target = log_posterior(model)
    (found,), _ = torch.func.grad_and_value(target, has_aux=True)(phi, batch)
    found = model.layout.views(found)
    weights = plain_gradient(plain_loss(specimen, batch), specimen.module)
    weights = specimen.model.layout.views(weights)
    learning = {name for name in adapters if weights[f"{name}.weight"].any()}
    assert learning
    assert learning == {name for name in adapters if found[f"{name}.lora_B.default.weight"].any()}

    draw = scattered(model)[0]
    module = merged(model, draw)
    assert not any("lora" in name for name, _ in module.named_parameters())
    with torch.no_grad():
        outputs = model(draw, batch)
        torch.testing.assert_close(model.call(module, batch), outputs, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(outputs, start, atol=1e-3)

    if all("classifier" in name for name in adapters):
        return noted(YES, "classifier")
    return YES if any("att" in name.lower() for name in adapters) else noted(YES, "bare")


def rounded(specimen: Specimen) -> str:
    """Log-probabilities of the predictive, or the means of real-valued labels, in bfloat16 lie near
    those in float32. It is a choice of the evaluation: θ itself stays float32."""
    model, batch = specimen.model, specimen.batch()
    means = model.labels == "number"
    exact, rough = (
        forward.outputs(batch) if means else forward.log_probs(batch)
        for forward in (Forward(model), Forward(model, "bf16"))
    )
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.1
    return YES


def cached(specimen: Specimen) -> str:
    """Read in pieces, with the keys and values of the earlier tokens kept, a text gets the
    log-probabilities that it gets when it is read at once. Generation is made of it."""
    model = specimen.model
    if model.reader is None:
        assert specimen.task != "causal-lm"
        return noted("no", "causal")
    tokens = specimen.batch()["input_ids"]
    rows, length = tokens.shape
    kept = model.reader.cache(rows, length, model.device)
    pieces = []
    with torch.no_grad():
        for columns in torch.arange(length).split([length - 3, 1, 1, 1]):
            mask = torch.ones(rows, int(columns[-1]) + 1, dtype=torch.bool)
            positions = columns.expand(rows, -1)
            apply = model.applied(model.theta)
            pieces.append(
                model.reader.read(apply, Piece(tokens[:, columns], positions, mask), kept)
            )
        whole = model(model.theta, {"input_ids": tokens})
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-4, atol=1e-5)
    return YES if model.reader.stackable else noted(YES, "one-by-one")


def log_posterior(model: FunctionalModel) -> LogPosterior:
    return LogPosterior(model, normal(model.layout.size, PRIOR_STD), OBSERVATIONS)


def scattered(model: FunctionalModel) -> Tensor:
    """Two vectors of weights around those of `model`: [2, P]."""
    noise = torch.randn(2, model.layout.size, generator=torch.Generator().manual_seed(1))
    return model.theta + 0.1 * noise


class Few:
    """Batches of a specimen: two of them make up the data."""

    steps_per_epoch = 2

    def __init__(self, specimen: Specimen) -> None:
        self.specimen = specimen
        count = specimen.model.likelihood.count
        self.num_observations = sum(int(count(self.batch(step)["labels"])) for step in range(2))

    def passes(self, steps: int) -> float:
        return steps / self.steps_per_epoch

    def batch(self, step: int) -> dict[str, Tensor]:
        return self.specimen.batch(step % self.steps_per_epoch)


def first_draw(sampler: str, specimen: Specimen) -> Tensor:
    """A draw [P] after a few steps: the end of the chain, or one from the Gaussian."""
    short: dict[str, Any] = {"epochs": 1.0}
    if SAMPLERS[sampler].settings.draws_from == "chain":
        short = {
            "warmup_steps": 0, "sampling_steps": STEPS, "thinning": 1, "preconditioner_batches": 2,
        }  # fmt: skip
    elif sampler == "swag":
        short = {"warmup_steps": 0, "sampling_steps": STEPS, "thinning": 1, "rank": STEPS}
    batches = Few(specimen)
    settings = SAMPLERS[sampler].settings(**short)
    job = make_job(sampler, settings, specimen.model, lambda chain: batches)
    assert job.plan.steps == STEPS
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = job.sampler.init()
        for step in range(STEPS):
            state, terms = job.sampler.update(state, batches.batch(step))
            assert terms.isfinite().all()
        draw = job.sampler.theta(state)
        if job.sampler.gaussian is not None:
            draw = job.sampler.gaussian(state).sample()
    assert_untouched(specimen, specimen.model.module, job.log_posterior.flat.module)
    return draw


# the document


CHECKS: Mapping[str, Callable[[Specimen], str]] = {
    "gradient": gradient,
    "vmap over draws": vmapped,
    "per-example Jacobian": per_example,
    **{sampler: partial(sampled, sampler) for sampler in SAMPLERS},
    "LoRA": adapted,
    "bf16 scoring": rounded,
    "key/value cache": cached,
}
"""The columns: a check returns what its cell says, and raises where that is not true."""

Cells = Mapping[Architecture, Mapping[str, str]]


def noted(word: str, note: str) -> str:
    return f"{word}[^{note}]"


def label(architecture: Architecture) -> tuple[str, str]:
    """How a row begins."""
    return f"{architecture.name} (`{architecture.class_name}`)", architecture.task


def written(cells: Cells, versions: str) -> str:
    """The document with these cells."""
    header = ("model", "task", *CHECKS)
    rows = [(*label(a), *(row[column] for column in CHECKS)) for a, row in cells.items()]
    lines = (header, ("---",) * len(header), *rows)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    meanings = {column: check for column, check in CHECKS.items() if column not in SAMPLERS}
    meanings[", ".join(SAMPLERS)] = sampled
    columns = "\n".join(
        item(f"- **{column}**: {inspect.getdoc(check)}") for column, check in meanings.items()
    )
    notes = "\n".join(
        item(f"[^{key}]: {text}") for key, text in NOTES.items() if f"[^{key}]" in table
    )
    return f"""# Compatibility

Hugging Face models that were checked: small random networks of each architecture, on the CPU. Every
cell is the result of a check in `tests/models/test_compatibility.py`, and a test fails where this
page says anything else. The page is written by

    {COMMAND}

{versions}

{table}

What the columns mean:

{columns}

{notes}
"""


def item(text: str) -> str:
    return textwrap.fill(text, 100, subsequent_indent="  ", break_on_hyphens=False)


def versions() -> str:
    packages = ("torch", "transformers", "peft", "posteriors")
    public = [f"{package} {version(package).partition('+')[0]}" for package in packages]
    return f"Versions: {', '.join(public)}."


def documented() -> Cells:
    """The cells of the document as it is; empty where it has none."""
    lines = re.findall(r"^\| (.*) \|$", DOCUMENT.read_text(), flags=re.MULTILINE)
    rows = [line.split(" | ") for line in lines]
    found = {
        (*row[:2], column): cell
        for row in rows[2:]
        for column, cell in zip(rows[0][2:], row[2:], strict=False)
    }
    return {a: {c: found.get((*label(a), c), "") for c in CHECKS} for a in ARCHITECTURES}


def checked() -> Cells:
    """The cells that the checks give."""
    with tempfile.TemporaryDirectory() as folder:
        zoo = Zoo(Path(folder))
        return {
            architecture: {column: check(zoo[architecture]) for column, check in CHECKS.items()}
            for architecture in ARCHITECTURES
        }


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.mark.parametrize("column", CHECKS)
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_a_cell_says_what_its_check_gives(
    architecture: Architecture, column: str, zoo: Zoo
) -> None:
    found = CHECKS[column](zoo[architecture])
    assert documented()[architecture][column] == found, f"to write the page again: {COMMAND}"


def test_the_rest_of_the_page_is_as_it_would_be_written() -> None:
    text = DOCUMENT.read_text()
    made_with = re.search(r"^Versions: .*$", text, flags=re.MULTILINE)
    expected = written(documented(), made_with[0] if made_with else versions())
    assert text == expected, f"to write the page again: {COMMAND}"


if __name__ == "__main__":
    torch.set_num_threads(1)  # the networks are tiny
    DOCUMENT.write_text(written(checked(), versions()))
