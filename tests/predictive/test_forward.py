"""What draws share, against plain passes: bit for bit, whatever is Bayesian."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bayesgen import load_model
from bayesgen.data.tokenizers import CharTokenizer
from bayesgen.models import FunctionalModel, Lora
from bayesgen.models.nanogpt import GPT, GPTConfig, write_checkpoint
from bayesgen.predictive import Forward, Precision
from tests.encoder import save_encoder

transformers = pytest.importorskip("transformers")

TASKS = {"bert": "sequence-classification", "gpt2": "causal-lm", "nanogpt": "causal-lm"}
EMBEDDED = {"transformer.wte", "transformer.wpe", "transformer.drop", "transformer.h.0"}
SHARED: dict[tuple[str, str], set[str]] = {
    ("bert", "head"): {"bert", "dropout"},
    ("bert", "last-layer"): {"bert", "dropout"},
    ("bert", "layers=-1:"): {"bert.embeddings", "bert.encoder.layer.0"},
    ("gpt2", "layers=-1:"): EMBEDDED,
    ("nanogpt", "layers=-1:"): EMBEDDED,
}
"""Outermost shared modules; a head that is tied to the embedding comes first, and shares none."""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shelf")
    save_encoder(path / "bert")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=11, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0,
            eos_token_id=0,
        )  # fmt: skip
        transformers.GPT2LMHeadModel(config).save_pretrained(path / "gpt2")
        network = GPT(GPTConfig(16, 11, n_layer=2, n_head=2, n_embd=16, bias=False))
    write_checkpoint(
        path / "nanogpt", network, CharTokenizer.from_text("abcdefghijk"),
        optimizer={}, iter_num=0, best_val_loss=0.0, config={},
    )  # fmt: skip
    (path / "nanogpt").rename(path / "nanogpt.pt")
    return path


def loaded(shelf: Path, kind: str, subset: str) -> FunctionalModel:
    name = shelf / ("nanogpt.pt" if kind == "nanogpt" else kind)
    lora = Lora(r=2) if subset == "lora" else None
    return load_model(name, task=TASKS[kind], parameters=subset, lora=lora)


def batches(kind: str) -> list[dict[str, Tensor]]:
    """Three batches of different sizes; those of texts have padding."""
    made = []
    draw = torch.Generator().manual_seed(1)
    for rows, length in ((3, 7), (2, 5), (4, 3)):
        ids = torch.randint(4, 11, (rows, length), generator=draw)
        batch = {"input_ids": ids}
        if kind == "bert":
            mask = torch.ones_like(ids)
            mask[0, -1] = 0
            batch |= {"attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        made.append(batch)
    return made


def thetas(model: FunctionalModel, count: int = 3) -> Tensor:
    draw = torch.Generator().manual_seed(2)
    return model.theta + 0.3 * torch.randn(count, model.layout.size, generator=draw)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("subset", ["head", "last-layer", "layers=-1:", "lora", "all"])
@pytest.mark.parametrize("kind", list(TASKS))
def test_what_is_kept_changes_no_bit(
    kind: str, subset: str, precision: Precision, shelf: Path
) -> None:
    model = loaded(shelf, kind, subset)
    sharing, plain = Forward(model, precision), Forward(model, precision)
    sharing.load(model.theta)
    trunk = sharing.trunk(batches(kind)[0])
    names = {module: name for name, module in sharing._flat.module.named_modules()}
    shared = {names[module] for module in trunk.modules}
    if subset == "lora":  # what comes before the first adapter, and its layer's own product
        assert len(shared) > 2
    else:
        assert shared == SHARED.get((kind, subset), set())
    if not trunk.modules:
        return
    assert trunk.bytes > 0
    assert trunk.held() == 0
    computed: list[str] = []
    for module in trunk.modules:
        module.forward = counted(module, names[module], computed)  # type: ignore[method-assign]
    seen = []
    for theta in thetas(model):
        for forward in (sharing, plain):
            forward.load(theta)
        for number, batch in enumerate(batches(kind)):
            with trunk.over(number):
                found = sharing.log_probs(batch)
            expected = plain.log_probs(batch)
            assert torch.equal(found, expected)
            seen.append(expected)
    assert not torch.equal(seen[0], seen[3])
    assert sorted(computed) == sorted(3 * list(shared))
    trunk.forget()
    assert trunk.held() == 0
    assert torch.equal(sharing.log_probs(batches(kind)[-1]), seen[-1])


def counted(module: nn.Module, name: str, calls: list[str]) -> Callable[..., Any]:
    inner = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return inner(*args, **kwargs)

    return forward


def test_looking_for_it_leaves_the_weights_as_they_were(shelf: Path) -> None:
    model = loaded(shelf, "bert", "head")
    forward = Forward(model)
    (theta,) = thetas(model, 1)
    forward.load(theta)
    assert forward.trunk(batches("bert")[0]).modules
    assert torch.equal(forward._flat.theta, theta)


# -- networks that must not be cut short ---------------------------------------------------------


class Odd(nn.Module):
    """Layers a (frozen), b (frozen) and head (Bayesian)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.b(self.a(x)))
        return out


