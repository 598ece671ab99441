"""What the passes kept is what they found, known by what it depends on, or is not there."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bayesgen.data.windows import Windows
from bayesgen.draws import Draws
from bayesgen.errors import UserError
from bayesgen.evaluation import cache as caching
from bayesgen.evaluation import run_passes
from bayesgen.evaluation.cache import TokenCache
from bayesgen.evaluation.walk import Split
from bayesgen.models import FunctionalModel, ModelInfo
from bayesgen.models.nanogpt import GPT, GPTConfig
from bayesgen.predictive import Forward, Predictive

TOKENS = np.random.default_rng(0).integers(0, 11, 61).astype(np.uint16)
WINDOWS = Windows.tiled(TOKENS, 8)
HELD_IN = Windows.tiled(TOKENS[::-1], 8)
DRAWS = 4


@pytest.fixture
def predictive(tiny_gpt: FunctionalModel) -> Predictive:
    generator = torch.Generator().manual_seed(2)
    noise = 0.3 * torch.randn(DRAWS, tiny_gpt.layout.size, generator=generator)
    return Predictive(tiny_gpt, Draws.from_draws(tiny_gpt.theta + noise, tiny_gpt.layout))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "token_scores"


def names(folder: Path) -> set[str]:
    """Every file in the folder, hidden ones too."""
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def the(folder: Path, suffix: str) -> Path:
    (found,) = folder.glob(f"*{suffix}")
    return found


def same(one: Any, other: Any) -> bool:
    """Equal in every bit, type and name."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(v, other[k]) for k, v in one.items())
    return bool(one == other)


def scored(predictive: Predictive, folder: Path | None, **options: Any) -> Any:
    kept = None if folder is None else TokenCache(folder)
    return run_passes(predictive, WINDOWS, HELD_IN, cache=kept, **options)[0]


def test_what_is_read_is_what_was_found(predictive: Predictive, folder: Path) -> None:
    expected = scored(predictive, None)
    assert same(scored(predictive, folder), expected)
    key = the(folder, ".npy").stem
    assert names(folder) == {f"{key}.npy", f"{key}.safetensors"}
    assert same(TokenCache(folder).read(key), expected)
    assert TokenCache(folder).read("another") is None
    assert not same(expected, replace(expected, temperature=expected.temperature + 1e-9))


@pytest.mark.parametrize("options", [{}, {"batch_size": 3}, {"max_windows": 3}])
def test_the_array_holds_every_token_under_every_draw(
    options: dict[str, int], predictive: Predictive, folder: Path
) -> None:
    passes = scored(predictive, folder, **options)
    each = np.load(the(folder, ".npy"))
    chosen = np.linspace(0, len(WINDOWS) - 1, options.get("max_windows", len(WINDOWS))).round()
    expected = []
    for theta in predictive.posterior:
        row = []
        for i in chosen.astype(int):
            piece = torch.tensor(TOKENS[8 * i : 8 * i + 9].astype(np.int64))
            logits = predictive.model(theta, {"input_ids": piece[None, :-1]})[0]
            row.append(logits.log_softmax(-1).gather(-1, piece[1:, None])[:, 0])
        expected.append(torch.cat(row).numpy())
    assert each.dtype == np.float32
    np.testing.assert_allclose(each, np.stack(expected), rtol=0, atol=1e-5)
    mixture = np.log(np.exp(each.astype(np.float64)).mean(0))
    np.testing.assert_allclose(mixture, passes.said["bma"].tokens.log_likelihood, rtol=0, atol=1e-5)
    assert passes.draws["nll"] == pytest.approx(-each.mean(dtype=np.float64), abs=1e-6)


