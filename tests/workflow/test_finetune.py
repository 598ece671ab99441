"""The fine-tune: what Trainer is given, and what it is held to."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from transformers import TrainerCallback

from bayesgen.config.jobs import FinetuneSettings
from bayesgen.data.examples import Embedded, Examples
from bayesgen.data.labelled import LabelledCorpus, labelled, load_labelled
from bayesgen.errors import Interrupted, UserError
from bayesgen.models import FunctionalModel, Head, load_model
from bayesgen.workflow.loop import StopRequest
from bayesgen.workflow.objectives import (
    balanced_weights,
    classification_scores,
    criterion,
    regression_scores,
    score_range,
    set_noise,
    squared_error,
)
from bayesgen.workflow.trainer import (
    curve,
    last_checkpoint,
    make_trainer,
    rows,
    score,
    train,
)
from tests.encoder import save_encoder, write_rows, write_scores

CPU = torch.device("cpu")
TASK = "sequence-classification"
TINY = FinetuneSettings(
    num_train_epochs=2, per_device_train_batch_size=8, per_device_eval_batch_size=4,
    learning_rate=1e-2, device="cpu", validation=10,
)  # fmt: skip


class Bench:
    """Makes Trainers on the same encoder and rows, each in a folder of its own."""

    def __init__(self, path: Path, *, dropout: float = 0.1) -> None:
        self.path = path
        self.encoder = save_encoder(path / "encoder", dropout=dropout)
        self.data = write_rows(path / "rows.tsv", 42, weights=(4, 2, 1))

    def corpus(self, settings: FinetuneSettings = TINY) -> LabelledCorpus:
        return load_labelled(
            str(self.data), task=settings.task, validation=settings.validation, seed=settings.seed
        )

    def model(self, settings: FinetuneSettings = TINY) -> FunctionalModel:
        classes = self.corpus(settings).classes
        labels = None if classes is None else len(classes)
        head = Head(settings.head_hidden_size, None, settings.head_dropout)
        return load_model(
            self.encoder,
            task=settings.task,
            num_labels=labels,
            head=head if settings.task == "sentence-classification" else None,
        )

    def trainer(self, out: str = "out", stop: StopRequest | None = None, **changes: Any) -> Any:
        settings = replace(TINY, **changes)
        model, corpus = self.model(settings), self.corpus(settings)
        return make_trainer(settings, model, corpus, self.path / out / "work", CPU, stop)

    def trained(self, out: str = "out", **changes: Any) -> Any:
        trainer = self.trainer(out, **changes)
        train(trainer, changes.get("task", TASK))
        return trainer


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def weights(trainer: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def losses(trainer: Any) -> list[float]:
    return [row["val_loss"] for row in curve(trainer.state.log_history)]


# -- what Trainer is given -------------------------------------------------------------------------


def test_norms_and_biases_do_not_decay(bench: Bench) -> None:
    trainer = bench.trainer(weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    decay = {names[id(p)]: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decay.keys() == set(names.values())
    for name, value in decay.items():
        assert value == (0 if "bias" in name or "LayerNorm" in name else 0.1), name


def test_what_is_frozen_stays(bench: Bench) -> None:
    before = {n: p.clone() for n, p in bench.model().module.named_parameters()}
    trainer = bench.trained(freeze=("*embeddings*", "bert.encoder.layer.0.*"), max_steps=2)
    for name, after in trainer.model.named_parameters():
        frozen = "embeddings" in name or "layer.0." in name
        assert torch.equal(before[name], after) == frozen, name
    trained = {id(p) for g in trainer.optimizer.param_groups for p in g["params"]}
    assert trained == {id(p) for n, p in trainer.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"freeze": ("bert.*", "bort.*")}, "`freeze`: 'bort.*' matches no parameter"),
        ({"freeze": ("*",)}, "`freeze` leaves no parameter"),
        ({"train_samples": 33}, "`train_samples=33`"),
        ({"max_length": 33}, "`max_length=33` exceeds the model's longest context, 32"),
        ({"max_length": 2}, "`max_length=2`"),
        ({"class_weights": "balanced", "train_samples": 1}, "no training row is of class"),
    ],
)
def test_what_does_not_fit_is_refused(bench: Bench, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says.replace("*", r"\*")):
        bench.trainer(**changes)
    assert not (bench.path / "out").exists()


def test_checkpointing_that_transformers_does_not_have_is_refused(bench: Bench) -> None:
    model, settings = bench.model(), replace(TINY, gradient_checkpointing=True)
    model.module.supports_gradient_checkpointing = False
    with pytest.raises(UserError, match="none for a BertForSequenceClassification"):
        make_trainer(settings, model, bench.corpus(), bench.path / "work", CPU)


def test_a_second_gpu_is_refused(bench: Bench) -> None:
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES"):
        make_trainer(TINY, bench.model(), bench.corpus(), bench.path, torch.device("cuda:1"))


def independent_loss(
    logits: np.ndarray, labels: np.ndarray, weight: np.ndarray, smoothing: float
) -> float:
    """Mean over rows of w_y times the loss, and of w_c times what smoothing gives to class c."""
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    total = 0.0
    for row, label in zip(log_p, labels, strict=True):
        target = np.full(len(row), smoothing / len(row))
        target[label] += 1 - smoothing
        total -= float((weight * target * row).sum())
    return total / len(labels)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_the_loss_is_the_weighted_and_smoothed_one(
    bench: Bench, smoothing: float, class_weights: str
) -> None:
    trainer = bench.trainer(label_smoothing_factor=smoothing, class_weights=class_weights)
    labels = trainer.train_dataset.data.labels
    weight = np.ones(3)
    if class_weights == "balanced":
        weight = np.array([len(labels) / (3 * (labels == c).sum()) for c in range(3)])
        assert weight[labels].mean() == pytest.approx(1)
    batch = trainer.train_dataset.__getitems__(list(range(8)))
    model = trainer.model.eval()
    with torch.no_grad():
        found = trainer.compute_loss(model, dict(batch)).item()
        inputs = {k: v for k, v in batch.items() if k != "labels"}
        logits = model(**inputs).logits.double().numpy()
    expected = independent_loss(logits, batch["labels"].numpy(), weight, smoothing)
    assert found == pytest.approx(expected, rel=1e-5)


def test_balanced_weights(bench: Bench) -> None:
    data = bench.corpus().train
    together = balanced_weights(data).double().numpy() * np.bincount(data.labels)
    np.testing.assert_allclose(together, np.full(3, len(data) / 3), rtol=1e-6)


def test_a_sum_is_divided_by_the_rows_of_the_whole_step() -> None:
    outputs = SimpleNamespace(logits=torch.randn(4, 3))
    labels = torch.tensor([0, 1, 2, 0])
    mean = criterion(None, 0.0)(outputs, labels)
    assert criterion(None, 0.0)(outputs, labels, num_items_in_batch=16) == pytest.approx(mean / 4)
    scores = SimpleNamespace(logits=torch.tensor([[1.0], [2.0]]))
    assert squared_error(scores, torch.tensor([0.0, 0.0])) == pytest.approx(2.5)


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_accumulation_of_2_by_4_is_a_batch_of_8(tmp_path: Path, class_weights: str) -> None:
    bench = Bench(tmp_path, dropout=0.0)
    found = [
        bench.trained(
            f"{size}", per_device_train_batch_size=size, gradient_accumulation_steps=8 // size,
            class_weights=class_weights, learning_rate=1e-3,
        )
        for size in (8, 2)
    ]  # fmt: skip
    one, other = (dict(trainer.model.named_parameters()) for trainer in found)
    for name in one:
        if not name.endswith("key.bias"):  # their gradient is zero: AdamW follows its rounding
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-4)
    first, second = (curve(trainer.state.log_history) for trainer in found)
    for a, b in zip(first, second, strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_scores_against_counting() -> None:
    logits = np.array([[2.0, 1, 0], [0, 1, 0], [0, 3, 1], [1, 0, 5]])
    found = classification_scores(
        SimpleNamespace(predictions=logits, label_ids=np.array([0, 1, 2, 2]))
    )
    # predicted 0 1 1 2: F1 of 1, 2/3 and 2/3
    assert found["accuracy"] == pytest.approx(0.75)
    assert found["macro_f1"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


def test_correlations() -> None:
    labels = np.array([0.0, 1, 2, 3], dtype=np.float32)
    found = regression_scores(SimpleNamespace(predictions=labels[:, None] ** 3, label_ids=labels))
    assert found["spearman"] == pytest.approx(1)
    assert found["pearson"] == pytest.approx(np.corrcoef(labels, labels**3)[0, 1])
    constant = regression_scores(SimpleNamespace(predictions=np.ones((4, 1)), label_ids=labels))
    assert constant == {"spearman": None, "pearson": None}
    single = SimpleNamespace(predictions=np.ones((1, 1)), label_ids=labels[:1])
    assert regression_scores(single) == constant


def test_the_curve_averages_the_losses_between_evaluations() -> None:
    history = [
        {"loss": 3.0, "step": 10, "epoch": 0.5},
        {"loss": 1.0, "step": 15, "epoch": 1.0},
        {"eval_loss": 0.7, "eval_accuracy": 0.5, "eval_runtime": 9.0, "step": 15, "epoch": 1.0},
        {"loss": 0.5, "step": 30, "epoch": 2.0},
        {"eval_loss": 0.6, "eval_accuracy": 0.6, "step": 30, "epoch": 2.0},
        {"train_loss": 9.0, "step": 30},
    ]
    assert curve(history) == [
        {"step": 15, "epoch": 1.0, "train_loss": pytest.approx(7 / 3), "val_loss": 0.7,
         "accuracy": 0.5},
        {"step": 30, "epoch": 2.0, "train_loss": 0.5, "val_loss": 0.6, "accuracy": 0.6},
    ]  # fmt: skip


# -- what it is held to ----------------------------------------------------------------------------


def test_the_best_checkpoint_is_the_one_of_the_lowest_validation_loss(bench: Bench) -> None:
    trainer = bench.trained(num_train_epochs=9, train_samples=8, lr_scheduler_type="constant")
    found = losses(trainer)
    assert len(found) == 9
    best = curve(trainer.state.log_history)[int(np.argmin(found))]
    assert best["step"] == trainer.state.best_global_step
    assert best["step"] < trainer.state.global_step  # else nothing had to be loaded
    examples = trainer.eval_dataset
    model = trainer.model.eval()
    total = 0.0
    for i in range(len(examples)):  # one row at a time: nothing is padded
        batch = examples.batch([i])
        label = batch.pop("labels")
        with torch.no_grad():
            total -= float(torch.log_softmax(model(**batch).logits, 1)[0, label])
    assert total / len(examples) == pytest.approx(min(found), rel=1e-4)


def test_early_stopping_stops(bench: Bench) -> None:
    still = {"learning_rate": 0.0, "num_train_epochs": 9, "early_stopping_patience": 2}
    assert len(losses(bench.trained(**still))) == 3


def test_a_regression(bench: Bench) -> None:
    bench.data = write_scores(bench.path / "pairs.tsv", 40)
    trainer = bench.trained(task="regression", num_train_epochs=3)
    table = curve(trainer.state.log_history)
    assert set(table[0]) == {"step", "epoch", "train_loss", "val_loss", "spearman", "pearson"}
    assert trainer.model.config.problem_type == "regression"
    settings = replace(TINY, task="regression")
    found = score(trainer, rows(bench.corpus(settings).val, bench.model(settings), settings))
    assert found["loss"] == pytest.approx(min(row["val_loss"] for row in table), rel=1e-5)


# -- sentence models -------------------------------------------------------------------------------

SENTENCES = "sentence-classification"
HEAD_ONLY: dict[str, Any] = {"task": SENTENCES, "freeze": ("encoder.*",)}


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home/.cache/bayesgen/sentence_embeddings"


def test_a_frozen_encoder_reads_each_text_once_and_the_head_learns_the_same(
    bench: Bench, own_cache: Path
) -> None:
    start = bench.model(replace(TINY, **HEAD_ONLY)).module
    before = {name: p.clone() for name, p in start.named_parameters()}
    once = bench.trained("once", **HEAD_ONLY)
    assert isinstance(once.train_dataset, Embedded)
    each = bench.trainer("each", **HEAD_ONLY)  # from here on the same random numbers
    for name in ("train_dataset", "eval_dataset"):
        found = getattr(each, name)
        assert isinstance(found, Embedded)
        plain = Examples(found.data, found.tokenizer, found.max_length, apart=found.apart)
        setattr(each, name, plain)
    train(each, SENTENCES)
    assert len(list(own_cache.glob("*.safetensors"))) == 2
    # the head's dropout is drawn alike; the encoder's is off, else the losses would differ
    assert losses(once) == pytest.approx(losses(each), rel=1e-4)
    torch.testing.assert_close(weights(once), weights(each), rtol=1e-3, atol=1e-4)
    for name, after in once.model.named_parameters():
        assert torch.equal(before[name], after) == name.startswith("encoder."), name


def test_an_encoder_that_is_trained_in_part_reads_the_texts(bench: Bench, own_cache: Path) -> None:
    trainer = bench.trained(task=SENTENCES, freeze=("encoder.embeddings.*",), max_steps=2)
    assert type(trainer.train_dataset) is Examples
    assert not own_cache.exists()


def test_a_similarity_is_a_line_between_the_extreme_scores(bench: Bench) -> None:
    bench.data = write_scores(bench.path / "pairs.tsv", 40)
    trainer = bench.trained(task="sentence-similarity", num_train_epochs=3)
    scores = trainer.train_dataset.data.labels
    assert trainer.model.config.score_range == [scores.min(), scores.max()]
    table = curve(trainer.state.log_history)
    assert set(table[0]) == {"step", "epoch", "train_loss", "val_loss", "spearman", "pearson"}
    assert table[-1]["train_loss"] < table[0]["train_loss"]
    # by hand, one pair at a time
    errors = []
    for i in range(len(trainer.eval_dataset)):
        batch = trainer.eval_dataset.batch([i])
        label = batch.pop("labels")
        with torch.no_grad():
            errors.append(float(trainer.model.eval()(**batch).logits[0, 0] - label))
    best = min(row["val_loss"] for row in table)
    assert np.mean(np.square(errors)) == pytest.approx(best, rel=1e-4)


def test_the_range_of_the_scores_and_their_noise() -> None:
    data = labelled([("a", "b", 3.0), ("c", "d", 1.5), ("e", "f", 4.0)], task="regression")
    assert score_range(data) == [1.5, 4.0]
    with pytest.raises(UserError, match="all 2 scores are 3"):
        score_range(labelled([("a", "b", 3.0), ("c", "d", 3.0)], task="regression"))
    config = SimpleNamespace()
    assert set_noise(config, 0.25) == config.noise_std == 0.5
    assert set_noise(config, 0.0) > 0


def test_idle_checkpointing_of_a_frozen_encoder_is_refused(bench: Bench) -> None:
    with pytest.raises(UserError, match="`gradient_checkpointing` has no effect"):
        bench.trainer(gradient_checkpointing=True, **HEAD_ONLY)


def test_a_sentence_model_takes_less_memory_and_less_precision(tmp_path: Path) -> None:
    bench = Bench(tmp_path, dropout=0.0)
    options: dict[str, Any] = {"task": SENTENCES, "learning_rate": 1e-3, "max_steps": 3}
    heads = {"head_dropout": 0.0}
    plain = bench.trained("plain", **options, **heads)
    again = bench.trained("again", **options, **heads, gradient_checkpointing=True)
    torch.testing.assert_close(weights(plain), weights(again))
    rough = bench.trained("rough", **options, **heads, bf16=True)
    assert losses(rough) == pytest.approx(losses(plain), rel=0.02)
    assert losses(rough) != losses(plain)


def test_less_memory_and_less_precision_change_little(tmp_path: Path) -> None:
    bench = Bench(tmp_path, dropout=0.0)
    plain = bench.trained("plain", learning_rate=1e-3)
    again = bench.trained("again", learning_rate=1e-3, gradient_checkpointing=True)
    torch.testing.assert_close(weights(plain), weights(again))
    rough = bench.trained("rough", learning_rate=1e-3, bf16=True)
    assert losses(rough) == pytest.approx(losses(plain), rel=0.02)
    assert losses(rough) != losses(plain)
    assert weights(rough).dtype == torch.float32


def test_other_seeds_take_the_rows_in_another_order(bench: Bench) -> None:
    """Also not in that of the next epoch."""

    def orders(seed: int) -> list[list[int]]:
        loader = bench.trainer(seed=seed).get_train_dataloader()
        found = []
        for epoch in range(2):
            loader.set_epoch(epoch)
            found.append([i for rows in loader.batch_sampler for i in rows])
        return found

    first, second = orders(0), orders(1)
    assert orders(0) == first
    assert all(sorted(order) == list(range(32)) for order in first + second)
    assert len({tuple(order) for order in first + second}) == 4


def test_a_loss_that_is_not_finite_is_said(bench: Bench) -> None:
    with pytest.raises(UserError, match=r"not finite at step .*`learning_rate`"):
        bench.trained(learning_rate=1e38, max_grad_norm=0.0, warmup_steps=0)


class Signal(TrainerCallback):  # type: ignore[misc]
    """Arrives while step `step` is computed."""

    def __init__(self, step: int, stop: StopRequest) -> None:
        self.step, self.stop = step, stop

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step - 1:
            self.stop.signum = signal.SIGTERM


@pytest.mark.parametrize("eval_steps", [None, 4])
@pytest.mark.parametrize("step", [1, 2, 5])  # within an epoch, its last, the last of all
def test_a_signal_leaves_a_checkpoint_that_continues_exactly(
    bench: Bench, step: int, eval_steps: int | None
) -> None:
    settings = {"max_steps": 5, "gradient_accumulation_steps": 2, "eval_steps": eval_steps}
    whole = bench.trained("whole", **settings)
    stop = StopRequest()
    trainer = bench.trainer(stop=stop, **settings)
    trainer.add_callback(Signal(step, stop))
    with pytest.raises(Interrupted, match=rf"stopped by SIGTERM after step {step}; .*`resume="):
        train(trainer, TASK)
    last = last_checkpoint(bench.path / "out" / "work")
    assert last is not None
    assert last[1].global_step == step
    resumed = bench.trained(**settings)
    for one, other in zip(
        curve(whole.state.log_history), curve(resumed.state.log_history), strict=True
    ):
        assert one == pytest.approx(other, rel=1e-6)
    assert losses(resumed) == losses(whole)
    assert torch.equal(weights(resumed), weights(whole))


def test_patience_is_counted_on_after_a_stop(bench: Bench) -> None:
    still = {"learning_rate": 0.0, "num_train_epochs": 9, "early_stopping_patience": 2}
    stop = StopRequest()
    trainer = bench.trainer(stop=stop, **still)
    trainer.add_callback(Signal(9, stop))  # of four in an epoch
    with pytest.raises(Interrupted):
        train(trainer, TASK)
    assert len(losses(trainer)) == 2
    assert len(losses(bench.trained(**still))) == 3


@pytest.mark.parametrize("end", [{"early_stopping_patience": 1, "learning_rate": 0.3},
                                 {"max_steps": 6, "num_train_epochs": 3}])  # fmt: skip
def test_what_is_over_is_not_trained_again(bench: Bench, end: dict[str, Any]) -> None:
    settings = {"num_train_epochs": 9, "eval_steps": 2, **end}
    done = bench.trained(**settings)
    again = bench.trained(**settings)
    assert again.optimizer is None
    assert losses(again) == losses(done)
    assert torch.equal(weights(again), weights(done))


def test_a_checkpoint_that_was_cut_off_is_passed_over(bench: Bench) -> None:
    done = bench.trained(num_train_epochs=3)
    folder = bench.path / "out" / "work"
    kept = last_checkpoint(folder)
    assert kept is not None
    for number, content in ((90, None), (91, '{"global_step": 9')):
        (folder / f"checkpoint-{number}").mkdir()
        if content is not None:
            (folder / f"checkpoint-{number}" / "trainer_state.json").write_text(content)
    found = last_checkpoint(folder)
    assert found is not None
    assert found[0] == kept[0]
    assert found[1].global_step == done.state.global_step
    assert not list(folder.glob("checkpoint-9?"))
    assert json.loads((found[0] / "trainer_state.json").read_text())["log_history"]
