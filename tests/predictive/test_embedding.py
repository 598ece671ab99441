"""Embeddings and similarities over draws, against the same written out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesgen.draws import Draws
from bayesgen.likelihoods import Gaussian
from bayesgen.models import FunctionalModel, ModelInfo, load_model
from bayesgen.predictive.embedding import (
    EmbeddingSpread,
    SimilaritySpread,
    compare,
    embeddings,
    similarity,
)
from bayesgen.predictive.mixture import GaussianMixture
from tests.encoder import save_encoder

transformers = pytest.importorskip("transformers")

TEXTS = ["the old fox", "a small dog and the cat", "near", "the cat by a rose"]
PAIRS = torch.tensor([[0, 1], [2, 0], [3, 3]])


class Table(nn.Module):
    """A stand-in: the embedding of a text is the sum of a row for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(6, 5)

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return (self.rows(input_ids) * attention_mask.unsqueeze(-1)).sum(1)


BATCH = {
    "input_ids": torch.tensor([[1, 2, 0], [3, 0, 0], [4, 5, 1]]),
    "attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]]),
}


@pytest.fixture
def table() -> tuple[FunctionalModel, Draws]:
    torch.manual_seed(0)
    model = FunctionalModel(Table(), info=ModelInfo(task="sentence-classification"))
    draws = model.theta + 0.1 * torch.randn(4, 30)
    return model, Draws.from_draws(draws, model.layout)


def by_hand(posterior: Draws) -> Tensor:
    """[S, 3, 5]: each draw is a table [6, 5]."""
    tables = torch.stack(list(posterior)).view(-1, 6, 5)
    return torch.stack([tables[:, [1, 2]].sum(1), tables[:, 3], tables[:, [4, 5, 1]].sum(1)], dim=1)


def test_every_draw_has_its_own_embeddings(table: tuple[FunctionalModel, Draws]) -> None:
    model, posterior = table
    found = embeddings(model, posterior, {**BATCH, "labels": torch.zeros(3)})
    assert found.shape == (4, 3, 5)
    torch.testing.assert_close(found, by_hand(posterior))


def test_mean_and_sd_of_embeddings_and_similarities(
    table: tuple[FunctionalModel, Draws],
) -> None:
    model, posterior = table
    parts = [{k: v[rows] for k, v in BATCH.items()} for rows in (slice(0, 2), slice(2, 3))]
    pairs = torch.tensor([[0, 1], [2, 0]])
    read: list[int] = []
    spread, similar = compare(model, posterior, parts, pairs, read.append)
    assert sum(read) == 5 * 3
    each = by_hand(posterior)
    torch.testing.assert_close(spread.mean, each.mean(0))
    torch.testing.assert_close(spread.sd, each.std(0, correction=0), rtol=1e-4, atol=1e-6)
    trace = each.var(0, correction=0).sum(1)
    torch.testing.assert_close(spread.relative_sd, trace.sqrt() / each.mean(0).norm(dim=1))
    assert spread.largest.tolist() == each.var(0).argmax(1).tolist()
    cosines = torch.stack([F.cosine_similarity(e[pairs[:, 0]], e[pairs[:, 1]]) for e in each])
    torch.testing.assert_close(similar.each, cosines)
    torch.testing.assert_close(similar.mean, cosines.mean(0))
    torch.testing.assert_close(similar.sd, cosines.std(0, correction=0))
    start = by_hand(Draws.from_draws(model.theta[None], model.layout))[0]
    expected = F.cosine_similarity(start[pairs[:, 0]], start[pairs[:, 1]])
    torch.testing.assert_close(similar.deterministic, expected)
    assert similar.noise_std is None
    assert similar.predicted(0.9) is None


def test_a_small_spread_around_large_embeddings_is_not_lost(
    table: tuple[FunctionalModel, Draws],
) -> None:
    model, _ = table
    model.theta = model.theta + 1000
    noise = torch.randn(50, 30, generator=torch.Generator().manual_seed(3))
    posterior = Draws.from_draws(model.theta + 0.01 * noise, model.layout)
    spread, _ = compare(model, posterior, [BATCH], torch.tensor([[0, 1]]))
    expected = by_hand(posterior).double().std(0, correction=0).float()
    torch.testing.assert_close(spread.sd, expected, rtol=1e-3, atol=1e-5)