def test_blocks_of_windows_are_put_side_by_side(
    predictive: Predictive, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(predictive, folder)
    whole = np.load(the(folder, ".npy"))
    monkeypatch.setattr("bayesgen.evaluation.classes.MAX_ELEMENTS", 200)  # two windows at once
    scored(predictive, folder / "blocks")
    np.testing.assert_allclose(np.load(the(folder / "blocks", ".npy")), whole, rtol=0, atol=1e-5)


TWO = torch.arange(8.0).view(2, 4)


def network(shift: float = 0.0, sha256: str | None = None) -> FunctionalModel:
    """A GPT whose first weight is moved by `shift`."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        module = GPT(GPTConfig(8, 11, n_layer=1, n_head=2, n_embd=8, bias=False))
        next(module.parameters())[0, 0] += shift
    return FunctionalModel(module, block_size=8, info=ModelInfo(sha256=sha256))


def three(shift: float = 0.0) -> torch.Tensor:
    """Three draws for it, one number of the last moved by `shift`."""
    draws = torch.randn(3, network().layout.size, generator=torch.Generator().manual_seed(1))
    draws[-1, -1] += shift
    return draws


def key(
    windows: Windows = WINDOWS,
    held_in: Windows = HELD_IN,
    draws: torch.Tensor | None = None,
    model: FunctionalModel | None = None,
    precision: Any = "fp32",
    batch_size: int = 64,
    max_windows: int | None = None,
) -> str:
    model = model or network()
    posterior = Draws.from_draws(three() if draws is None else draws, model.layout)
    predictive = Predictive(model, posterior, precision)
    split = Split.of(predictive.forward, windows, batch_size, max_windows)
    return TokenCache.key(split, held_in, predictive)


def changed(position: int) -> np.ndarray:
    tokens = TOKENS.copy()
    tokens[position] = (tokens[position] + 1) % 11
    return tokens


OTHERS: dict[str, dict[str, Any]] = {
    "a token": {"windows": Windows.tiled(changed(30), 8)},
    "the last token": {"windows": Windows.tiled(changed(60), 8)},
    "a shorter text": {"windows": Windows.tiled(TOKENS[:-1], 8)},
    "longer windows": {"windows": Windows(TOKENS, 10, WINDOWS.starts)},
    "their order": {"windows": Windows(TOKENS, 8, WINDOWS.starts[::-1])},
    "fewer windows": {"max_windows": 3},
    "the two texts swapped": {"windows": HELD_IN, "held_in": WINDOWS},
    "a held-in token": {"held_in": Windows.tiled(changed(7)[::-1], 8)},
    "fewer held-in windows": {"held_in": Windows(TOKENS[::-1], 8, HELD_IN.starts[:-1])},
    "fewer draws": {"draws": three()[:2]},
    "a number of a draw": {"draws": three(1e-6)},
    "the order of draws": {"draws": three().flip(0)},
    "a weight at the start": {"model": network(1e-6)},
    "a frozen weight, or its file": {"model": network(sha256="c0ffee")},
    "the precision": {"precision": "bf16"},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_whatever_the_numbers_depend_on_is_in_the_key(other: dict[str, Any]) -> None:
    assert key(**other) != key()


def test_what_they_do_not_depend_on_is_not() -> None:
    assert key() == key() == key(batch_size=3) == key(max_windows=1000)
    assert key(windows=Windows.tiled(TOKENS.copy(), 8)) == key()


def test_another_version_of_the_package_computes_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    monkeypatch.setattr(caching, "VERSION", caching.VERSION + 1)
    assert key() != before


def test_draws_that_were_made_again_are_scored_again(predictive: Predictive, folder: Path) -> None:
    """Under their old names."""
    model, paths = predictive.model, [folder / f"c0-{i:06d}.safetensors" for i in range(2)]
    folder.mkdir()
    found = []
    for width in (0.1, 0.5):
        for path in paths:
            save_file({"draws": model.theta[None] + width}, path)
        posterior = Draws(model.layout, paths)
        found.append(scored(Predictive(model, posterior), folder / "kept").said["bma"].tally.nll)
        again = Predictive(model, Draws(model.layout, paths))
        assert scored(again, folder / "kept").said["bma"].tally.nll == found[-1]
    assert found[0] != found[1]
    assert len(list((folder / "kept").glob("*.npy"))) == 2


def spoil(path: Path, how: str) -> None:
    whole = path.read_bytes()
    tensors = load_file(path)
    if how == "gone":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "first half":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "all but a byte":
        path.write_bytes(whole[:-1])
    elif how == "no safetensors":
        path.write_bytes(b"\xff" * 500)
    elif how == "no metadata":
        save_file(tensors, path)
    elif how == "other metadata":
        save_file(tensors, path, {"scalars": "{", "singles": "[]"})
    elif how == "other tensors":
        scalars = json.dumps({"temperature": 1.0, "draws": {}, "by_draws": {}})
        save_file({"x": torch.ones(2)}, path, {"scalars": scalars, "singles": "[]"})


@pytest.mark.parametrize(
    "how",
    [
        "gone", "empty", "first half", "all but a byte", "no safetensors", "no metadata",
        "other metadata", "other tensors",
    ],
)  # fmt: skip
def test_a_damaged_file_is_made_again(how: str, predictive: Predictive, folder: Path) -> None:
    expected = scored(predictive, folder)
    path = the(folder, ".safetensors")
    before = names(folder)
    spoil(path, how)
    assert TokenCache(folder).read(path.stem) is None
    assert same(scored(predictive, folder), expected)
    assert same(TokenCache(folder).read(path.stem), expected)
    assert names(folder) == before


@pytest.mark.parametrize("at", [1, 8, 14, 30])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_pass_that_is_stopped_leaves_no_file(
    error: type[BaseException],
    at: int,
    predictive: Predictive,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = 0
    inner = Forward.outputs

    def stopping(self: Forward, batch: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        return inner(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Forward, "outputs", stopping)
        with pytest.raises(error):
            scored(predictive, folder, batch_size=2)
    assert names(folder) == set()
    assert calls == at
    assert same(scored(predictive, folder, batch_size=2), scored(predictive, None, batch_size=2))


def test_a_disk_that_fills_up_leaves_nothing_that_would_be_read(
    predictive: Predictive, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(caching, "atomic_save", full)
        with pytest.raises(OSError, match="No space left"):
            scored(predictive, folder)
    assert not list(folder.glob("*.safetensors"))
    assert not list(folder.glob(".*"))
    assert same(scored(predictive, folder), scored(predictive, None))


def test_a_folder_is_held_by_one_at_a_time(predictive: Predictive, folder: Path) -> None:
    with TokenCache(folder).locked():
        scored(predictive, folder)
        with (
            pytest.raises(UserError, match="is being scored by another process; wait for it"),
            TokenCache(folder).locked(),
        ):
            pass
    with TokenCache(folder).locked():
        assert len(list(folder.glob("*.npy"))) == 1


def test_what_a_killed_process_left_unfinished_goes(predictive: Predictive, folder: Path) -> None:
    kept = TokenCache(folder)
    with kept.log_likelihoods(2, torch.arange(3)) as keep:
        keep(0, 0, torch.zeros(3))
    assert names(folder)
    with kept.locked():
        assert names(folder) == {".lock"}
