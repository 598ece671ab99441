"""What one step of every sampler costs, as a ratio to one fused-AdamW step.

Same model, same batch, same precision, interleaved in one process: in every round each variant
takes its steps in turn, and the ratio is taken within the round, so that a drifting machine drifts
for all. The table gives the median ratio and its quartiles over the rounds. Beside it, the floors
(forward and backward alone; drawing the noise alone) and the same samplers called on a dict of
parameters through `functional_call`, the way `posteriors` documents.

    python benchmarks/sampler_step.py                     # 0.8 M parameters
    python benchmarks/sampler_step.py --size 10.65M --rounds 10
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.func import functional_call

from bayesgen.inference.libraries import posteriors
from bayesgen.inference.log_posterior import Affine, LogPosterior, chunks
from bayesgen.inference.registry import SAMPLERS
from bayesgen.models import FunctionalModel
from bayesgen.models.nanogpt import GPT, GPTConfig
from bayesgen.priors import normal

SIZES = {
    "0.8M": (GPTConfig(64, 65, 4, 4, 128, bias=False), 12),
    "10.65M": (GPTConfig(256, 65, 6, 6, 384, bias=False), 12),
}
PRIOR_SD = 0.2
COLLECT = 4
"""Steps from one collection of SWAG's to the next; as a default it has 25."""
Step = Callable[[], Any]


def adamw_step(model: FunctionalModel, batch: dict[str, torch.Tensor], precision: str) -> Step:
    network = model.bind().module
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(network, batch, precision).backward()
        optimizer.step()

    return step


def forward_backward(
    model: FunctionalModel, batch: dict[str, torch.Tensor], precision: str
) -> Step:
    network = model.bind().module

    def step() -> None:
        network.zero_grad(set_to_none=True)
        loss(network, batch, precision).backward()

    return step


def loss(network: Any, batch: dict[str, torch.Tensor], precision: str) -> torch.Tensor:
    with torch.autocast(batch["labels"].device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = network(batch["input_ids"])
    return F.cross_entropy(logits.float().flatten(0, 1), batch["labels"].flatten())


def sampler_step(
    name: str, model: FunctionalModel, batch: dict[str, torch.Tensor], precision: Any
) -> Step:
    """The product's own step, preconditioned and with a limit on the gradient, as by default."""
    often: dict[str, Any] = {"warmup_steps": 0, "thinning": COLLECT} if name == "swag" else {}
    spec = SAMPLERS[name]
    settings = spec.settings(learning_rate=1e-6, **often)
    affine = None
    if settings.draws_from == "chain":
        affine = Affine(model.theta, torch.ones_like(model.theta))
    prior = normal(model.layout.size, PRIOR_SD)
    log_posterior = LogPosterior(
        model, prior, 1_000_000, affine=affine, max_norm=1e6, precision=precision
    )
    sampler = spec.build(log_posterior, settings, spec.plan(settings, 1000))
    state = sampler.init()

    def step() -> None:
        nonlocal state
        state, _ = sampler.update(state, batch)

    return step


def dict_step(
    name: str, model: FunctionalModel, batch: dict[str, torch.Tensor], precision: str
) -> Step:
    """`posteriors` on a dict of parameters, with the same prior."""
    network = model.bind().module
    parameters = {k: v.detach().clone() for k, v in network.named_parameters()}
    device = batch["labels"].device.type

    def log_posterior(p: Any, b: Any) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            logits = functional_call(network, p, (b["input_ids"],))
        nll = F.cross_entropy(logits.float().flatten(0, 1), b["labels"].flatten())
        log_prior = -0.5 * PRIOR_SD**-2 * sum((v * v).sum() for v in p.values())
        return -nll + log_prior / 1_000_000, torch.tensor([])

    transform = getattr(posteriors.sgmcmc, name).build(log_posterior, lr=1e-6, temperature=1e-6)
    state = transform.init(parameters)

    def step() -> None:
        nonlocal state
        state, _ = transform.update(state, batch, inplace=True)

    return step


def noise(model: FunctionalModel) -> Step:
    pieces = chunks(model.theta)
    return lambda: [torch.randn_like(piece) for piece in pieces]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="0.8M")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=4, help="steps of a variant in one round")
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()

    config, rows = SIZES[options.size]
    torch.manual_seed(0)
    model = FunctionalModel(GPT(config), block_size=config.block_size).to(options.device)
    tokens = torch.randint(config.vocab_size, (rows, config.block_size + 1), device=options.device)
    batch = {"input_ids": tokens[:, :-1].contiguous(), "labels": tokens[:, 1:].contiguous()}
    arguments = (model, batch, options.precision)
    variants: dict[str, Step] = {
        "AdamW (fused)": adamw_step(*arguments),
        "floor: forward + backward": forward_backward(*arguments),
        "floor: noise": noise(model),
    }
    variants |= {name: sampler_step(name, *arguments) for name in options.samplers}
    variants |= {
        f"{name} on a dict": dict_step(name, *arguments)
        for name in ("sgld", "sghmc", "baoa")
        if name in options.samplers
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(options.rounds + 1):
        for name, step in variants.items():
            synchronize(options.device)
            began = time.perf_counter()
            for _ in range(options.steps):
                step()
            synchronize(options.device)
            if round_number:  # the first round warms up
                seconds[name].append((time.perf_counter() - began) / options.steps)
    report(model, batch, options, seconds)


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def report(
    model: FunctionalModel,
    batch: dict[str, torch.Tensor],
    options: argparse.Namespace,
    seconds: dict[str, list[float]],
) -> None:
    base = seconds["AdamW (fused)"]
    print(
        f"{model.layout.size:,} parameters, batch {tuple(batch['labels'].shape)},"
        f" {options.precision}, {options.device}, {torch.get_num_threads()} threads,"
        f" {options.rounds} rounds of {options.steps} steps\n"
    )
    print("| variant | ratio to AdamW | quartiles | ms |")
    print("| --- | --- | --- | --- |")
    for name, values in seconds.items():
        ratios = sorted(v / b for v, b in zip(values, base, strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4)
        milliseconds = 1e3 * statistics.median(values)
        print(f"| {name} | {middle:.3f} | {low:.3f} - {high:.3f} | {milliseconds:.1f} |")


if __name__ == "__main__":
    main()
