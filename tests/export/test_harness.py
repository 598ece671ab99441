"""EleutherAI's lm-evaluation-harness takes a saved posterior as it takes any model of transformers,
and its numbers are ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from bayesgen.draws import Draws
from bayesgen.models import FunctionalModel, ModelInfo
from bayesgen.predictive import Predictive

transformers = pytest.importorskip("transformers")
lm_eval = pytest.importorskip("lm_eval")
pytest.importorskip("peft")

from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from bayesgen.export import BayesianCausalLM  # noqa: E402

WORDS = [
    "<end>", "<unk>", "the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "and", "cat",
    "sat", "on", "mat", ".",
]  # fmt: skip
BLOCK = 16
TEXTS = ["the quick brown fox", " ".join(["the lazy dog sat on the mat . and the cat"] * 4)]
"""Of 4 and 44 tokens: the longer one is read in three windows."""
QUESTIONS = [
    {"question": "the quick brown", "choices": ["fox jumps", "mat", "lazy dog sat"], "label": 0},
    {"question": "the cat sat on the", "choices": ["mat", "over and"], "label": 1},
]


@pytest.fixture
def predictive() -> Predictive:
    """Three draws around a random GPT-2 that knows sixteen words."""
    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_positions=BLOCK, n_embd=16, n_layer=2, n_head=2, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        module = transformers.GPT2LMHeadModel(config)
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        model = FunctionalModel(
            module,
            lambda apply, batch: apply(input_ids=batch["input_ids"]).logits,
            info=ModelInfo("random", "huggingface"),
        )
        draws = model.theta + 0.3 * torch.randn(3, model.layout.size)
    return Predictive(model, Draws.from_draws(draws, model.layout))


@pytest.fixture
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")


def task(folder: Path, name: str, documents: list[dict[str, Any]], **settings: Any) -> None:
    """A task of the harness whose documents lie in a file beside it."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    content = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        **settings,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskManager:
    for variable in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(variable, "1")
    folder = tmp_path / "tasks"
    folder.mkdir()
    task(
        folder, "texts", [{"text": text} for text in TEXTS],
        output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}",
        metric_list=[{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    )  # fmt: skip
    task(
        folder, "questions", QUESTIONS,
        output_type="multiple_choice", doc_to_text="{{question}}", doc_to_choice="{{choices}}",
        doc_to_target="label", metric_list=[{"metric": "acc"}],
    )  # fmt: skip
    return TaskManager(include_path=str(folder), include_defaults=False)


def log_likelihood(predictive: Predictive, ids: list[int], scored: int) -> float:
    """log p of the last `scored` of `ids`, given those before them."""
    log_probs = predictive.log_probs({"input_ids": torch.tensor([ids[:-1]])})[0, -scored:]
    targets: Tensor = torch.tensor(ids[-scored:])
    return float(log_probs.gather(-1, targets[:, None]).sum())


@pytest.mark.parametrize("batch_size", [1, 3])
def test_its_numbers_are_ours(
    predictive: Predictive, tokenizer: Any, tasks: TaskManager, tmp_path: Path, batch_size: int
) -> None:
    made = BayesianCausalLM.from_posterior(predictive.model, predictive.posterior)
    made.save_pretrained(tmp_path / "posterior")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "posterior")
    found = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
        tasks=["texts", "questions"],
        task_manager=tasks,
        bootstrap_iters=0,
    )
    encoded = [tokenizer(text).input_ids for text in TEXTS]
    assert list(map(len, encoded)) == [4, 44]
    # the first token follows the end of a text; the last window is as long as the others
    nll = -log_likelihood(predictive, [0, *encoded[0]], 4)
    nll -= log_likelihood(predictive, [0, *encoded[1][:16]], 16)
    nll -= log_likelihood(predictive, encoded[1][15:32], 16)
    nll -= log_likelihood(predictive, encoded[1][27:], 12)
    scores = found["results"]["texts"]
    characters = sum(map(len, TEXTS))
    bits = nll / characters / torch.tensor(2.0).log().item()
    assert scores["bits_per_byte,none"] == pytest.approx(bits, abs=1e-4)
    expected = float(torch.tensor(nll / sum(map(len, encoded))).exp())
    assert scores["word_perplexity,none"] == pytest.approx(expected, rel=1e-4)

    right = []
    for sample, question in zip(found["samples"]["questions"], QUESTIONS, strict=True):
        context = tokenizer(question["question"]).input_ids
        choices = [tokenizer(choice).input_ids for choice in question["choices"]]
        ours = [log_likelihood(predictive, context + choice, len(choice)) for choice in choices]
        theirs = [response[0] for response in sample["filtered_resps"]]
        assert [float(value) for value in theirs] == pytest.approx(ours, abs=1e-4)
        right.append(max(range(len(ours)), key=ours.__getitem__) == question["label"])
    assert found["results"]["questions"]["acc,none"] == sum(right) / 2
