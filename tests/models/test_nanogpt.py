from __future__ import annotations

import hashlib
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from bayesgen.data.tokenizers import CharTokenizer, TiktokenTokenizer, write_meta
from bayesgen.errors import UserError
from bayesgen.models import load_model
from bayesgen.models.functional import FunctionalModel
from bayesgen.models.nanogpt import (
    GPT,
    GPTConfig,
    adam_second_moments,
    read_checkpoint,
    write_checkpoint,
)
from bayesgen.parameters import Layout

CHARACTERS = CharTokenizer("abcdefghijk")


def make_gpt(bias: bool = False, **changes: Any) -> GPT:
    """A seeded tiny network in evaluation mode, its weights moved so that all of them matter."""
    sizes = {"block_size": 8, "vocab_size": 11, "n_layer": 2, "n_head": 2, "n_embd": 16}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        module = GPT(GPTConfig(**(sizes | {"bias": bias} | changes)))
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def tokens(rows: int = 3, length: int = 8) -> Tensor:
    return torch.randint(0, 11, (rows, length), generator=torch.Generator().manual_seed(0))


def content(module: GPT, **changes: Any) -> dict[str, Any]:
    """What nanoGPT's train.py saves."""
    return {
        "model": module.state_dict(),
        "model_args": {
            name: getattr(module.config, name)
            for name in ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size")
        },
        "optimizer": {"state": {}, "param_groups": []},
        "iter_num": 5,
        "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "shakespeare_char", "learning_rate": 1e-3},
    } | changes


def refusal(path: Path, **options: Any) -> str:
    """The one line that reading `path` ends with."""
    with pytest.raises(UserError) as caught:
        read_checkpoint(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


# -- the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (GPTConfig(64, 65, n_layer=4, n_head=4, n_embd=128, bias=False), 804_096),
        (GPTConfig(256, 65, n_layer=6, n_head=6, n_embd=384, bias=False), 10_745_088),
        (GPTConfig(1024, 50257, n_layer=12, n_head=12, n_embd=768, bias=True), 124_439_808),
    ],
    ids=["shakespeare on a CPU", "shakespeare on a GPU", "GPT-2"],
)
def test_parameter_counts_are_nanogpts(config: GPTConfig, size: int) -> None:
    with torch.device("meta"):
        module = GPT(config)
    assert sum(p.numel() for p in module.parameters()) == size


@pytest.mark.parametrize("bias", [False, True])
def test_state_dict_keys_are_nanogpts(bias: bool) -> None:
    parts = ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"]
    named = [f"transformer.h.{i}.{part}" for i in range(2) for part in parts] + ["transformer.ln_f"]
    ends = ["weight", "bias"] if bias else ["weight"]
    expected = ["transformer.wte.weight", "transformer.wpe.weight"]
    expected += [f"{name}.{end}" for name in named for end in ends]
    assert list(make_gpt(bias).state_dict()) == [*expected, "lm_head.weight"]


def test_the_head_shares_the_weight_of_the_token_embedding() -> None:
    module = make_gpt()
    assert module.lm_head.weight is module.transformer["wte"].weight
    assert "lm_head.weight" not in dict(module.named_parameters())


