"""Text from runs and checkpoints: what is printed, the numbers beside it, and what is refused."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bayesgen.cli.main import run_command
from bayesgen.data.tokenizers import CharTokenizer
from bayesgen.models.nanogpt import GPT, GPTConfig, write_checkpoint
from tests.independent import independent_log_probs, states_of
from tests.workspace import BLOCK, furnished, scatter

LINES = "To be,  or not to be:\n\tthat is the question —\nwhether 'tis nobler\n" * 12
"""A text whose white space matters."""
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run` of 3 draws, `lines` of 12 on a text with line breaks, `young` of none."""
    path = tmp_path_factory.mktemp("shelf")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        workspace = furnished(path)
        assert workspace.train("sgld") == 0
        scatter(path / "run", 3, 0.3)
        (path / "lines.txt").write_text(LINES)
        tokenizer = CharTokenizer.from_text(LINES)
        torch.manual_seed(1)
        network = GPT(GPTConfig(BLOCK, tokenizer.vocab_size, 1, 2, 16, bias=False))
        write_checkpoint(
            path / "lines.pt", network, tokenizer,
            optimizer={}, iter_num=0, best_val_loss=0.0, config={},
        )  # fmt: skip
        lines = ("--model", "lines.pt", "--corpus", "lines.txt", "--out", "lines")
        assert workspace.train("sgld", *lines) == 0
        scatter(path / "lines", 12, 0.085)
    shutil.copytree(path / "run", path / "young")
    shutil.rmtree(path / "young" / "draws")
    (path / "prompt.txt").write_text("the lazy dog")
    (path / "greek.txt").write_text("Ωμέγα")
    (path / "empty.txt").write_text("")
    (path / "latin1.txt").write_bytes("café".encode("latin-1"))
    return path


@pytest.fixture(autouse=True)
def here(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shelf)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TERM", "xterm")
    for variable in ("FORCE_COLOR", "NO_COLOR", "COLORTERM", "DEVICE"):
        monkeypatch.delenv(variable, raising=False)


def printed(capsys: Capture, *argv: str) -> str:
    assert run_command("generate", list(argv)) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


