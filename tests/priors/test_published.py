"""Flat tensors with the names of a module: density, order, and what does not fit."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayesgen.errors import UserError
from bayesgen.models.functional import FunctionalModel
from bayesgen.priors import Weights, read_prior, write_prior
from bayesgen.priors.published import (
    import_published,
    read_pt,
    spread_ratio,
    torchvision_order,
    weights_of,
)
from tests.priors.files import agree, exact, random_parts


class Bottleneck(nn.Module):
    """A residual block whose modules stand in torchvision's order: the projection comes last."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        inner = out // 4
        self.conv1, self.bn1 = nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out)
        self.downsample = None
        if width != out or stride != 1:
            projection = nn.Conv2d(width, out, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn3(self.conv3(self.bn2(self.conv2(y)).relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet(nn.Module):
    """A ResNet as torchvision's, without its last layer: features of images [B, 3, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
        self.bn1, self.maxpool = nn.BatchNorm2d(8), nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(Bottleneck(8, 8, 1))
        self.layer2 = nn.Sequential(Bottleneck(8, 16, 2), Bottleneck(16, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        return self.layer2(self.layer1(x)).mean((2, 3))


@pytest.fixture
def resnet() -> ResNet:
    torch.manual_seed(0)
    return ResNet().eval()


@pytest.fixture(scope="module")
def theirs() -> Any:
    """The same network in transformers, under a classifier."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="bottleneck", num_labels=3
    )
    return transformers.ResNetForImageClassification(config).eval()


def flat(module: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def size_of(module: nn.Module) -> int:
    return len(flat(module))


@pytest.fixture(scope="module")
def bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=12, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=8,
    )  # fmt: skip
    torch.manual_seed(0)
    network: nn.Module = transformers.BertModel(config).eval()
    return network


@pytest.mark.parametrize("divided", [True, False])
@pytest.mark.parametrize("rank", [1, 5])
@pytest.mark.parametrize("name", ["resnet", "bert"])
def test_the_density_is_the_one_that_the_rows_give(
    name: str, divided: bool, rank: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    module = request.getfixturevalue(name)
    mean, variance, rows = random_parts(size_of(module), rank)
    for part, tensor in (("mean", mean), ("variance", variance), ("covmat", rows)):
        torch.save(tensor, tmp_path / f"{part}.pt")
    read = [read_pt(tmp_path / f"{name}.pt", "--x") for name in ("mean", "variance", "covmat")]
    found = import_published(*read, module=module, divided=divided)
    write_prior(found, tmp_path / "prior.safetensors")
    prior = read_prior(tmp_path / "prior.safetensors")
    model = FunctionalModel(module)
    # without the statistics of batch norms, which are no parameters
    assert not any("running" in name for name in prior.layout.names)
    placed = prior.match(Weights(model.theta, model.layout))
    density = placed.density(3.0, epsilon=1e-4, head_std=0.2)
    q = rows if divided or rank == 1 else rows / (rank - 1) ** 0.5
    agree(density, exact(mean, variance, q, 3.0, 1e-4), model.theta)


def test_half_precision_is_read_as_its_numbers(resnet: ResNet) -> None:
    parts = [part.half() for part in random_parts(size_of(resnet), 2)]
    prior = import_published(*parts, module=resnet, divided=True)
    assert prior.mean.dtype == torch.float32
    torch.testing.assert_close(prior.deviations, parts[2].float(), rtol=0, atol=0)


def test_a_resnet_of_transformers_computes_what_torchvisions_weights_say(
    resnet: ResNet, theirs: Any
) -> None:
    """The proof of the order: with the imported means it is the same function."""
    _, variance, rows = random_parts(size_of(resnet), 3)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = resnet(images)
    for how in ({"order": "torchvision"}, {"weights": weights_of(resnet.state_dict(), "--x")}):
        prior = import_published(
            flat(resnet), variance, rows, theirs, divided=True, parameters="resnet.*", **how
        )
        with torch.no_grad():
            views = prior.layout.views(prior.mean)
            found = functional_call(
                theirs.resnet, {n.removeprefix("resnet."): v for n, v in views.items()}, (images,)
            )
        torch.testing.assert_close(found.pooler_output.flatten(1), expected)
    assert prior.base == "resnet"
    assert prior.record["upstream"]["shift"] == 0


def test_the_order_of_a_resnet_is_never_guessed(resnet: ResNet, theirs: Any) -> None:
    parts = random_parts(size_of(resnet), 3)
    with pytest.raises(UserError, match="`order`: a ResNet's shortcuts come before"):
        import_published(*parts, module=theirs, divided=True, parameters="resnet.*")
    own = import_published(
        *parts, module=theirs, divided=True, parameters="resnet.*", order="module"
    )
    names = tuple(n for n, _ in theirs.named_parameters() if n.startswith("resnet."))
    assert own.layout.names == names
    assert sorted(torchvision_order(names)) == sorted(names)
    with pytest.raises(UserError, match="`order=module`: this model has one order only"):
        import_published(*parts, module=resnet, divided=True, order="module")
    # its own weights contradict the order that was named
    with pytest.raises(UserError, match=r"`model_file`: 'layer2\.0.conv1.weight' is"):
        import_published(
            *parts, module=theirs, divided=True, parameters="resnet.*", order="module",
            weights=weights_of(resnet.state_dict(), "`model_file`"),
        )  # fmt: skip


def test_weights_of_another_model_are_refused(resnet: ResNet) -> None:
    parts = random_parts(size_of(resnet), 3)
    weights = weights_of(resnet.state_dict(), "`model_file`")
    less = dict(list(weights.items())[:-1])
    with pytest.raises(UserError, match=f"has {len(less)} parameters, and the prior is of"):
        import_published(*parts, module=resnet, divided=True, weights=less)


def test_tied_weights_and_counters_of_a_state_dict_count_once(resnet: ResNet) -> None:
    state = resnet.state_dict() | {"tied": resnet.conv1.weight.detach()}
    assert list(weights_of(state, "--x")) == [name for name, _ in resnet.named_parameters()]


def test_another_size_is_refused_with_both_numbers(resnet: ResNet, theirs: Any) -> None:
    size, whole = size_of(resnet), size_of(theirs)
    with pytest.raises(UserError, match=f"has {size:,} numbers, and the model {whole:,}") as caught:
        import_published(*random_parts(size, 3), module=theirs, divided=True)
    assert "`parameters='resnet.*'`" in str(caught.value)  # the model without its head
    with pytest.raises(UserError, match="choose its `parameters`"):
        import_published(*random_parts(size - 1, 3), module=resnet, divided=True)


@pytest.mark.parametrize(
    ("place", "change", "says"),
    [
        (0, lambda t: t.long(), "`mean`: it holds torch.int64"),
        (0, lambda t: t.unsqueeze(0), "`mean`: its shape is"),
        (0, lambda t: {"mean": t}, "`mean`: it holds no tensor of numbers"),
        (0, lambda t: t.to("meta"), "`mean`: it holds torch.float32 on 'meta'"),
        (0, lambda t: t * float("nan"), "'mean' holds numbers that are not finite"),
        (0, lambda t: t.to_sparse(), "`mean`: it holds no tensor of numbers"),
        (0, lambda t: t.to(torch.complex64), "`mean`: it holds torch.complex64"),
        (1, lambda t: t[:-1], "`variance`: its shape is"),
        (1, lambda t: t - 1, "a variance is negative"),
        (2, lambda t: t.T, "`deviations`: its shape is"),
        (2, lambda t: t[0], "`deviations`: its shape is"),
        (2, lambda t: t[:1].expand(10**9, -1), "`deviations`: its shape .* is larger than what"),
        (2, lambda t: t / 0, "'deviations' holds numbers that are not finite"),
    ],
)  # fmt: skip
def test_tensors_that_cannot_be_are_refused(
    place: int, change: Any, says: str, resnet: ResNet
) -> None:
    parts: list[Any] = list(random_parts(size_of(resnet), 3))
    parts[place] = change(parts[place])
    with pytest.raises(UserError, match=says) as caught:
        import_published(*parts, module=resnet, divided=True)
    assert len(str(caught.value).splitlines()) == 1


def test_the_spread_of_the_rows_tells_whether_they_are_divided() -> None:
    """Of weights that really wander, not of random numbers."""
    generator = torch.Generator().manual_seed(0)
    sd = torch.rand(4_000, generator=generator)
    path = sd * torch.randn(8, 4_000, generator=generator)
    rows, variance = path - path.mean(0), path.var(0)
    variance[:100] = 0  # a floor
    assert spread_ratio(variance, rows) == pytest.approx(7, rel=1e-3)
    assert spread_ratio(variance, rows / 7**0.5) == pytest.approx(1, rel=1e-3)
    assert spread_ratio(torch.zeros(9), torch.zeros(3, 9)) is None
    assert spread_ratio(variance, rows[:0]) is None


class Evil:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle"])
def test_what_a_file_would_execute_is_not(how: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "evil.pt"
    content = {"mean": torch.zeros(3), "more": Evil(mark)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(Evil(mark)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(UserError, match="holds more than tensors and plain data") as caught:
        read_pt(path, "`mean`")
    assert len(str(caught.value).splitlines()) == 1
    assert not mark.exists()
    # the same file does leave it where it is trusted
    with path.open("rb") as file:
        pickle.load(file) if how == "pickle" else torch.load(file, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"noise" * 30])
def test_a_damaged_file_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"`mean`: '.*x\.pt' cannot be read") as caught:
        read_pt(tmp_path / "x.pt", "`mean`")
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(UserError, match="`mean`: no file at"):
        read_pt(tmp_path / "gone.pt", "`mean`")
