"""`bayesgen export`: a folder that transformers loads, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bayesgen.cli.main import run_command
from tests.independent import independent_log_probs, states_of
from tests.workspace import BLOCK, Workspace, furnished, scatter

transformers = pytest.importorskip("transformers")
huggingface_hub = pytest.importorskip("huggingface_hub")
pytest.importorskip("peft")

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run`, a scored run of 4 draws over a nanoGPT; `young`, one without draws."""
    path = tmp_path_factory.mktemp("shelf")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        workspace = furnished(path)
        assert workspace.train("sgld", "--temperature", "0.5") == 0
        scatter(path / "run", 4, 0.3)
        assert run_command("evaluate", ["run"]) == 0
    shutil.copytree(path / "run", path / "young")
    shutil.rmtree(path / "young" / "draws")
    (path / "full").mkdir()
    (path / "full" / "file").write_text("here")
    return path


@pytest.fixture(autouse=True)
def here(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shelf)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for variable in ("MODEL_PATH", "META_PATH"):
        monkeypatch.delenv(variable, raising=False)


def loaded(folder: Path) -> Any:
    import bayesgen.export  # noqa: F401

    return transformers.AutoModelForCausalLM.from_pretrained(folder)


def code_of(folder: Path) -> str:
    """The code in a model card, which finds the folder where it lies."""
    found = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_a_nanogpt_run_becomes_a_folder_with_the_same_mixture(
    shelf: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "posterior"
    assert run_command("export", ["run", "--out", str(out)]) == 0
    assert f"4 draws of GPT2LMHeadModel in {out}" in capsys.readouterr().out
    model = loaded(out)
    text = "the lazy"
    checkpoint = torch.load(shelf / "model.pt", weights_only=True)
    ids = torch.tensor([[checkpoint["tokenizer"]["characters"].index(c) for c in text]])
    record = json.loads((shelf / "run" / "run.json").read_text())
    states = list(states_of(shelf / "run", record, checkpoint))
    each = torch.stack([independent_log_probs(state, ids) for state in states]).double()
    with torch.no_grad():
        logits = model(ids).logits.double()
    torch.testing.assert_close(logits, each.exp().mean(0).log(), rtol=0, atol=1e-4)

    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer(text).input_ids == ids[0].tolist()
    assert tokenizer.decode(ids[0]) == text
    assert tokenizer.model_max_length == BLOCK
    assert [path.name for path in out.parent.iterdir()] == ["posterior"]


def test_the_card_tells_of_the_run_and_its_code_works(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        run_command("export", ["run", "--out", str(tmp_path)]) == 0
    )  # empty, so it may be written to
    record = json.loads(Path("run/run.json").read_text())
    (report,) = Path("run").glob("bayesian_eval_*[0-9].json")
    val = json.loads(report.read_text())["splits"]["val"]
    card = (tmp_path / "README.md").read_text()
    assert "# A sgld posterior over a gpt2 network" in card
    assert "4 draws of" in card
    assert "| sampler | sgld, temperature 0.5 |" in card
    assert f"sha256 {record['model']['sha256']}" in card
    assert f"| observations N | {record['num_observations']:,} |" in card
    assert "batch_size = 4" in card
    assert "## Scores on val (4 draws)" in card
    scores = val["predictors"]["bma"]
    assert f"| bma | {scores['perplexity']:.4f} | {scores['nll']:.4f} |" in card
    data = huggingface_hub.ModelCard(card).data
    assert data.pipeline_tag == "text-generation"
    assert data.eval_results[0].metric_value == pytest.approx(scores["nll"])

    monkeypatch.chdir(tmp_path)
    code = code_of(tmp_path)
    for shipped, fitting in (('"The"', '"the"'), ("max_new_tokens=20", "max_new_tokens=5")):
        assert shipped in code
        code = code.replace(shipped, fitting)  # 8 tokens are all that this model reads
    capsys.readouterr()
    exec(code, {})
    shown = capsys.readouterr().out
    assert shown.startswith("the")
    assert "tensor([[" in shown


def test_fewer_draws_are_evenly_spaced_and_borrow_no_scores(tmp_path: Path) -> None:
    out = tmp_path / "two"
    assert run_command("export", ["run", "--out", str(out), "--num-draws", "2"]) == 0
    assert run_command("export", ["run", "--out", str(tmp_path / "all")]) == 0
    few, every = loaded(out), loaded(tmp_path / "all")
    assert torch.equal(few.draws, every.draws[[0, 3]])
    card = (out / "README.md").read_text()
    assert "## Scores on val (4 draws)" in card
    assert "model-index" not in card


def test_a_checkpoint_alone_is_a_posterior_of_one_draw(tmp_path: Path) -> None:
    assert run_command("export", ["model.pt", "--out", str(tmp_path / "one")]) == 0
    model = loaded(tmp_path / "one")
    assert len(model.draws) == 1
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        expected = model.network(ids).logits.log_softmax(-1)
        torch.testing.assert_close(model(ids).logits, expected)


def test_a_hugging_face_run_keeps_its_network_and_tokenizer(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = sorted({"<unk>", *(workspace.path / "corpus.txt").read_text().split()})
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=16, hidden_size=16,
        intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained("hf")
    tokenizer.save_pretrained("hf")
    assert workspace.train("sgld", "--model", "hf", "--parameters", "last-layer") == 0
    shutil.move("hf", "moved")
    assert run_command("export", ["run", "--out", "posterior", "--model", "moved"]) == 0
    model = loaded(Path("posterior"))
    assert type(model.network) is transformers.LlamaForCausalLM
    assert model.layout.names == ("lm_head.weight",)
    found = transformers.AutoTokenizer.from_pretrained("posterior")
    assert found("the quick cat").input_ids == tokenizer("the quick cat").input_ids


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["run"], "--out: name the folder to write"),
        (["run", "--out", "full"], "--out: 'full' already exists"),
        (["run", "--out", "corpus.txt"], "--out: 'corpus.txt' already exists"),
        (["run", "--out", "new", "--num-draws", "5"], "--num-draws 5: 'run' has only 4 draws"),
        (["run", "--out", "new", "--num-draws", "0"], "--num-draws must be at least 1"),
        (["young", "--out", "new"], "no draws yet"),
        (["nowhere", "--out", "new"], "nowhere"),
        (["run", "--out", "new", "--draws", "3"], "unknown flag --draws"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    argv: list[str], words: str, shelf: Path, capsys: Capture
) -> None:
    assert run_command("export", argv) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    line = shown.err.splitlines()[-1]
    assert line.startswith("error: ")
    assert words in line
    assert "Traceback" not in shown.err
    assert not (shelf / "new").exists()
    assert (shelf / "full" / "file").read_text() == "here"
