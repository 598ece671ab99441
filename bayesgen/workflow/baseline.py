"""The deterministic baseline: nanoGPT's training recipe, step for step, for any architecture.

AdamW with decay on matrices only, linear warm-up and a cosine to lr/10, gradient clipping, windows
at random offsets. Karpathy, https://github.com/karpathy/nanoGPT, `train.py` and
`config/train_shakespeare_char.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayesgen.config.jobs import BaselineSettings
from bayesgen.data.corpora import Corpus, load_corpus
from bayesgen.data.tokenizers import CharTokenizer, write_meta
from bayesgen.data.windows import RandomWindows
from bayesgen.errors import UserError
from bayesgen.evaluation.walk import new_bar
from bayesgen.likelihoods import Categorical
from bayesgen.models import resolve_device
from bayesgen.models.nanogpt import SUFFIXES
from bayesgen.models.networks import Network, new_network


@dataclass(frozen=True)
class BaselineReport:
    """What training left behind; losses are in nats per token, of `eval_iters` batches."""

    path: Path  # of the best by validation loss, or of the last where `stop_at` is given
    best_step: int
    best_val_loss: float
    curve: list[tuple[int, float, float]]  # (step, train loss, validation loss)


def learning_rate(settings: BaselineSettings, step: int) -> float:
    """nanoGPT's schedule: linear warm-up, then a cosine from lr to lr/10 at `max_iters`."""
    highest, warmup = settings.learning_rate, settings.warmup_iters
    if step < warmup:
        return highest * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, settings.max_iters - warmup)
    cosine, lowest = 0.5 * (1 + math.cos(math.pi * min(done, 1.0))), highest / 10
    return lowest + cosine * (highest - lowest)


def adamw(module: nn.Module, settings: BaselineSettings) -> torch.optim.AdamW:
    """nanoGPT's optimizer: weight decay on parameters with two or more dimensions."""
    groups = [
        {
            "params": [p for p in module.parameters() if (p.dim() >= 2) is wide],
            "weight_decay": decay,
        }
        for wide, decay in ((True, settings.weight_decay), (False, 0.0))
    ]
    betas = (0.9, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, fused=True)


def checkpoint_path(settings: BaselineSettings, base: Path) -> Path:
    """Where the checkpoint goes, a file for nanogpt and else a folder; its name gives the steps."""
    file = settings.architecture == "nanogpt"
    if settings.out is not None:
        path = Path(settings.out)
        if path.is_dir() if file else path.is_file() or path.suffix in SUFFIXES:
            kind = "file, such as model.pt" if file else "folder, without the ending of a file"
            raise UserError(
                f"`out`: a {settings.architecture} is written to a {kind}, not '{path}'"
            )
        return path
    steps = _short(settings.max_iters)
    if settings.stop_at is not None:
        steps = f"{_short(settings.stop_at)}_of_{steps}"
    kind = "model" if file else settings.architecture
    if settings.tokenizer == "gpt2":
        kind += "_bpe"
    name = f"baseline_{kind}_{steps}"
    return base / "checkpoints" / "baseline" / "models" / (f"{name}.pt" if file else name)


def make_baseline(settings: BaselineSettings) -> BaselineReport:
    """Train on the corpus that `settings` name; a nanoGPT of characters gets its meta.pkl, too."""
    path = checkpoint_path(settings, Path(settings.base_dir))
    data_dir = Path(settings.data_dir) if settings.data_dir else None
    corpus = load_corpus(settings.corpus, tokenizer_kind=settings.tokenizer, data_dir=data_dir)
    report = train_baseline(settings, corpus, path, resolve_device(settings.device))
    if settings.architecture == "nanogpt" and isinstance(corpus.tokenizer, CharTokenizer):
        write_meta(path.with_name(f"{path.stem}_meta.pkl"), corpus.tokenizer)
    return report


def train_baseline(
    settings: BaselineSettings, corpus: Corpus, path: Path, device: torch.device
) -> BaselineReport:
    """Train a network on `corpus`; the checkpoint goes to `path`.

    Without `stop_at` the checkpoint is the best by validation loss. With it, training stops after
    that many steps of the schedule and the checkpoint is the last state, moments included: a warm
    start for a sampler.
    """
    warm = settings.stop_at is not None
    stop = settings.max_iters if settings.stop_at is None else settings.stop_at
    if not 0 < stop <= settings.max_iters:
        raise UserError(
            f"`stop_at` must lie within the schedule of {settings.max_iters} steps, not {stop}"
        )
    torch.manual_seed(settings.seed)
    network = new_network(settings, corpus.tokenizer)
    model = network.module.to(device).train()
    optimizer = adamw(model, settings)
    batches = RandomWindows(corpus.train, settings.block_size, settings.batch_size, settings.seed)
    # `dataset` is where nanoGPT's sample.py looks for the meta.pkl
    source = {"dataset": corpus.name, "data": dict(corpus.fingerprint)}
    curve: list[tuple[int, float, float]] = []
    best_step, best_loss = 0, math.inf
    with new_bar("baseline", stop) as bar:
        for step in range(stop + 1):
            if step == stop or (step % settings.eval_interval == 0 and not warm):
                parts = (corpus.train, corpus.val)
                train_loss, val_loss = (estimate(network, settings, p, device) for p in parts)
                curve.append((step, train_loss, val_loss))
                bar.set_postfix(train=f"{train_loss:.4f}", val=f"{val_loss:.4f}", refresh=False)
                if step > 0 and (val_loss < best_loss or warm):
                    best_step, best_loss = step, val_loss
                    config = {**vars(settings), **source}
                    record = {"iter_num": step, "best_val_loss": val_loss, "config": config}
                    network.write(path, optimizer.state_dict(), record)
            if step == stop:
                break
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, step)
            loss = _loss(network, batches.batch(step), settings.precision, device)
            if not torch.isfinite(loss):
                raise UserError(f"the loss is not finite at step {step}: lower `learning_rate`")
            loss.backward()
            if settings.grad_clip > 0:
                nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            bar.update()
    return BaselineReport(path, best_step, best_loss, curve)


@torch.no_grad()
def estimate(
    network: Network, settings: BaselineSettings, tokens: Any, device: torch.device
) -> float:
    """Mean loss on `eval_iters` batches, the same ones each time."""
    network.module.eval()
    batches = RandomWindows(
        tokens, settings.block_size, settings.batch_size, settings.seed + 1, split="evaluation"
    )
    numbers = range(settings.eval_iters)
    losses = [_loss(network, batches.batch(i), settings.precision, device) for i in numbers]
    network.module.train()
    return float(torch.stack(losses).mean())


def _loss(
    network: Network, batch: Mapping[str, Tensor], precision: str, device: torch.device
) -> Tensor:
    """Mean cross-entropy of a batch, nats per token."""
    tokens, labels = (batch[name].to(device) for name in ("input_ids", "labels"))
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = network.logits(tokens)
    likelihood = Categorical()
    return -likelihood.total(logits, labels) / likelihood.count(labels)


def _short(steps: int) -> str:
    return f"{steps // 1000}k" if steps % 1000 == 0 else str(steps)