def test_intervals_over_the_draws_and_with_noise() -> None:
    each = torch.linspace(0, 1, 101)[:, None].expand(101, 2) + torch.tensor([0.0, 3.0])
    found = SimilaritySpread(torch.zeros(2), each, 0.2)
    low, high = found.interval(0.9)
    torch.testing.assert_close(low, torch.tensor([0.05, 3.05]))
    torch.testing.assert_close(high, torch.tensor([0.95, 3.95]))
    predicted = found.predicted(0.9)
    assert predicted is not None
    mixture = GaussianMixture.of(each, 0.2)
    torch.testing.assert_close(mixture.cdf(predicted[0]), torch.full((2,), 0.05).double())
    torch.testing.assert_close(mixture.cdf(predicted[1]), torch.full((2,), 0.95).double())
    assert bool((predicted[0] < low).all())
    assert bool((predicted[1] > high).all())


def test_a_single_draw_is_certain(table: tuple[FunctionalModel, Draws]) -> None:
    model, _ = table
    posterior = Draws.from_draws(model.theta[None], model.layout)
    spread, similar = compare(model, posterior, [BATCH], torch.tensor([[0, 1]]))
    assert (spread.sd == 0).all()
    assert (spread.relative_sd == 0).all()
    assert (similar.sd == 0).all()
    torch.testing.assert_close(similar.interval(0.5)[0], similar.deterministic)


def test_a_model_without_embeddings_is_refused(tiny_gpt: FunctionalModel) -> None:
    posterior = Draws.from_draws(tiny_gpt.theta[None], tiny_gpt.layout)
    with pytest.raises(ValueError, match="no embeddings"):
        embeddings(tiny_gpt, posterior, BATCH)


# -- a sentence model, against plain transformers ------------------------------------------------


@pytest.fixture
def sentence(tmp_path: Path) -> FunctionalModel:
    save_encoder(tmp_path / "encoder")
    model = load_model(tmp_path / "encoder", task="sentence-similarity")
    model.module.config.score_range = [1.0, 6.0]
    model.likelihood = Gaussian(0.75)
    return model


def plain(folder: Path, model: FunctionalModel, theta: Tensor) -> Iterator[Tensor]:
    """The mean token vector of each text, by transformers' own model with the draw's weights."""
    network = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    named = {n.removeprefix("encoder."): v for n, v in model.layout.views(theta).items()}
    network.load_state_dict(named, strict=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        with torch.no_grad():
            yield network(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)


def test_a_sentence_model_embeds_as_plain_transformers(
    sentence: FunctionalModel, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    draws = sentence.theta + 0.05 * torch.randn(3, sentence.layout.size)
    posterior = Draws.from_draws(draws, sentence.layout)
    tokenizer = sentence.tokenizer.tokenizer  # type: ignore[union-attr]
    batch = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    expected = torch.stack(
        [torch.stack(list(plain(tmp_path / "encoder", sentence, theta))) for theta in draws]
    )
    found = embeddings(sentence, posterior, batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    spread, similar = compare(sentence, posterior, [batch], PAIRS)
    assert isinstance(spread, EmbeddingSpread)
    cosines = F.cosine_similarity(expected[:, PAIRS[:, 0]], expected[:, PAIRS[:, 1]], dim=-1)
    torch.testing.assert_close(similar.each, 1 + 5 * cosines, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(similar.each[:, 2], torch.full((3,), 6.0))
    assert similar.noise_std == 0.75
    one, other = found[0, :1], found[0, 1:2]
    score = similarity(sentence, one, other)
    torch.testing.assert_close(score, similar.each[0, :1])
    # the same as the model says of the pair itself
    pair = {k: v[PAIRS[:1]] for k, v in batch.items()}
    torch.testing.assert_close(sentence(draws[0], pair)[:, 0], score)
