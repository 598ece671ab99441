"""Sentence models against the encoder alone, one text at a time, and arithmetic in float64.

A frozen encoder's embeddings give the numbers that reading each text every time gives.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bayesgen.data.examples import Examples
from bayesgen.data.labelled import load_labelled
from bayesgen.errors import UserError
from bayesgen.inference.log_posterior import LogPosterior, chunks
from bayesgen.likelihoods import Gaussian, likelihood_of
from bayesgen.models import FunctionalModel, Head, Lora, load_model
from bayesgen.predictive import Forward
from bayesgen.priors import normal
from bayesgen.tasks import TASKS, tasks_that
from tests.encoder import save_encoder, write_rows

transformers = pytest.importorskip("transformers")

from bayesgen.models.sentence import embedded, encoder_sha256, frozen_encoder  # noqa: E402

CLASSES, PAIRS = "sentence-classification", "sentence-similarity"
TEXTS = ("the old fox", "a", "small fern by the oak and a rose", "chalk under slate")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoders") / "encoder")


@pytest.fixture(scope="module")
def embeddings(encoder: Path) -> np.ndarray:
    """The mean over all tokens of each of `TEXTS`, alone and without padding: [4, H]."""
    network = transformers.AutoModel.from_pretrained(encoder).double().eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    with torch.no_grad():
        each = [network(**tokenizer(t, return_tensors="pt")).last_hidden_state[0] for t in TEXTS]
    return np.stack([hidden.numpy().mean(0) for hidden in each])


@pytest.mark.parametrize(("kind", "there"), [("bert", True), ("squeezebert", False)])
def test_gradients_are_checkpointed_where_the_encoder_can(kind: str, there: bool) -> None:
    from bayesgen.models.sentence import SentenceConfig, SentenceModel

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32,
             "num_hidden_layers": 1, "vocab_size": 9, "embedding_size": 16}  # fmt: skip
    model = SentenceModel(SentenceConfig({"model_type": kind, **sizes}))
    assert model.supports_gradient_checkpointing == there


def batch_of(model: FunctionalModel, texts: tuple[str, ...] = TEXTS) -> dict[str, Tensor]:
    tokenizer: Any = model.tokenizer
    return dict(tokenizer.tokenizer(list(texts), padding=True, return_tensors="pt"))


def pairs_of(model: FunctionalModel) -> dict[str, Tensor]:
    """Texts 0 and 1, and 2 and 3."""
    return {key: value.view(2, 2, -1) for key, value in batch_of(model).items()}


def refusal(name: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_model(name, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def saved(model: FunctionalModel, folder: Path) -> Path:
    module: Any = model.module
    module.save_pretrained(folder)
    return folder


def test_a_text_is_embedded_as_the_mean_of_its_tokens(
    encoder: Path, embeddings: np.ndarray
) -> None:
    model = load_model(encoder, task=CLASSES)
    module: Any = model.module
    with torch.no_grad():
        found = module.embed(**batch_of(model))
    np.testing.assert_allclose(found.numpy(), embeddings, atol=1e-5)
    assert model.block_size == 32
    assert not any("pooler" in name for name in model.layout.names)


@pytest.mark.parametrize(
    ("head", "activation"),
    [(None, None), (Head(5), np.tanh), (Head(5, "relu"), lambda x: np.maximum(x, 0))],
)
def test_classes_are_read_from_the_embedding(
    head: Head | None, activation: Any, encoder: Path, embeddings: np.ndarray
) -> None:
    model = load_model(encoder, task=CLASSES, num_labels=3, head=head)
    own = {n: p.detach().double().numpy() for n, p in model.module.named_parameters()}
    x = embeddings
    if activation is not None:
        x = activation(x @ own["hidden.weight"].T + own["hidden.bias"])
    expected = x @ own["classifier.weight"].T + own["classifier.bias"]
    batch = batch_of(model)
    logits = model(model.theta, batch)
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-5)
    given = {"sentence_embedding": torch.as_tensor(embeddings).float()}
    np.testing.assert_allclose(model(model.theta, given).numpy(), expected, atol=1e-5)
    log_p = expected - np.log(np.exp(expected).sum(1, keepdims=True))
    with torch.no_grad():
        loss = model.module(**batch, labels=torch.tensor([0, 2, 1, 1])).loss
    assert float(loss) == pytest.approx(-log_p[range(4), [0, 2, 1, 1]].mean(), rel=1e-4)


@pytest.mark.parametrize("score_range", [None, [1.0, 5.0]])
def test_a_score_is_a_line_in_the_cosine(
    score_range: list[float] | None, encoder: Path, embeddings: np.ndarray
) -> None:
    model = load_model(encoder, task=PAIRS)
    module: Any = model.module
    module.config.score_range = score_range
    low, high = score_range or (0.0, 1.0)
    norms = np.linalg.norm(embeddings, axis=1)
    cosines = [embeddings[i] @ embeddings[i + 1] / norms[i] / norms[i + 1] for i in (0, 2)]
    expected = low + (high - low) * np.array(cosines)[:, None]
    scores = model(model.theta, pairs_of(model))
    assert scores.shape == (2, 1)
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-5)
    given = {"sentence_embedding": torch.as_tensor(embeddings).float().view(2, 2, -1)}
    np.testing.assert_allclose(model(model.theta, given).numpy(), expected, atol=1e-5)
    labels = torch.tensor([1.0, 3.0])
    with torch.no_grad():
        loss = module(**pairs_of(model), labels=labels).loss
    assert float(loss) == pytest.approx(((expected[:, 0] - labels.numpy()) ** 2).mean(), rel=1e-4)
    assert model.new == frozenset()
    assert "the model has no head" in refusal(encoder, task=PAIRS, parameters="head")


def test_a_new_head_is_the_same_at_every_load(encoder: Path) -> None:
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        models.append(load_model(encoder, task=CLASSES, num_labels=3, head=Head(5)))
        assert torch.equal(torch.get_rng_state(), before)
    head = {f"{layer}.{part}" for layer in ("hidden", "classifier") for part in ("weight", "bias")}
    assert models[0].new == head
    assert torch.equal(models[0].theta, models[1].theta)
    assert all(dict(models[0].module.named_parameters())[f"{n}.weight"].any()
               for n in ("hidden", "classifier"))  # fmt: skip
    options: dict[str, Any] = {"task": CLASSES, "num_labels": 3, "head": Head(5)}
    named = load_model(encoder, parameters="head", **options).layout.names
    assert set(named) == head
    assert load_model(encoder, outline=True, **options).layout == models[0].layout


@pytest.mark.parametrize("task", [CLASSES, PAIRS])
def test_a_folder_brings_back_the_model(task: str, encoder: Path, tmp_path: Path) -> None:
    head = Head(5, "relu", 0.3) if task == CLASSES else None
    model = load_model(encoder, task=task, head=head, num_labels=3 if head else None)
    module: Any = model.module
    module.config.score_range = [0.0, 5.0]
    folder = saved(model, tmp_path / "saved")
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "bayesgen-sentence"
    assert "auto_map" not in config
    assert {file.suffix for file in folder.iterdir()} == {".json", ".safetensors"}
    batch = batch_of(model) if task == CLASSES else pairs_of(model)
    expected = model(model.theta, batch)
    again = load_model(folder, task=task)
    assert again.new == frozenset()
    assert again.layout == model.layout
    torch.testing.assert_close(again(again.theta, batch), expected)
    plain = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(**batch).logits, expected)
    assert again.module.dropout.p == plain.dropout.p == (0.3 if head else 0.1)  # type: ignore[union-attr]
    other = PAIRS if task == CLASSES else CLASSES
    for wrong in ("causal-lm", "regression", other):
        message = refusal(folder, task=wrong)
        assert message.startswith(f"`task={wrong}`: '{folder}' is a model of type")
        assert message.endswith(f"which is made for {task}")


def test_a_head_that_is_there_is_no_other(encoder: Path, tmp_path: Path) -> None:
    model = load_model(encoder, task=CLASSES, num_labels=3, head=Head(5))
    folder = saved(model, tmp_path / "saved")
    says = refusal(folder, task=CLASSES, head=Head(6))
    assert says.startswith("`head_hidden_size=6`: ")
    assert "with 5" in says
    assert refusal(folder, task=CLASSES, head=Head(5, "relu")).startswith("`head_activation=relu`")
    assert "shape [3]" in refusal(folder, task=CLASSES, num_labels=4)
    assert "a regression has none" in refusal(encoder, task="regression", head=Head(5))
    same = load_model(folder, task=CLASSES, head=Head(5, "tanh", 0.4))
    assert same.module.dropout.p == 0.4  # type: ignore[union-attr]
    assert torch.equal(same.theta, model.theta)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("score_range", [3, 3], "score_range"),
        ("score_range", [1], "score_range"),
        ("head_activation", "sine", "activation 'sine'"),
        ("noise_std", 0, "noise_std"),
        ("noise_std", "much", "noise_std"),
        ("text_config", {"model_type": "no-such-thing"}, "no loadable"),
    ],
)
def test_a_damaged_config_is_one_line(
    key: str, value: Any, says: str, encoder: Path, tmp_path: Path
) -> None:
    folder = saved(load_model(encoder, task=PAIRS), tmp_path / "saved")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    message = refusal(folder, task=PAIRS)
    assert message.startswith("`model`: ")
    assert says in message


def test_an_encoder_that_lacks_a_layer_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_encoder(tmp_path / "encoder")
    state = load_file(folder / "model.safetensors")
    poolerless = {name: p for name, p in state.items() if not name.startswith("pooler")}
    save_file(poolerless, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_model(folder, task=CLASSES).new == {"classifier.weight", "classifier.bias"}
    del poolerless["encoder.layer.1.output.dense.weight"]
    save_file(poolerless, folder / "model.safetensors", metadata={"format": "pt"})
    for task in (CLASSES, PAIRS):
        assert "'encoder.layer.1.output.dense.weight'" in refusal(folder, task=task)


@pytest.mark.parametrize("task", ["regression", PAIRS])
def test_the_noise_of_the_labels_is_read_from_the_folder(
    task: str, encoder: Path, tmp_path: Path
) -> None:
    model = load_model(encoder, task=task)
    assert model.likelihood == Gaussian(1.0)
    module: Any = model.module
    module.config.noise_std = 0.25
    assert load_model(saved(model, tmp_path / "saved"), task=task).likelihood == Gaussian(0.25)


def test_adapters_on_the_encoder_and_a_new_head(encoder: Path) -> None:
    model = load_model(encoder, task=CLASSES, parameters="lora,head", lora=Lora(r=2))
    adapted = [name for name in model.layout.names if "lora" in name]
    assert adapted
    assert all(name.startswith("encoder.encoder.layer.") for name in adapted)
    assert set(model.layout.names) - set(adapted) == {"classifier.weight", "classifier.bias"}
    assert model.new == set(model.layout.names)
    plain = load_model(encoder, task=CLASSES)
    batch = batch_of(model)
    torch.testing.assert_close(model(model.theta, batch), plain(plain.theta, batch))


def test_a_frozen_encoder_has_no_dropout_while_the_head_is_trained(encoder: Path) -> None:
    module: Any = load_model(encoder, task=CLASSES).module
    module.classifier.requires_grad_(True)
    assert module.train().training
    assert module.dropout.training
    assert not any(layer.training for layer in module.encoder.modules())
    module.encoder.requires_grad_(True)
    assert all(layer.training for layer in module.train().modules())
    assert not any(layer.training for layer in module.eval().modules())


def test_what_a_label_is_is_said_once() -> None:
    for task in (TASKS[name] for name in TASKS):
        numbers = isinstance(likelihood_of(task), Gaussian)
        assert numbers == (task.labels == "number")
        assert task.is_labelled == (task.labels != "token")
    assert tasks_that("sample", "number") == ("regression", "sentence-similarity")


def headed(folder: Path, **options: Any) -> FunctionalModel:
    return load_model(folder, task=CLASSES, num_labels=3, **options)


@pytest.mark.parametrize("parameters", ["head", "classifier.*"])
def test_log_posterior_and_scores_are_those_of_the_texts(
    parameters: str, encoder: Path, tmp_path: Path
) -> None:
    model = headed(encoder, parameters=parameters, head=Head(5))
    data = load_labelled(str(write_rows(tmp_path / "rows.tsv", 40)), task=CLASSES)
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
    model = headed(encoder, parameters=parameters, lora=Lora(r=2))
    assert frozen_encoder(model.module, model.layout) is None
    classifier = load_model(encoder, task="sequence-classification", parameters="head")
    assert frozen_encoder(classifier.module, classifier.layout) is None


def test_frozen_by_what_requires_a_gradient(encoder: Path) -> None:
    module = headed(encoder).module
    module.requires_grad_(True)
    assert frozen_encoder(module) is None
    module.get_submodule("encoder").requires_grad_(False)
    assert frozen_encoder(module) is module


def test_the_same_encoder_has_the_same_hash_whatever_stands_on_it(
    encoder: Path, tmp_path: Path
) -> None:
    module: Any = headed(encoder).module
    module.save_pretrained(tmp_path / "saved")
    others: list[Any] = [
        load_model(tmp_path / "saved", task=CLASSES).module,
        headed(encoder, head=Head(7)).module,
        load_model(encoder, task="sentence-similarity").module,
    ]
    assert {encoder_sha256(other) for other in others} == {encoder_sha256(module)}
    prints = [encoder_sha256(module)]
    module.encoder.config.hidden_act = "relu"
    prints.append(encoder_sha256(module))
    next(module.encoder.parameters()).data[0] += 1
    prints.append(encoder_sha256(module))
    assert len(set(prints)) == 3