def dense_logits(weights: dict[str, NDArray[Any]], ids: NDArray[Any], heads: int) -> NDArray[Any]:
    """The forward pass written out in float64, one window at a time."""

    def affine(x: NDArray[Any], name: str) -> NDArray[Any]:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)

    def layer_norm(x: NDArray[Any], name: str) -> NDArray[Any]:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * weights[f"{name}.weight"] + weights.get(f"{name}.bias", 0.0)

    def gelu(x: NDArray[Any]) -> NDArray[Any]:
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    def attention(x: NDArray[Any], name: str) -> NDArray[Any]:
        width = x.shape[1] // heads
        q, k, v = np.split(affine(x, f"{name}.c_attn"), 3, axis=1)
        out = np.zeros_like(x)
        for head in range(heads):
            columns = slice(head * width, (head + 1) * width)
            for t in range(len(x)):
                scores = k[: t + 1, columns] @ q[t, columns] / math.sqrt(width)
                shares = np.exp(scores - scores.max())
                out[t, columns] = shares / shares.sum() @ v[: t + 1, columns]
        return affine(out, f"{name}.c_proj")

    layers = 1 + max(int(key.split(".")[2]) for key in weights if ".h." in key)
    logits = []
    for row in ids:
        wte, wpe = weights["transformer.wte.weight"], weights["transformer.wpe.weight"]
        x = wte[row] + wpe[: len(row)]
        for i in range(layers):
            block = f"transformer.h.{i}"
            x = x + attention(layer_norm(x, f"{block}.ln_1"), f"{block}.attn")
            hidden = gelu(affine(layer_norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"))
            x = x + affine(hidden, f"{block}.mlp.c_proj")
        logits.append(layer_norm(x, "transformer.ln_f") @ weights["lm_head.weight"].T)
    return np.stack(logits)


@pytest.mark.parametrize("length", [8, 5])
@pytest.mark.parametrize("bias", [False, True])
def test_logits_equal_a_dense_computation(bias: bool, length: int) -> None:
    module, ids = make_gpt(bias, n_head=4), tokens(length=length)
    weights = {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}
    expected = dense_logits(weights, ids.numpy(), heads=4)
    logits = module(ids).detach().numpy()
    assert logits.shape == (3, length, 11)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("position", range(1, 8))
def test_a_later_token_changes_no_earlier_logits(position: int) -> None:
    module, ids = make_gpt(), tokens()
    changed = ids.clone()
    changed[:, position] = (ids[:, position] + 1) % 11
    before, after = module(ids), module(changed)
    torch.testing.assert_close(after[:, :position], before[:, :position])
    assert (after[:, position:] != before[:, position:]).any(-1).all()


def test_more_tokens_than_the_block_size_are_refused() -> None:
    with pytest.raises(ValueError, match="9 tokens exceed the block size 8"):
        make_gpt()(tokens(length=9))


def test_dropout_acts_in_training_mode_only() -> None:
    module, ids = make_gpt(dropout=0.5), tokens()
    assert torch.equal(module(ids), module(ids))
    assert torch.equal(module(ids), make_gpt()(ids))
    module.train()
    assert not torch.equal(module(ids), module(ids))


def test_weights_start_as_in_gpt2() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = GPT(GPTConfig(64, 65, n_layer=8, n_head=2, n_embd=64, bias=True))
    for name, parameter in module.requires_grad_(False).named_parameters():
        if parameter.dim() == 1:
            one = name.endswith("weight")  # of a LayerNorm; all others are biases
            assert torch.equal(parameter, torch.full_like(parameter, float(one))), name
        else:
            # 0.02, and for what adds to the residual stream 0.02/√(2·8)
            sd = 0.005 if name.endswith("c_proj.weight") else 0.02
            assert float(parameter.std()) == pytest.approx(sd, rel=0.05), name
            assert abs(float(parameter.mean())) < 0.1 * sd, name


# -- checkpoints ---------------------------------------------------------------------------------


def write(path: Path, module: GPT, tokenizer: Any = CHARACTERS, **changes: Any) -> None:
    options = {"optimizer": {}, "iter_num": 7, "best_val_loss": 1.25, "config": {"seed": 0}}
    write_checkpoint(path, module, tokenizer, **(options | changes))


@pytest.mark.parametrize("bias", [False, True])
def test_a_checkpoint_survives_writing_and_reading(tmp_path: Path, bias: bool) -> None:
    module, path = make_gpt(bias), tmp_path / "new folder" / "ckpt.pt"
    write(path, module)
    checkpoint = read_checkpoint(path)

    assert checkpoint.module.config == module.config
    assert checkpoint.tokenizer == CHARACTERS
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.raw["iter_num"] == 7
    assert checkpoint.raw["best_val_loss"] == 1.25
    for name, tensor in module.state_dict().items():
        assert torch.equal(checkpoint.module.state_dict()[name], tensor)
    assert [entry.name for entry in path.parent.iterdir()] == ["ckpt.pt"]


def test_a_written_checkpoint_has_nanogpts_keys_and_only_plain_data(tmp_path: Path) -> None:
    module, path = make_gpt(), tmp_path / "ckpt.pt"
    write(path, module)
    raw = torch.load(path, weights_only=True)
    assert raw.keys() >= {
        "model", "optimizer", "model_args", "iter_num", "best_val_loss", "config",
    }  # fmt: skip
    assert raw["model_args"].keys() >= {
        "n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout",
    }  # fmt: skip
    assert raw["model"].keys() == module.state_dict().keys()


def test_a_failed_write_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, path = make_gpt(), tmp_path / "ckpt.pt"
    write(path, module)
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match="no space left"):
        write(path, module)
    assert path.read_bytes() == before


def test_load_model_opens_a_checkpoint(tmp_path: Path) -> None:
    module, path = make_gpt(), tmp_path / "ckpt.pt"
    write(path, module)
    model = load_model(path, parameters="transformer.h.*")
    ids = tokens()
    assert model.layout.names[0] == "transformer.h.0.ln_1.weight"
    assert model.block_size == 8
    assert model.tokenizer == CHARACTERS
    assert model.info.family == "nanogpt"
    assert model.info.config["n_embd"] == 16
    assert model.info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert torch.equal(model(model.theta, {"input_ids": ids}), module(ids))


def prefixed(module: GPT) -> dict[str, Any]:
    """As torch.compile names the weights."""
    return {f"_orig_mod.{name}": tensor for name, tensor in module.state_dict().items()}


def with_masks(module: GPT) -> dict[str, Any]:
    """As nanoGPT saves them where PyTorch has no fused attention."""
    mask = torch.ones(8, 8).tril().view(1, 1, 8, 8)
    return module.state_dict() | {f"transformer.h.{i}.attn.bias": mask for i in range(2)}


def in_bfloat16(module: GPT) -> dict[str, Any]:
    return {name: tensor.bfloat16() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("state", [prefixed, with_masks, in_bfloat16])
def test_checkpoints_of_every_make_load_in_float32(
    tmp_path: Path, bias: bool, state: Callable[[GPT], dict[str, Any]]
) -> None:
    module, path = make_gpt(bias), tmp_path / "ckpt.pt"
    if state is in_bfloat16:
        module = module.bfloat16().float()
    torch.save(content(module, model=state(module)), path)
    loaded = read_checkpoint(path).module
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert loaded.lm_head.weight is loaded.transformer["wte"].weight
    assert torch.equal(loaded.eval()(tokens()), module(tokens()))


def test_settings_that_the_network_does_not_know_are_passed_over(tmp_path: Path) -> None:
    module, path = make_gpt(), tmp_path / "ckpt.pt"
    raw = content(module)
    torch.save(raw | {"model_args": raw["model_args"] | {"flash": True}}, path)
    assert read_checkpoint(path).module.config == module.config


# -- which tokenizer -----------------------------------------------------------------------------


def test_the_tokenizer_comes_from_the_option_then_the_file_then_the_folder(tmp_path: Path) -> None:
    module, path = make_gpt(), tmp_path / "ckpt.pt"
    torch.save(content(module), path)
    assert read_checkpoint(path).tokenizer is None

    beside, named = CharTokenizer("0123456789"), CharTokenizer("ABC")
    write_meta(tmp_path / "meta.pkl", beside)
    write_meta(tmp_path / "other.pkl", named)
    assert read_checkpoint(path).tokenizer == beside

    write(path, module)
    assert read_checkpoint(path).tokenizer == CHARACTERS
    assert read_checkpoint(path, tmp_path / "other.pkl").tokenizer == named


@pytest.mark.parametrize("vocab_size", [50257, 50304])
def test_a_vocabulary_of_gpt2s_size_is_gpt2s(tmp_path: Path, vocab_size: int) -> None:
    module = GPT(GPTConfig(4, vocab_size, n_layer=1, n_head=1, n_embd=2, bias=False))
    torch.save(content(module), tmp_path / "ckpt.pt")
    assert read_checkpoint(tmp_path / "ckpt.pt").tokenizer == TiktokenTokenizer()


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    write(path, make_gpt(), CharTokenizer("abcdefghijkl"))
    assert "has 12 tokens but the model only 11" in refusal(path)


# -- files that are no checkpoints ---------------------------------------------------------------


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "no checkpoint at" in refusal(tmp_path / "ckpt.pt")
    with pytest.raises(UserError, match="no checkpoint at"):
        load_model(tmp_path / "ckpt.pt")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float, zipped: bool) -> None:
    path = tmp_path / "ckpt.pt"
    torch.save(content(make_gpt()), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    assert "cannot be read" in refusal(path)


@given(st.binary(max_size=40) | st.binary(max_size=40).map(b"\x80\x02".__add__))
@example(b"PK\x03\x04")
@example(b"h\x01.")  # KeyError of an unpickler
@example(b"\x80\x02].")
@example(b"This is no checkpoint\n")
def test_garbage_is_refused(tmp_path_factory: pytest.TempPathFactory, garbage: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.pt"
    path.write_bytes(garbage)
    refusal(path)


@pytest.mark.parametrize(
    "raw",
    [
        {"model_args": {}, "state_dict": {}},
        {"model": {}},
        make_gpt().state_dict(),
        [1, 2],
        torch.zeros(2),
    ],
    ids=["no model", "no model_args", "a bare state dict", "a list", "a tensor"],
)
def test_a_file_with_other_keys_is_refused(tmp_path: Path, raw: Any) -> None:
    torch.save(raw, tmp_path / "ckpt.pt")
    assert "is not a nanoGPT checkpoint" in refusal(tmp_path / "ckpt.pt")


ARGS = content(make_gpt())["model_args"]


@pytest.mark.parametrize(
    "changes",
    [
        {"model_args": ARGS | {"n_embd": 8}},
        {"model_args": ARGS | {"n_layer": 3}},
        {"model_args": ARGS | {"n_layer": 1}},
        {"model_args": ARGS | {"vocab_size": 12}},
        {"model_args": ARGS | {"bias": True}},
        {"model_args": ARGS | {"n_embd": "sixteen"}},
        {"model_args": ARGS | {"n_head": 3}},
        {"model_args": ARGS | {"n_head": 0}},
        {"model_args": None},
        {"model": {}},
        {"model": None},
        {"model": {1: torch.zeros(2)}},
        {"model": make_gpt().state_dict() | {"transformer.ln_f.weight": 1.0}},
        {"model": make_gpt().state_dict() | {"surplus.weight": torch.zeros(2)}},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    torch.save(content(make_gpt(), **changes), tmp_path / "ckpt.pt")
    assert "do not fit a nanoGPT" in refusal(tmp_path / "ckpt.pt")


class Malice:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.marker,)


@pytest.mark.parametrize("save", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, save: Callable[..., Any]) -> None:
    path, marker = tmp_path / "ckpt.pt", tmp_path / "executed"
    save(content(make_gpt(), config=Malice(marker)), path)
    assert "cannot be read" in refusal(path)
    assert not marker.exists()

    pickle.loads(pickle.dumps(Malice(marker)))  # the attack itself works
    assert marker.exists()


# -- Adam's moments ------------------------------------------------------------------------------


def train(module: GPT) -> torch.optim.AdamW:
    """A few steps of AdamW with nanoGPT's two groups."""
    named = dict(module.named_parameters())
    groups = [
        {"params": [p for p in named.values() if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in named.values() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    for _ in range(3):
        optimizer.zero_grad()
        module(tokens()).logsumexp(-1).square().sum().backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("subset", ["all", "*ln_*", "*bias"])
@pytest.mark.parametrize("bias", [False, True])
def test_adams_second_moments_come_in_the_order_of_theta(
    tmp_path: Path, bias: bool, subset: str
) -> None:
    module, path = make_gpt(bias), tmp_path / "ckpt.pt"
    if subset == "*bias" and not bias:
        subset = "transformer.h.1.*"
    optimizer = train(module)
    write(path, module, optimizer=optimizer.state_dict())
    layout = FunctionalModel(make_gpt(bias), parameters=subset).layout

    moments = layout.views(adam_second_moments(path, layout))
    for name, parameter in module.named_parameters():
        if name in layout.names:
            assert torch.equal(moments[name], optimizer.state[parameter]["exp_avg_sq"]), name
    assert moments.keys() <= dict(module.named_parameters()).keys()
    assert all(moment.any() for moment in moments.values())


@pytest.mark.parametrize("kind", ["none", "empty", "SGD", "one group", "a list"])
def test_a_checkpoint_without_adams_moments_is_refused(tmp_path: Path, kind: str) -> None:
    module, path = make_gpt(bias=True), tmp_path / "ckpt.pt"
    raw = content(module)
    if kind == "none":
        del raw["optimizer"]
    elif kind == "a list":
        raw["optimizer"] = [1, 2]
    elif kind in {"SGD", "one group"}:
        make = torch.optim.AdamW if kind == "one group" else torch.optim.SGD
        optimizer = make(module.parameters(), lr=1e-3)
        module(tokens()).sum().backward()
        optimizer.step()
        raw["optimizer"] = optimizer.state_dict()
    torch.save(raw, path)
    with pytest.raises(UserError, match="`preconditioner=adam`") as caught:
        adam_second_moments(path, Layout.of(module.named_parameters()))
    assert "\n" not in str(caught.value)