class Twice(Odd):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.a(self.a(x)))
        return out


class Early(Odd):
    """The parent uses a Bayesian parameter itself, before the second layer."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.b(self.scale * self.a(x)))
        return out


class InPlace(Odd):
    """What a module gave is changed."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x)
        hidden += self.scale
        out: Tensor = self.head(hidden)
        return out


class Doubling(nn.Module):
    """Changes what it is given, and gives something else."""

    def forward(self, x: Tensor) -> Tensor:
        x *= 2
        return x.clone()


class Aside(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.doubling = Doubling()

    def forward(self, x: Tensor) -> Tensor:
        hidden = 1.0 * x
        self.doubling(hidden)
        out: Tensor = self.head(hidden)
        return out


class Tied(Odd):
    """The first layer holds the head's weight under a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)
        self.a.weight = self.head.weight


@pytest.mark.parametrize(
    ("kind", "bayesian", "shared"),
    [
        (Odd, "head", {"a", "b"}),
        (Odd, "b", {"a"}),
        (Odd, "a", None),
        (Twice, "head", None),
        (Early, "scale", {"a"}),
        (InPlace, "scale", None),
        (Aside, "head", None),
        (Tied, "head", None),
    ],
)
def test_odd_networks(kind: type[nn.Module], bayesian: str, shared: set[str] | None) -> None:
    torch.manual_seed(0)
    module = kind()
    owned = {id(p) for name, p in module.named_parameters(remove_duplicate=False)
             if name.startswith(bayesian)}  # fmt: skip
    model = FunctionalModel(
        module,
        lambda apply, batch: apply(batch["x"]),
        parameters=lambda _, parameter: id(parameter) in owned,
    )
    forward = Forward(model)
    trunk = forward.trunk({"x": torch.randn(2, 4)})
    if shared is None:
        assert not trunk.modules
        return
    names = {child: name for name, child in forward._flat.module.named_modules()}
    assert {names[child] for child in trunk.modules} == shared
    batch = {"x": torch.randn(5, 4)}
    for theta in thetas(model):
        forward.load(theta)
        with trunk.over(0):
            found = forward.log_probs(batch)
        assert torch.equal(found, forward.log_probs(batch))


def test_a_network_that_fails_meanwhile_is_left_as_it_was(shelf: Path) -> None:
    forward = Forward(loaded(shelf, "bert", "head"))
    batch = batches("bert")[0]
    trunk = forward.trunk(batch)
    assert trunk.modules
    with pytest.raises(RuntimeError, match="stop"), trunk.over(0):
        raise RuntimeError("stop")
    assert all("forward" not in vars(module) for module in trunk.modules)
