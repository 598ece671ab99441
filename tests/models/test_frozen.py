"""A frozen encoder's embeddings give the numbers that reading each text every time gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bayesgen.data.examples import Examples
from bayesgen.data.labelled import load_labelled
from bayesgen.inference.log_posterior import LogPosterior
from bayesgen.models import FunctionalModel, Head, Lora, load_model
from bayesgen.parameters import chunks
from bayesgen.predictive import Forward
from bayesgen.priors import normal
from tests.encoder import save_encoder, write_rows

pytest.importorskip("transformers")

from bayesgen.models.sentence import embedded, encoder_sha256, frozen_encoder

TASK = "sentence-classification"


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return save_encoder(tmp_path / "encoder")


def load(folder: Path, **options: Any) -> FunctionalModel:
    return load_model(folder, task=TASK, num_labels=3, **options)


@pytest.mark.parametrize("parameters", ["head", "classifier.*"])
def test_log_posterior_and_scores_are_those_of_the_texts(
    parameters: str, encoder: Path, tmp_path: Path
) -> None:
    model = load(encoder, parameters=parameters, head=Head(5))
    data = load_labelled(str(write_rows(tmp_path / "rows.tsv", 40)), task=TASK)
    tokenizer: Any = model.tokenizer
    examples = Examples(data.train, tokenizer.tokenizer, 32)
    frozen = frozen_encoder(model.module, model.layout)
    assert frozen is not None
    rows = embedded(examples, frozen, tmp_path)
    target = LogPosterior(model, normal(model.layout.size, 0.2), len(examples))
    phi = tuple(piece.clone() for piece in chunks(model.theta))
    found = []
    for source in (examples, rows):
        batch = source.batch(range(20))
        for way in (target, target.functional):
            (gradient,), (value, _) = torch.func.grad_and_value(way, has_aux=True)(phi, batch)
            found.append((gradient, value))
        found.append(torch.func.jacrev(target.per_sequence, has_aux=True)(phi, batch)[0])
    texts, embeddings = found[:3], found[3:]
    assert texts[2][0].shape == (20, model.layout.size)
    for one, other in zip(texts, embeddings, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    for precision, tolerance in (("fp32", 1e-5), ("bf16", 0.1)):
        forward = Forward(model, precision)  # type: ignore[arg-type]
        once, each = (forward.log_probs(source.batch(range(20))) for source in (rows, examples))
        torch.testing.assert_close(once, each, rtol=0, atol=tolerance)


@pytest.mark.parametrize("parameters", ["all", "layers=-1:", "encoder.embeddings.*,head", "lora"])
def test_an_encoder_that_moves_is_not_frozen(parameters: str, encoder: Path) -> None:
    model = load(encoder, parameters=parameters, lora=Lora(r=2))
    assert frozen_encoder(model.module, model.layout) is None
    classifier = load_model(encoder, task="sequence-classification", parameters="head")
    assert frozen_encoder(classifier.module, classifier.layout) is None


def test_frozen_by_what_requires_a_gradient(encoder: Path) -> None:
    module = load(encoder).module
    module.requires_grad_(True)
    assert frozen_encoder(module) is None
    module.get_submodule("encoder").requires_grad_(False)
    assert frozen_encoder(module) is module


def test_the_same_encoder_has_the_same_hash_whatever_stands_on_it(
    encoder: Path, tmp_path: Path
) -> None:
    module: Any = load(encoder).module
    module.save_pretrained(tmp_path / "saved")
    others: list[Any] = [
        load_model(tmp_path / "saved", task=TASK).module,
        load(encoder, head=Head(7)).module,
        load_model(encoder, task="sentence-similarity").module,
    ]
    assert {encoder_sha256(other) for other in others} == {encoder_sha256(module)}
    prints = [encoder_sha256(module)]
    module.encoder.config.hidden_act = "relu"
    prints.append(encoder_sha256(module))
    next(module.encoder.parameters()).data[0] += 1
    prints.append(encoder_sha256(module))
    assert len(set(prints)) == 3
