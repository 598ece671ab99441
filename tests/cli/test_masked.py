"""Networks that predict masked tokens go through the same doors as any language model."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bayesgen.cli.main import run_command
from bayesgen.inference.registry import SAMPLERS
from bayesgen.inference.sampler import Sampler
from tests.masked import TEXT, bert_tokenizer, save_bert, save_xlnet, xlnet_tokenizer

transformers = pytest.importorskip("transformers")

MODELS = {"masked-lm": "bert", "permutation-lm": "xlnet"}
CHAIN = ("--warmup-steps", "4", "--sampling-steps", "8", "--thinning", "2",
         "--preconditioner-batches", "3")  # fmt: skip
PASS = ("--train-samples", "8", "--epochs", "1", "--parameters", "head")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shelf")
    save_bert(path / "bert")
    save_bert(path / "encoder", head=False)
    save_xlnet(path / "xlnet")
    (path / "text.txt").write_text(TEXT)
    (path / "far.txt").write_text("dog the over small by near on\nmat and sat\n" * 16)
    return path


@pytest.fixture
def here(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that sees the shelf."""
    for found in shelf.iterdir():
        (tmp_path / found.name).symlink_to(found)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def run(shelf: Path) -> Path:
    """A finished run of masked-lm."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shelf)
        assert train("sgld", "masked-lm", "--out", "finished") == 0
    return shelf / "finished"


def train(sampler: str, task: str, *flags: str) -> int:
    """The training command, a few steps long; later flags win."""
    short = CHAIN if hasattr(SAMPLERS[sampler].settings, "thinning") else PASS
    if sampler == "swag":
        short = (*CHAIN[:6], "--rank", "2")
    return run_command(
        "train",
        ["--sampler", sampler, "--task", task, "--model", MODELS[task], "--corpus", "text.txt",
         "--block-size", "16", "--batch-size", "4", "--out", "run", *short, *flags],
    )  # fmt: skip


def record(run: str = "run") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(run) / "run.json").read_text())
    return content


def evaluation(run: str = "run") -> dict[str, Any]:
    newest = sorted(Path(run).glob("bayesian_eval_*[0-9].json"))[-1]
    content: dict[str, Any] = json.loads(newest.read_text())
    return content


def by_hand(task: str, run: str) -> list[Tensor]:
    """log p(masked token) under the network and each draw, by plain transformers: [n] each.

    The masks are found anew: the collator under the stream of the row's place in the text.
    """
    from bayesgen.data.windows import ROW_MASKS, stream

    masked = task == "masked-lm"
    text = TEXT[int(len(TEXT) * 0.9) :]
    tokenizer = bert_tokenizer() if masked else xlnet_tokenizer()
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    if masked:
        network = transformers.AutoModelForMaskedLM.from_pretrained("bert").eval()
        collator = transformers.DataCollatorForLanguageModeling(tokenizer)
    else:
        network = transformers.XLNetLMHeadModel.from_pretrained("xlnet").eval()
        collator = transformers.DataCollatorForPermutationLanguageModeling(tokenizer)
    parameters = dict(network.named_parameters())
    thetas: list[Tensor | None] = [None]
    thetas += [load_file(p)["draws"][0] for p in sorted(Path(run, "draws").glob("*.safetensors"))]
    found = []
    for theta in thetas:
        for p in record(run)["parameters"] if theta is not None else ():
            assert theta is not None
            value = theta[p["offset"] : p["offset"] + math.prod(p["shape"])].view(p["shape"])
            parameters[p["name"]].data.copy_(value)
        said = []
        for row, start in enumerate(range(0, len(tokens), 14)):
            piece = tokens[start : start + 14]
            ids = [2, *piece, 3] if masked else [*piece, 4, 3]
            if len(ids) < 16 and not masked:
                continue
            window = torch.tensor([ids + [0] * (16 - len(ids))])
            for attempt in range(100):
                torch.manual_seed(stream(0, ROW_MASKS, row, attempt))
                inputs = dict(collator(list(window)))
                labels = inputs.pop("labels")
                if (labels != -100).any():
                    break
            if masked:
                inputs["attention_mask"] = (window != 0).long()
            with torch.no_grad():
                log_probs = network(**inputs).logits.double().log_softmax(-1)
            seen = labels != -100
            said.append(log_probs[seen].gather(-1, labels[seen][:, None])[:, 0])
        found.append(torch.cat(said))
    return found


@pytest.mark.parametrize(("sampler", "task"), [("sghmc", "masked-lm"), ("sgld", "permutation-lm")])
def test_the_mixture_is_that_of_plain_transformers(sampler: str, task: str, here: Path) -> None:
    flags = ("--eval", "--eval-splits", "val", "train", "--eval-batch-size", "3")
    assert train(sampler, task, *flags, "--learning-rate", "0.05") == 0
    deterministic, *draws = by_hand(task, "run")
    assert len(draws) == 4
    report = evaluation()["splits"]["val"]
    assert report["num_tokens"] == len(deterministic)
    predictors = report["predictors"]
    nll = -float(deterministic.mean())
    assert predictors["deterministic"]["nll"] == pytest.approx(nll, abs=1e-5)
    assert predictors["deterministic"]["perplexity"] == pytest.approx(math.exp(nll), rel=1e-4)
    mixture = torch.stack(draws).logsumexp(0) - math.log(4)
    assert predictors["bma"]["nll"] == pytest.approx(-float(mixture.mean()), abs=1e-5)
    alone = -float(torch.stack(draws).mean())
    assert predictors["mean_of_draws"]["nll"] == pytest.approx(alone, abs=1e-5)
    assert alone > predictors["bma"]["nll"]
    assert report["entropy"]["epistemic"] > 0
    assert predictors["temperature_scaled"]["nll"] != pytest.approx(nll, abs=1e-6)

    words = TEXT[: int(len(TEXT) * 0.9)].split()
    count = len(words) if task == "masked-lm" else len(words) // 14 * 14
    share = 0.15 if task == "masked-lm" else 1 / 6
    assert record()["num_observations"] == round(share * count)


def interrupted(step: int, patch: pytest.MonkeyPatch) -> None:
    """A real signal in the middle of the `step`-th update."""
    update, taken = Sampler.update, 0

    def counted(self: Sampler, state: object, batch: object) -> object:
        nonlocal taken
        taken += 1
        if taken == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, state, batch)  # type: ignore[arg-type]

    patch.setattr(Sampler, "update", counted)


@pytest.mark.parametrize("task", MODELS)
def test_a_run_that_was_stopped_has_the_same_draws(
    task: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train("sghmc", task) == 0
    with monkeypatch.context() as patch:
        interrupted(7, patch)
        assert train("sghmc", task, "--out", "parts") == 128 + signal.SIGTERM
    assert train("sghmc", task, "--out", "parts", "--resume", "parts") == 0
    whole, parts = (sorted((here / run / "draws").iterdir()) for run in ("run", "parts"))
    assert [path.name for path in whole] == [path.name for path in parts]
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(load_file(one)["draws"], load_file(other)["draws"])


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name not in ("sghmc", "sgld")])
def test_every_sampler_works_on_masked_tokens(sampler: str, here: Path) -> None:
    assert train(sampler, "masked-lm", "--eval", "--eval-max-samples", "2") == 0
    assert evaluation()["splits"]["val"]["predictors"]["bma"]["nll"] > 0


def test_train_samples_are_windows(here: Path) -> None:
    assert train("sgld", "masked-lm", "--train-samples", "10") == 0
    assert record()["num_observations"] in (20, 21)  # a window may be the short last one


def test_an_encoder_gets_a_head_that_is_trained_along(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--model", "encoder", "--eval", "--eval-max-samples", "4")
    assert train("swag", "masked-lm", *flags, "--learning-rate", "0.01") == 0
    shown = capsys.readouterr().err
    assert "'encoder' has no trained weights for cls.predictions.bias, " in shown
    assert "they start at random and are trained along." in shown
    assert "finetune" not in shown
    names = [p["name"] for p in record()["parameters"]]
    assert "cls.predictions.bias" in names
    assert "cls.predictions.decoder.weight" not in names  # tied to the word embeddings
    assert train("swag", "masked-lm", "--model", "encoder", "--resume", "run") == 0
    capsys.readouterr()
    assert train("sgld", "masked-lm", "--model", "encoder", "--parameters", "layers=-1:",
                 "--out", "frozen") == 0  # fmt: skip
    assert "and some stay there: take all of them into --parameters (head)." in (
        capsys.readouterr().err
    )


def test_it_is_scored_again_with_a_far_text_and_one_of_its_own(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("sghmc", "masked-lm", "--eval") == 0
    before = evaluation()
    assert run_command("evaluate", ["run"]) == 0
    assert evaluation()["splits"] == before["splits"]  # the same masks
    assert run_command("evaluate", ["run", "--ood-corpus", "far.txt", "--text", "far.txt"]) == 0
    found = evaluation()["splits"]
    assert set(found) == {"val", "text"}
    assert found["val"]["predictors"] == before["splits"]["val"]["predictors"]
    assert 0 <= found["val"]["ood"]["scores"]["bma_epistemic"]["auroc"]["estimate"] <= 1
    shown = capsys.readouterr().out
    assert f"text.txt, val: {found['val']['num_tokens']} target tokens" in shown


def test_runs_that_predict_other_tokens_are_not_compared(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task, name in MODELS.items():
        assert train("sgld", task, "--out", f"of_{name}") == 0
    capsys.readouterr()
    assert run_command("evaluate", ["of_bert", "of_xlnet", "--eval-max-samples", "2"]) == 0
    shown = capsys.readouterr().err
    assert "warning: the runs are of different tasks (masked-lm, permutation-lm)" in shown


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["generate", "run", "--prompt", "the"], "'run': a masked-lm model cannot generate"),
        (["export", "run", "--out", "posterior"], "'run' is a run of masked-lm: causal language"),
        (["similarity", "run", "--pair", "the", "cat"], "'run' is a run of masked-lm; embeddings"),
        (
            ["evaluate", "run", "--eval-num-text-samples", "2"],
            "a masked-lm model cannot generate",
        ),
        (["evaluate", "run", "--ood-data", "rows.tsv"], "--ood-data is for classifiers"),
        (["evaluate", "run", "--text", "short.txt"], "the --text split has 3 tokens, too few"),
    ],
)
def test_what_it_cannot_do_is_one_line(
    command: list[str], says: str, run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "short.txt").write_text("the cat sat")
    shutil.copytree(run, here / "run")
    capsys.readouterr()
    assert run_command(command[0], command[1:]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert says in shown.err.splitlines()[-1]
    assert shown.err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("task", "flags", "says"),
    [
        ("masked-lm", ["--data", "rows.tsv"], "--data needs --task sequence-classification"),
        ("masked-lm", ["--model", "xlnet"], "--task masked-lm: 'xlnet' is a model of type xlnet"),
        ("permutation-lm", ["--model", "bert"], "'bert' is a model of type bert"),
        ("permutation-lm", ["--block-size", "15"], "--block-size 15: permutation-lm permutes"),
        ("masked-lm", ["--block-size", "64"], "exceeds the model's longest context, 32"),
        ("masked-lm", ["--block-size", "2"], "the special tokens alone are 2"),
        ("masked-lm", ["--corpus", "short.txt"], "the train split has 3 tokens, too few"),
        ("masked-lm", ["--model", "maskless"], "'maskless' has no mask token"),
        ("masked-lm", ["--model", "bare"], "'bare' has no tokenizer"),
        ("masked-lm", ["--train-samples", "100"], "--train-samples 100: the train split has "),
        ("masked-lm", ["--eval", "--eval-num-text-samples", "1"], "cannot generate text; leave it"),
        ("masked-lm", ["--corpus", "ag_new"], "did you mean ag_news?"),
    ],
)
def test_bad_input_is_one_line(
    task: str, flags: list[str], says: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "short.txt").write_text("the cat sat")
    for name in ("maskless", "bare"):
        (here / name).mkdir()
        for file in ("config.json", "model.safetensors"):
            (here / name / file).symlink_to(here / "bert" / file)
    tokenizer = bert_tokenizer()
    tokenizer.mask_token = None
    tokenizer.save_pretrained(here / "maskless")
    capsys.readouterr()
    assert train("sgld", task, *flags) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    (line,) = [line for line in lines if not line.startswith("Loading")]
    assert line.startswith("error: ")
    assert says in line
    assert not (here / "run").exists()


def test_texts_of_labelled_rows_are_a_corpus(here: Path) -> None:
    rows = [f"{line}\t{i % 2}" for i, line in enumerate(TEXT.splitlines() * 4)]
    (here / "rows.tsv").write_text("\n".join(["text\tlabel", *rows]))
    assert train("sgld", "masked-lm", "--corpus", "rows.tsv", "--eval") == 0
    assert record()["data"]["name"] == "rows.tsv"
    assert record()["data"]["train_tokens"] == 144 * 17
    assert record()["data"]["val_tokens"] == 16 * 17  # a tenth of the rows
    assert evaluation()["corpus"]["sha256"] == record()["data"]["sha256"]