def document(capsys: Capture, *argv: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(printed(capsys, *argv, "--json"))
    return content


def texts(content: dict[str, Any]) -> list[str]:
    return [text["continuation"] for text in content["texts"]]


def draws_of(shelf: Path) -> tuple[str, list[dict[str, torch.Tensor]]]:
    """The characters of the run's model, and the state dict of each of its draws."""
    checkpoint = torch.load(shelf / "model.pt", weights_only=True)
    record = json.loads((shelf / "run" / "run.json").read_text())
    characters: str = checkpoint["tokenizer"]["characters"]
    return characters, list(states_of(shelf / "run", record, checkpoint))


def next_log_probs(states: list[dict[str, torch.Tensor]], ids: list[int]) -> torch.Tensor:
    """log p(next | text, θ_s) [S, V], by no code of the package."""
    context = torch.tensor([ids[-BLOCK:]])
    return torch.stack([independent_log_probs(s, context)[0, -1] for s in states]).double()


# -- the numbers ---------------------------------------------------------------------------------


def test_the_numbers_beside_every_token_are_those_of_the_draws_on_disk(
    shelf: Path, capsys: Capture
) -> None:
    content = document(capsys, "run", "--prompt", "the cat", "--max-new-tokens", "12")
    assert content["source"] == "run"
    assert content["num_draws"] == 3
    assert content["settings"] == {
        "max_new_tokens": 12, "temperature": 1.0, "top_k": None, "top_p": None,
        "decode": "mixture", "seed": 0,
    }  # fmt: skip
    (text,) = content["texts"]
    assert (text["prompt"], text["draw"]) == ("the cat", None)
    assert text["continuation"] == "".join(token["text"] for token in text["tokens"])
    assert len(text["tokens"]) == 12
    characters, states = draws_of(shelf)
    ids = [characters.index(c) for c in "the cat"]
    own = torch.zeros(3, dtype=torch.float64)
    for token in text["tokens"]:
        each = next_log_probs(states, ids)
        mixture = each.exp().mean(0)
        total = float(-(mixture * mixture.log()).sum())
        aleatoric = float(-(each.exp() * each).sum(-1).mean())
        assert token["text"] == characters[token["id"]]
        assert token["log_prob"] == pytest.approx(float(mixture[token["id"]].log()), abs=1e-4)
        assert token["total"] == pytest.approx(total, abs=1e-4)
        assert token["aleatoric"] == pytest.approx(aleatoric, abs=1e-4)
        assert token["epistemic"] == pytest.approx(total - aleatoric, abs=1e-4)
        assert token["total"] == pytest.approx(token["aleatoric"] + token["epistemic"], abs=1e-6)
        own += each[:, token["id"]]
        ids.append(token["id"])
    for name, mean in text["mean"].items():
        assert mean == pytest.approx(sum(token[name] for token in text["tokens"]) / 12)
    assert text["mean"]["epistemic"] > 0.01
    whole = math.log(float(own.exp().mean())) - float(own.mean())
    assert text["epistemic_per_token"] == pytest.approx(whole / 12, abs=1e-4)


def test_the_most_probable_token_is_taken_at_temperature_0(shelf: Path, capsys: Capture) -> None:
    characters, states = draws_of(shelf)
    flags = ("run", "--prompt", "the cat", "--max-new-tokens", "10", "--num-texts", "3")
    greedy = document(capsys, *flags, "--temperature", "0")
    ids = [characters.index(c) for c in "the cat"]
    for _ in range(10):
        ids.append(int(next_log_probs(states, ids).exp().mean(0).argmax()))
    expected = "".join(characters[i] for i in ids[7:])
    assert texts(greedy) == [expected] * 3
    assert texts(document(capsys, *flags, "--top-k", "1")) == [expected] * 3
    assert texts(document(capsys, *flags, "--top-p", "0.001")) == [expected] * 3
    assert len(set(texts(document(capsys, *flags)))) == 3


def test_per_draw_texts_follow_one_draw_each(shelf: Path, capsys: Capture) -> None:
    flags = ("--decode", "per-draw", "--temperature", "0", "--max-new-tokens", "10")
    content = document(capsys, "run", "--prompt", "the", "--num-texts", "6", *flags)
    assert sorted(text["draw"] for text in content["texts"]) == [0, 0, 1, 1, 2, 2]
    characters, states = draws_of(shelf)
    for text in content["texts"]:
        ids = [characters.index(c) for c in "the"]
        for _ in range(10):
            ids.append(int(next_log_probs([states[text["draw"]]], ids)[0].argmax()))
        assert text["continuation"] == "".join(characters[i] for i in ids[3:])
    assert len(set(texts(content))) > 1
    shown = printed(capsys, "run", "--prompt", "the", "--num-texts", "2", *flags)
    for i, text in enumerate(content["texts"][:2], start=1):
        assert f"--- text {i} of 2, draw {text['draw']}\nthe{text['continuation']}\n" in shown


def test_strategies_give_the_same_text(capsys: Capture) -> None:
    flags = (
        "run",
        "--prompt",
        "the cat",
        "--prompt",
        "fox",
        "--max-new-tokens",
        "12",
        "--strategy",
    )
    stacked, cached, plain = (
        document(capsys, *flags, strategy) for strategy in ("stacked", "cached", "plain")
    )
    assert texts(stacked) == texts(cached) == texts(plain)


def test_the_seed_decides_the_text(capsys: Capture) -> None:
    flags = ("run", "--prompt", "the cat", "--max-new-tokens", "20")
    one, again, other = (document(capsys, *flags, "--seed", seed) for seed in ("1", "1", "2"))
    assert one == again
    assert texts(one) != texts(other)


def test_draws_are_as_many_as_asked_for_and_ten_otherwise(capsys: Capture) -> None:
    flags = ("--prompt", "To be", "--max-new-tokens", "2")
    assert document(capsys, "lines", *flags)["num_draws"] == 10
    assert document(capsys, "lines", *flags, "--num-draws", "12")["num_draws"] == 12
    (text,) = document(capsys, "lines", *flags, "--num-draws", "1")["texts"]
    assert max(token["epistemic"] for token in text["tokens"]) < 1e-6


def test_a_draw_is_known_by_its_place_in_the_run(capsys: Capture) -> None:
    flags = ("lines", "--prompt", "To be", "--decode", "per-draw", "--num-texts", "4")
    content = document(capsys, *flags, "--num-draws", "4", "--max-new-tokens", "2")
    assert sorted(text["draw"] for text in content["texts"]) == [0, 4, 7, 11]
    shown = printed(capsys, *flags, "--num-draws", "4", "--max-new-tokens", "2")
    places = [int(place) for place in re.findall(r"^--- text . of 4, draw (\d+)$", shown, re.M)]
    assert places == [text["draw"] for text in content["texts"]]


def test_a_checkpoint_generates_like_a_run(shelf: Path, capsys: Capture) -> None:
    content = document(capsys, "model.pt", "--prompt", "the cat", "--max-new-tokens", "10")
    assert content["source"] == "model.pt"
    assert content["num_draws"] == 1
    checkpoint = torch.load(shelf / "model.pt", weights_only=True)
    characters = checkpoint["tokenizer"]["characters"]
    (text,) = content["texts"]
    ids = [characters.index(c) for c in "the cat"]
    for token in text["tokens"]:
        log_prob = next_log_probs([checkpoint["model"]], ids)[0, token["id"]]
        assert token["log_prob"] == pytest.approx(float(log_prob), abs=1e-4)
        assert token["epistemic"] == pytest.approx(0, abs=1e-6)
        ids.append(token["id"])
    assert text["epistemic_per_token"] == 0
    assert text["continuation"] in printed(
        capsys, "model.pt", "--prompt", "the cat", "--max-new-tokens", "10"
    )


def test_a_model_that_has_moved_is_named(shelf: Path, capsys: Capture, tmp_path: Path) -> None:
    moved = tmp_path / "best.pt"
    shutil.copy(shelf / "model.pt", moved)
    flags = ("run", "--prompt", "the cat", "--max-new-tokens", "5")
    assert document(capsys, *flags, "--model", str(moved)) == document(capsys, *flags)


# -- what is printed -----------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["To be,  or", "not\n\tthat", "question —\n", "  ", None])
def test_the_text_is_printed_as_it_is(prompt: str | None, capsys: Capture) -> None:
    flags = ["lines", "--max-new-tokens", "90", "--seed", "3", "--num-draws", "2"]
    flags += [] if prompt is None else ["--prompt", prompt]
    (text,) = document(capsys, *flags)["texts"]
    assert text["prompt"] == ("\n" if prompt is None else prompt)
    assert {"\n", "\t", " "} < set(text["continuation"])
    shown = printed(capsys, *flags)
    whole, _, numbers = shown.rpartition("\n\n")
    assert whole == text["prompt"] + text["continuation"]
    mean = text["mean"]
    assert numbers.startswith(
        f"90 tokens; a token: log p {mean['log_prob']:.3f}, entropy {mean['total']:.3f}"
    )
    assert f"{text['epistemic_per_token']:.4f} epistemic nats a token" in numbers


def test_a_prompt_can_come_from_a_file(capsys: Capture) -> None:
    flags = ("run", "--max-new-tokens", "5")
    content = document(capsys, *flags, "--prompt-file", "prompt.txt")
    assert content == document(capsys, *flags, "--prompt", "the lazy dog")


def test_each_prompt_is_continued_as_often_as_asked(capsys: Capture) -> None:
    flags = (
        "run",
        "--prompt",
        "the cat",
        "--prompt",
        "fox",
        "--num-texts",
        "2",
        "--max-new-tokens",
        "6",
    )
    content = document(capsys, *flags)
    assert [text["prompt"] for text in content["texts"]] == ["the cat", "the cat", "fox", "fox"]
    assert len(set(texts(content))) == 4
    shown = printed(capsys, *flags)
    places = [
        shown.index(f"--- text {i} of 4\n{text['prompt']}{text['continuation']}\n")
        for i, text in enumerate(content["texts"], start=1)
    ]
    assert places == sorted(places)
    assert shown.count("6 tokens; a token:") == 4


def test_json_is_readable_where_letters_are_not_plain(capsys: Capture) -> None:
    shown = printed(capsys, "lines", "--prompt", "—", "--max-new-tokens", "2", "--json")
    assert '"prompt": "—"' in shown
    assert len(shown.splitlines()) == 1


CODES = {"39": (0, 0.01), "32": (0.01, 0.03), "33": (0.03, 0.1), "31": (0.1, math.inf)}
"""ANSI colour -> epistemic uncertainty that it stands for, nats."""


def test_colours_say_how_much_the_draws_disagree_in_a_terminal_only(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    for source in (("lines",), ("lines", "--num-draws", "2"), ("run",)):
        flags = (*source, "--prompt", "the", "--max-new-tokens", "40")
        assert "\x1b" not in printed(capsys, *flags)
        (expected,) = document(capsys, *flags)["texts"]
        with monkeypatch.context() as patch:
            patch.setenv("FORCE_COLOR", "1")
            shown = printed(capsys, *flags)
        legend, rest = shown.split("\n\n", 1)
        assert legend.startswith("epistemic uncertainty, nats: ")
        assert re.findall(r"\x1b\[(3\d)m([^\x1b]*)", legend) == [
            ("39", "below 0.01  "), ("32", "below 0.03  "), ("33", "below 0.1  "),
            ("31", "0.1 and more  "),
        ]  # fmt: skip
        for token in expected["tokens"]:
            if token["text"] == "\n":
                continue  # has no colour
            piece = re.search(r"\x1b\[(3\d)m([^\x1b]+)\x1b\[0m", rest)
            assert piece is not None
            rest = rest[piece.end() :]
            low, high = CODES[piece[1]]
            assert piece[2].strip("\n") == token["text"].expandtabs()
            assert low <= token["epistemic"] < high
            seen.add(piece[1])
    assert len(seen) > 2


def test_one_set_of_weights_has_no_legend(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = printed(capsys, "model.pt", "--prompt", "the cat", "--max-new-tokens", "3")
    assert "epistemic uncertainty, nats" not in shown


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "the following arguments are required: RUN"),
        (["run", "lines"], "unexpected argument 'lines'"),
        (["run", "--prompt", ""], "--prompt: the prompt is empty"),
        (["run", "--prompt", "the cat", "--prompt", ""], "--prompt: the prompt is empty"),
        (["run", "--prompt-file", "empty.txt"], "--prompt-file: the prompt is empty"),
        (["run", "--prompt-file", "gone.txt"], "'gone.txt' No such file"),
        (["run", "--prompt-file", "latin1.txt"], "'latin1.txt' is not UTF-8 text"),
        (["run", "--prompt-file", "greek.txt"], "--prompt-file: the character 'Ω'"),
        (["run", "--prompt", "a", "--prompt-file", "prompt.txt"], "give one of them"),
        (["run", "--prompt", "the Ω"], "--prompt: the character 'Ω' at position 4"),
        (["run"], r"--prompt (the default, a line break; give one): the character '\n' at"),
        (["run", "--prompt", "a", "--num-draws", "4"], "--num-draws 4: 'run' has only 3 draws"),
        (["model.pt", "--prompt", "a", "--num-draws", "2"], "'model.pt' has only 1 draw"),
        (["run", "--prompt", "a", "--num-draws", "0"], "--num-draws must be at least 1"),
        (["run", "--prompt", "a", "--num-texts", "0"], "--num-texts must be at least 1"),
        (["run", "--prompt", "a", "--max-new-tokens", "0"], "--max-new-tokens must be at least 1"),
        (["run", "--prompt", "a", "--top-k", "0"], "--top-k must be at least 1"),
        (["run", "--prompt", "a", "--top-p", "0"], "--top-p must be above 0"),
        (["run", "--prompt", "a", "--top-p", "1.5"], "--top-p must be at most 1"),
        (["run", "--prompt", "a", "--temperature", "-0.5"], "--temperature must be at least 0"),
        (["run", "--prompt", "a", "--temperature", "nan"], "--temperature must be a finite number"),
        (["run", "--prompt", "a", "--decode", "beam"], "--decode: invalid choice"),
        (["run", "--prompt", "a", "--strategy", "fast"], "--strategy: invalid choice"),
        (["run", "--promt", "a"], "did you mean --prompt?"),
        (["run", "--prompt", "a", "--device", "toaster"], "--device"),
        (["young", "--prompt", "a"], "'young' has no draws yet"),
        (["gone.pt", "--prompt", "a"], "'gone.pt' is not there"),
        (["no/such/run", "--prompt", "a"], "'no/such/run'"),
        (["lines.txt", "--prompt", "a"], "lines.txt"),
        (["model.pt", "--prompt", "a", "--model", "lines.pt"], "--model goes with a run"),
        (["run", "--prompt", "a", "--model", "lines.pt"], "is not the model that the run 'run'"),
    ],
)
def test_bad_input_is_one_line(argv: list[str], says: str, capsys: Capture) -> None:
    assert run_command("generate", argv) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.strip().splitlines()
    assert line.startswith("error: ")
    assert says in line
