"""Logits at some positions, against all of them."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bayesgen.models import FunctionalModel, load_model
from bayesgen.predictive import Forward
from tests.models.zoo import ARCHITECTURES, BATCHES, Architecture, random_network

pytest.importorskip("transformers")

MASKED = [a for a in ARCHITECTURES if a.task == "masked-lm"]
TARGETS = torch.tensor([[1, 3, 0], [4, 2, 2]])


def loaded(architecture: Architecture, folder: Path) -> FunctionalModel:
    random_network(architecture).save_pretrained(folder)
    return load_model(folder, task="masked-lm")


def batches() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A batch that asks for all positions, and one that asks for some of them."""
    every = BATCHES["masked-lm"](torch.Generator().manual_seed(0))
    every = {name: value[:2] for name, value in every.items()}
    some = every | {"labels": every["labels"].gather(1, TARGETS), "targets": TARGETS}
    return every, some


def at_targets(logits: Tensor) -> Tensor:
    return torch.stack([row[places] for row, places in zip(logits, TARGETS, strict=True)])


@pytest.mark.parametrize("architecture", MASKED, ids=str)
def test_they_are_those_of_all_positions(architecture: Architecture, tmp_path: Path) -> None:
    model = loaded(architecture, tmp_path)
    every, some = batches()
    expected = at_targets(model(model.theta, every))
    torch.testing.assert_close(model(model.theta, some), expected)
    assert model(model.theta, every).shape[1] > TARGETS.shape[1]  # as before
    copied = Forward(model)
    copied.load(model.theta)
    torch.testing.assert_close(copied.outputs(some), expected)


@pytest.mark.parametrize("architecture", MASKED, ids=str)
def test_their_gradients_are_too(architecture: Architecture, tmp_path: Path) -> None:
    model = loaded(architecture, tmp_path)
    every, some = batches()
    found = torch.func.grad(lambda theta: model(theta, some).square().sum())(model.theta)
    expected = torch.func.grad(lambda theta: at_targets(model(theta, every)).square().sum())
    torch.testing.assert_close(found, expected(model.theta), rtol=1e-4, atol=1e-5)


def test_the_last_product_is_of_these_positions_alone(tmp_path: Path) -> None:
    model = loaded(next(a for a in MASKED if a.name == "BERT"), tmp_path)
    shapes: list[torch.Size] = []
    embeddings = model.module.get_output_embeddings()
    embeddings.register_forward_hook(lambda _, inputs, output: shapes.append(output.shape))
    every, some = batches()
    model(model.theta, some)
    model(model.theta, every)
    assert [shape[1] for shape in shapes] == [TARGETS.shape[1], every["input_ids"].shape[1]]


def test_a_network_that_keeps_its_embeddings_to_itself_is_asked_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bert = next(a for a in MASKED if a.name == "BERT")
    every, some = batches()
    expected = at_targets(
        random_network(bert)(**{k: every[k] for k in every if k != "labels"}).logits
    )
    monkeypatch.setattr(type(random_network(bert)), "get_output_embeddings", lambda _: None)
    model = loaded(bert, tmp_path)
    torch.testing.assert_close(model(model.theta, some), expected)


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    model = loaded(next(a for a in MASKED if a.name == "BERT"), tmp_path)
    every, some = batches()
    with pytest.raises(IndexError):
        model(model.theta, some | {"input_ids": some["input_ids"] + 10**6})
    logits = model(model.theta, every)
    assert logits.shape[:2] == every["input_ids"].shape


def test_copies_in_two_threads_do_not_meet(tmp_path: Path) -> None:
    model = loaded(next(a for a in MASKED if a.name == "BERT"), tmp_path)
    _, some = batches()
    other = some | {"targets": some["targets"].flip(0) + 1}
    forwards, asked = (Forward(model), Forward(model)), (some, other)
    expected = [model(model.theta, batch) for batch in asked]

    def often(number: int) -> bool:
        forwards[number].load(model.theta)
        found = (forwards[number].outputs(asked[number]) for _ in range(50))
        return all(torch.allclose(logits, expected[number], atol=1e-5) for logits in found)

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(often, (0, 1)))


def test_the_network_can_still_be_pickled(tmp_path: Path) -> None:
    model = loaded(next(a for a in MASKED if a.name == "BERT"), tmp_path)
    assert pickle.loads(pickle.dumps(model.module)).get_output_embeddings() is not None
