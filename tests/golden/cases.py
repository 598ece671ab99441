"""Hashes of what every command leaves for a fixed seed: draws, scores, metrics, text.

Each group of cases is a list of command lines on tiny models, run one after the other. What a
command leaves is hashed by kind, so that a difference says what changed: `draws` (each draw's
tensors, byte for byte), `state`, `gaussian-c0` and other tensors, `metrics` (metrics.jsonl),
`totals`, `opening` (the numbers before a run), `record` (what run.json says of data and
parameters), `evaluation`, `tokens` (what every token was given), `texts`, `printed`. Times,
folders, versions, settings, the words of warnings and the next command to type are left out.

`ENVIRONMENT` asks every library for its most common arithmetic, so that the bits depend on the
processor as little as they can; `probe` hashes a few operations under it: where these differ, the
hashes mean nothing.

    python tests/golden/cases.py             # what differs from hashes.json
    python tests/golden/cases.py --write     # a change that was meant: write hashes.json again
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
HASHES = Path(__file__).with_name("hashes.json")
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # torch's own kernels, its matrix products, oneDNN's kernels, and numpy's of both kinds
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Nehalem",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
    "PYTHONHASHSEED": "0",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "200",
    "TZ": "UTC",
}
NOT_INHERITED = (
    "BASE_DIR", "MODEL_PATH", "META_PATH", "DATA_DIR", "DEVICE", "WANDB_AVAILABLE",
    "TINYSHAKESPEARE_PATH", "FORCE_COLOR", "NO_COLOR", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
PACKAGES = (
    "torch", "numpy", "scipy", "transformers", "tokenizers", "peft", "accelerate", "posteriors",
    "torchopt", "torchmetrics", "safetensors", "sacrebleu", "rouge-score",
)  # fmt: skip

Hashes = dict[str, str]


class Case(NamedTuple):
    """A command line, and the file or folder that it leaves (None: what it prints is hashed).

    `copied` is a run that is copied to `left` first, without its evaluations.
    """

    name: str
    words: str
    left: str | None = None
    copied: str | None = None


# -- the cases -----------------------------------------------------------------------------------

TINY = (
    "--corpus corpus.txt --n-layer 1 --n-head 2 --n-embd 16 --block-size 8 --batch-size 4"
    " --max-iters 30 --warmup-iters 5 --eval-interval 15 --eval-iters 2 --device cpu"
)
STEPS = "--warmup-steps 4 --sampling-steps 8 --thinning 2 --log-every 3"
CHAIN = f"{STEPS} --preconditioner-batches 3"
PATH = f"{STEPS} --rank 3 --num-draws 3"
PASS = "--train-samples 24 --epochs 1 --num-draws 3 --log-every 2"
SHORT = {
    **dict.fromkeys(("sgld", "sghmc", "baoa", "sgnht", "sglrw"), CHAIN),
    **dict.fromkeys(("ekf", "laplace", "vi"), PASS),
    "swag": PATH,
    "map": "--train-samples 24 --epochs 2 --log-every 2",
}


def train(name: str, sampler: str, rest: str, short: str | None = None) -> Case:
    """`bayesgen train`, a few steps long, on the CPU; later flags win."""
    short = short or SHORT[sampler]
    words = f"train --sampler {sampler} --device cpu --batch-size 4 {short} {rest}"
    return Case(name, f"{words} --out runs/{name}", f"runs/{name}")


def text(name: str, sampler: str, rest: str = "--eval", short: str | None = None) -> Case:
    return train(name, sampler, f"--model model.pt --corpus corpus.txt {rest}", short)


def again(name: str, run: str, rest: str) -> Case:
    """`bayesgen evaluate` on a copy of the run `run`."""
    return Case(name, f"evaluate runs/{name} --device cpu {rest}", f"runs/{name}", f"runs/{run}")


CAUSAL = [
    Case("baseline", f"baseline {TINY} --out model.pt", "model.pt"),
    Case("baseline-bias", f"baseline {TINY} --bias --dropout 0.1 --out bias.pt", "bias.pt"),
    text("sgld", "sgld", "--eval --eval-num-text-samples 2"),
    text("sghmc", "sghmc", "--eval --ood-corpus far.txt --gradient-accumulation 2"),
    text("baoa", "baoa", "--eval --chains 2"),
    text("sgnht", "sgnht", "--eval --schedule cyclical --cycles 2"),
    text("sglrw", "sglrw", "--eval --train-samples 24 --temperature-ramp-steps 3"),
    text("ekf", "ekf", "--eval --transition-std 1e-4"),
    text("laplace", "laplace"),
    text("vi", "vi"),
    text("swag", "swag", "--eval --validation-every 4"),
    text("swag-sgd", "swag", "--optimizer sgd --schedule cyclical"),
    text("swag-diag", "swag", "--covariance diag", STEPS),
    text("map", "map", "--eval --prior pretrained --prior-std 0.05 --learning-rate 0.01"),
    text("init-from", "sghmc", "--eval --init-from runs/map --prior pretrained --prior-std 0.05"),
    text("adam", "sgld", "--preconditioner adam --schedule cosine"),
    text("plain", "sghmc", "--preconditioner none --gradient-clip 0 --schedule constant", STEPS),
    text("relative", "sgld", "--prior pretrained --prior-relative --prior-std 0.1"),
    text("last-layer", "laplace", "--parameters last-layer --eval"),
    text("block", "baoa", "--parameters 'head,layers=-1:' --gradient-checkpointing"),
    text("lora", "sghmc", "--parameters lora --lora-r 2 --lora-alpha 4 --eval"),
    text("seed", "sgld", "--seed 7"),
    text("bf16", "sghmc", "--precision bf16 --eval --eval-precision bf16"),
    Case(
        "prior-learn",
        f"prior learn --model model.pt --corpus corpus.txt --device cpu --batch-size 4 {PATH}"
        " --validation-every 4 --learning-rate 1e-2 --out learned",
        "learned",
    ),
    Case("prior-show", "prior show learned --json"),
    Case(
        "prior-check",
        "prior check --model model.pt --corpus corpus.txt --device cpu --prior-path learned"
        " --num-draws 3",
    ),
    text(
        "prior-swag",
        "sghmc",
        "--prior swag --prior-path learned --prior-scale auto --prior-scale-steps 4 --eval"
        " --eval-splits val train",
    ),
    text("prior-laplace", "baoa", "--prior laplace --prior-path runs/laplace --prior-scale 2"),
    text("prior-centre", "map", "--prior pretrained --prior-path learned"),
    again("evaluate", "sghmc", "--eval-splits val train --text near.txt"),
    again("evaluate-few", "baoa", "--eval-num-posterior-samples 3 --eval-max-samples 6"),
    Case(
        "generate",
        "generate runs/sgld --device cpu --json --max-new-tokens 12 --prompt 'the fox' --num-texts"
        " 2 --temperature 0.8 --top-k 9",
    ),
    Case(
        "generate-per-draw",
        "generate runs/baoa --device cpu --json --max-new-tokens 12 --prompt dog --num-texts 3"
        " --decode per-draw --top-p 0.9 --seed 5",
    ),
    Case(
        "generate-plain",
        "generate runs/sgld --device cpu --json --max-new-tokens 6 --prompt a --strategy plain",
    ),
    Case(
        "generate-cached",
        "generate runs/laplace --device cpu --json --max-new-tokens 6 --prompt a --strategy cached",
    ),
    Case("export", "export runs/sgld --out exported", "exported"),
]


def hub(name: str, sampler: str, model: str, rest: str = "--eval") -> Case:
    return train(name, sampler, f"--model {model} --corpus corpus.txt {rest}")


HUGGINGFACE = [
    Case("gpt2", f"baseline {TINY} --architecture gpt2 --out gpt2", "gpt2"),
    Case("llama", f"baseline {TINY} --architecture llama --out llama", "llama"),
    hub("gpt2-sghmc", "sghmc", "gpt2"),
    hub("gpt2-swag", "swag", "gpt2"),
    hub("gpt2-lora", "baoa", "gpt2", "--parameters lora --lora-r 2"),
    hub("llama-baoa", "baoa", "llama", "--eval --eval-num-text-samples 2"),
    hub("llama-laplace", "laplace", "llama"),
    hub("llama-vi", "vi", "llama", "--parameters head,layers=-1:"),
    Case(
        "llama-generate",
        "generate runs/llama-baoa --device cpu --json --max-new-tokens 8 --prompt fox",
    ),
    Case("llama-export", "export runs/llama-baoa --out exported --num-draws 2", "exported"),
]


def labelled(name: str, sampler: str, task: str, rest: str = "--eval") -> Case:
    data = "pairs.tsv" if task in {"regression", "sentence-similarity"} else "rows.tsv"
    return train(
        name, sampler, f"--task {task} --model tuned/{task} --data {data} {rest}"
    )  # fmt: skip


def tune(task: str, rest: str) -> Case:
    words = f"finetune --model encoder --task {task} --device cpu --max-steps 6 {rest}"
    return Case(f"finetune-{task}", f"{words} --out tuned/{task}", f"tuned/{task}")


CLASSES, NUMBERS = "sequence-classification", "regression"
TEXTS, PAIRS = "sentence-classification", "sentence-similarity"
LABELLED = [
    tune(CLASSES, "--data rows.tsv --class-weights balanced --label-smoothing-factor 0.1"),
    tune(NUMBERS, "--data pairs.tsv --learning-rate 1e-3"),
    tune(TEXTS, "--data rows.tsv --head-hidden-size 5 --freeze 'encoder.*' --learning-rate 1e-2"),
    tune(PAIRS, "--data pairs.tsv --learning-rate 1e-3"),
    labelled("classes-sghmc", "sghmc", CLASSES, "--eval --ood-data far.tsv"),
    labelled("classes-baoa", "baoa", CLASSES, "--train-samples 20 --eval --eval-splits val train"),
    labelled("classes-sgld", "sgld", CLASSES, "--parameters all"),
    labelled("classes-laplace", "laplace", CLASSES, "--parameters head --eval"),
    labelled("classes-vi", "vi", CLASSES),
    labelled("classes-ekf", "ekf", CLASSES, "--parameters head"),
    labelled("classes-swag", "swag", CLASSES),
    labelled("classes-map", "map", CLASSES),
    labelled("classes-lora", "sghmc", CLASSES, "--parameters lora,head --lora-r 2 --eval"),
    labelled("classes-new-head", "sghmc", CLASSES, "--model encoder --prior normal"),
    again("classes-evaluate", "classes-baoa", "--ood-data far.tsv"),
    Case("classes-export", "export runs/classes-sghmc --out exported", "exported"),
    labelled("numbers-sghmc", "sghmc", NUMBERS),
    labelled("numbers-laplace", "laplace", NUMBERS, "--parameters head --eval"),
    labelled("numbers-swag", "swag", NUMBERS),
    labelled("numbers-vi", "vi", NUMBERS, "--parameters head"),
    labelled("texts-sghmc", "sghmc", TEXTS),
    labelled("texts-head", "baoa", TEXTS, "--parameters head --eval"),
    labelled("texts-laplace", "laplace", TEXTS, "--parameters head --eval"),
    labelled("texts-map", "map", TEXTS),
    labelled("pairs-sghmc", "sghmc", PAIRS),
    labelled("pairs-map", "map", PAIRS),
    labelled("pairs-swag", "swag", PAIRS),
    Case(
        "similarity",
        "similarity runs/pairs-sghmc --device cpu --json --pair 'the old fox' 'a small dog' --pair"
        " 'under the oak' 'near the oak'",
    ),
    Case("similarity-file", "similarity runs/texts-sghmc --device cpu --pairs-file pairs.tsv"
         " --level 0.8 --json --out embeddings.safetensors", "embeddings.safetensors"),
]  # fmt: skip


def masked(name: str, sampler: str, task: str, rest: str = "--eval") -> Case:
    model = "bert" if task == "masked-lm" else "xlnet"
    return train(
        name, sampler, f"--task {task} --model {model} --corpus text.txt --block-size 16 {rest}"
    )


HEAD = "--train-samples 8 --parameters head --eval"
MASKED = [
    masked("masked-sghmc", "sghmc", "masked-lm", "--eval --ood-corpus strange.txt"),
    masked("masked-baoa", "baoa", "masked-lm", "--eval --eval-max-samples 5"),
    masked("masked-laplace", "laplace", "masked-lm", HEAD),
    masked("masked-vi", "vi", "masked-lm", HEAD),
    masked("masked-swag", "swag", "masked-lm"),
    masked("masked-map", "map", "masked-lm"),
    masked("permuted-sghmc", "sghmc", "permutation-lm"),
    masked("permuted-sgld", "sgld", "permutation-lm", "--chains 2"),
    masked("permuted-laplace", "laplace", "permutation-lm", HEAD),
    masked("permuted-swag", "swag", "permutation-lm"),
    masked("permuted-map", "map", "permutation-lm"),
    Case(
        "encoder-prior",
        "prior learn --task masked-lm --model headless --corpus text.txt --block-size 16 --device"
        f" cpu --batch-size 4 {PATH} --validation-every 4 --out learned",
        "learned",
    ),
    Case("encoder-show", "prior show learned --json"),
    *(
        train(
            f"encoder-{sampler}",
            sampler,
            f"--task {TEXTS} --model headless --data words.tsv --prior swag --prior-path learned"
            f" --head-prior-std 0.5 {rest}",
        )
        for sampler, rest in (("sghmc", "--eval"), ("map", "--prior-scale auto"), ("swag", ""))
    ),
]
GROUPS = {
    "causal-lm": CAUSAL,
    "huggingface": HUGGINGFACE,
    "labelled": LABELLED,
    "masked": MASKED,
}


def furnish(group: str) -> None:
    """Texts, labelled rows and random encoders in the working directory."""
    words = "the quick brown fox jumps over the lazy dog and the cat sat on the mat. "
    Path("corpus.txt").write_text(words * 12)
    Path("near.txt").write_text("a lazy fox sat over the brown dog. " * 5)
    Path("far.txt").write_text("zoom, dog! mat on the mat over jumps dog lazy. " * 6)
    if group in {"labelled", "masked"}:
        from tests.encoder import save_encoder, write_rows, write_scores
        from tests.masked import TEXT, WORDS, save_bert, save_xlnet

        save_encoder(Path("encoder"))
        write_rows(Path("rows.tsv"), 60)
        write_rows(Path("far.tsv"), 20, seed=9, weights=(1, 0, 0))
        write_scores(Path("pairs.tsv"), 50)
        save_bert(Path("bert"))
        save_bert(Path("headless"), head=False)
        save_xlnet(Path("xlnet"))
        Path("text.txt").write_text(TEXT)
        Path("strange.txt").write_text("dog the over small by near on\nmat and sat\n" * 16)
        rows = [f"{WORDS[i % 18]} {WORDS[i * 5 % 17]}\t{'ab'[i % 3 > 0]}" for i in range(40)]
        Path("words.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")


# -- hashes --------------------------------------------------------------------------------------

STAMP = re.compile(r"_\d{8}-\d{6}([-_]\d+)?")
CLOCK = {"seconds", "steps_per_second", "peak_memory_mib", "created", "versions", "machine",
         "command", "settings", "sources", "run", "runs", "paths"}  # fmt: skip
"""Keys of JSON that say when, where and with what, and not what was found."""
RECORD = ("start", "data", "block_size", "num_observations", "num_parameters", "num_bayesian",
          "parameters", "prior")  # fmt: skip
KINDS = (
    (r"draws/.*\.safetensors", "draws"),
    (r"state/.*\.safetensors", "state"),
    (r"token_scores/.*\.(safetensors|npy|json)", "tokens"),
    (r"metrics\.jsonl", "metrics"),
    (r"run\.json", "record"),
    (r"[a-z]+_metrics\.json", "totals"),
    (r"bayesian_eval\.json", "evaluation"),
    (r"bayesian_eval\.safetensors", "windows"),
    (r"bayesian_eval_texts\.json", "texts"),
    (r"(prior_scale|finetune|training)\.json", None),
    (r".*\.(safetensors|pt)", None),
)
"""Files by their path in a run, and what they are called in hashes.json (None: by their name)."""
CONTENT_NAMES = {"tokens"}
"""Kinds whose file names hold times of writing: only their content counts."""


def digest(path: Path) -> Hashes:
    """Hashes of what lies in a file or folder, by kind."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    parts: dict[str, list[bytes]] = {}
    for file in files:
        name = file.name if path.is_file() else file.relative_to(path).as_posix()
        name = STAMP.sub("", name)
        for pattern, kind in KINDS:
            if re.fullmatch(pattern, name):
                kind = kind or name.rsplit(".", 1)[0]
                label = b"" if kind in CONTENT_NAMES else name.encode()
                for what, content in _content(file, kind):
                    parts.setdefault(what, []).append(_sha(label, content))
                break
    return {kind: _sha(*sorted(found)).hex() for kind, found in sorted(parts.items())}


def _content(file: Path, kind: str) -> Iterator[tuple[str, bytes]]:
    if file.suffix == ".npy":
        yield kind, file.read_bytes()
    elif file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            yield kind, _tensors(load_file(file))
        except SafetensorError:  # a file without tensors
            yield kind, file.read_bytes()
    elif file.suffix == ".pt":
        import torch

        content = torch.load(file, weights_only=True)
        yield kind, _tensors(content["model"])
        moments = content.get("optimizer", {}).get("state", {})
        flat = {f"{i}.{k}": v for i, state in moments.items() for k, v in state.items()}
        yield f"{kind}-optimizer", _tensors(flat)
    elif file.suffix == ".jsonl":
        yield kind, _plain([json.loads(line) for line in file.read_text().splitlines()])
    else:
        content = json.loads(file.read_text())
        if kind == "record":
            yield "opening", _plain(content["opening"]["numbers"])
            content = {key: content[key] for key in RECORD}
        yield kind, _plain(content)


def _tensors(tensors: dict[str, Any]) -> bytes:
    import torch

    found = []
    for name, tensor in sorted(tensors.items()):
        tensor = torch.as_tensor(tensor).contiguous()
        found += [f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()]
        found += [tensor.reshape(-1).view(torch.uint8).numpy().tobytes()]
    return _sha(*found)


def _plain(content: Any) -> bytes:
    """JSON of plain data, every digit of every number, without `CLOCK`."""
    return json.dumps(_timeless(content), sort_keys=True).encode()


def _timeless(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _timeless(value) for key, value in content.items() if key not in CLOCK}
    return [_timeless(value) for value in content] if isinstance(content, list) else content


def _sha(*parts: bytes) -> bytes:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.digest()


def probe() -> Hashes:
    """Versions of what computes, and hashes of a few operations of each kind, in this process."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    numbers = np.random.default_rng(0)
    array = numbers.standard_normal((37, 64), dtype=np.float32)
    other = numbers.standard_normal((48, 64), dtype=np.float32)
    x, w = torch.from_numpy(array), torch.from_numpy(other)
    heads = torch.from_numpy(numbers.standard_normal((2, 4, 40, 16), dtype=np.float32))
    operations: dict[str, Callable[[], Any]] = {
        "randn": lambda: torch.randn(1000, generator=torch.Generator().manual_seed(0)),
        "matmul": lambda: F.linear(x, w),
        "bmm": lambda: heads @ heads.mT,
        "softmax": lambda: x.softmax(-1),
        "log_softmax": lambda: x.log_softmax(-1),
        "logsumexp": lambda: x.double().logsumexp(-1),
        "gelu": lambda: F.gelu(x),
        "gelu_tanh": lambda: F.gelu(x, approximate="tanh"),
        "silu": lambda: F.silu(x),
        "tanh": x.tanh,
        "exp": x.exp,
        "exp_double": x.double().exp,
        "log": x.abs().log,
        "sqrt": x.abs().sqrt,
        "layer_norm": lambda: F.layer_norm(x, (64,)),
        "sdpa": lambda: F.scaled_dot_product_attention(heads, heads, heads, is_causal=True),
        "sum": x.sum,
        "norm": x.norm,
        "std": x.std,
        "numpy.sum": lambda: torch.from_numpy(array.sum(1)),
        "numpy.matmul": lambda: torch.from_numpy(array @ other.T),
        "numpy.exp": lambda: torch.from_numpy(np.exp(array.astype(np.float64))),
        "numpy.log": lambda: torch.from_numpy(np.log(np.abs(array.astype(np.float64)))),
        "numpy.quantile": lambda: torch.from_numpy(np.quantile(array, [0.025, 0.975], axis=0)),
        BF16: lambda: F.linear(x.bfloat16(), w.bfloat16()),
    }
    found = {f"version of {name}": version(name) for name in PACKAGES}
    found["python"] = ".".join(map(str, sys.version_info[:2]))
    return found | {name: _tensors({name: op()}).hex()[:16] for name, op in operations.items()}


BF16 = "bfloat16 matmul"
"""The operation that only cases with bf16 in their name need."""


def unlike(stored: Hashes, here: Hashes) -> str | None:
    """How this machine computes otherwise than the one that `stored` is of, or None."""
    for key in stored:
        if key != BF16 and stored[key] != here.get(key):
            return f"{key}: {here.get(key)} here, {stored[key]} where the hashes were made"
    return None


# -- running them --------------------------------------------------------------------------------


def run(only: Sequence[str] = ()) -> dict[str, Hashes]:
    """Run every case in this process, each group in a folder of its own.

    Args:
        only: groups to run (default: all).
    """
    found, start = {}, Path.cwd()
    for group in only or GROUPS:
        (start / group).mkdir()
        os.chdir(start / group)
        furnish(group)
        for case in GROUPS[group]:
            found[case.name] = run_case(case)
    os.chdir(start)
    return found


def run_case(case: Case) -> Hashes:
    """Run one command line, and hash what it left or printed.

    Raises:
        RuntimeError: it failed.
    """
    import torch

    from bayesgen.cli.main import main as bayesgen

    if case.copied is not None and case.left is not None:
        ignore = shutil.ignore_patterns("bayesian_eval*", "token_scores", ".lock")
        shutil.copytree(case.copied, case.left, ignore=ignore)
    torch.manual_seed(0)  # a command that draws without a seed of its own still gives the same
    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        code = bayesgen(shlex.split(case.words))
    if code != 0:
        raise RuntimeError(f"bayesgen {case.words}: status {code}\n{said.getvalue()[-3000:]}")
    if case.left is not None:
        return digest(Path(case.left))
    try:
        content = _plain(json.loads(printed.getvalue()))
    except ValueError:
        content = re.sub(r"^next: .*\n", "", printed.getvalue(), flags=re.M).encode()
    return {"printed": _sha(content).hex()}


def measured(only: Sequence[str] = (), like: bool = False) -> tuple[Hashes, dict[str, Hashes]]:
    """The probe and the hashes of every case, from a process of its own under `ENVIRONMENT`.

    Args:
        only: groups to run (default: all).
        like: run nothing where the probe is not that of hashes.json.

    Raises:
        RuntimeError: a command failed.
    """
    kept = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "home")
        home.mkdir()
        done = subprocess.run(
            [sys.executable, __file__, "--here", *(["--like"] if like else []), *only],
            cwd=folder, env=kept | ENVIRONMENT | {"HOME": str(home)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-5000:])
    content = json.loads(done.stdout.splitlines()[-1])
    return content["probe"], content["cases"]


def differences(stored: dict[str, Hashes], found: dict[str, Hashes]) -> list[str]:
    """One line for each case that is not as it was, which names what changed."""
    lines = []
    for name in stored.keys() | found.keys():
        old, new = stored.get(name, {}), found.get(name, {})
        changed = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
        if changed:
            same = sorted(k for k in old.keys() & new.keys() if old[k] == new[k])
            lines.append(f"{name}: {', '.join(changed)} (the same: {', '.join(same) or 'nothing'})")
    return sorted(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("groups", nargs="*", help=f"of cases: {', '.join(GROUPS)} (default: all)")
    parser.add_argument("--write", action="store_true", help="write hashes.json")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--like", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        sys.path.append(str(ROOT))  # behind what PYTHONPATH names
        here = probe()
        stop = options.like and unlike(json.loads(HASHES.read_text())["probe"], here)
        print(json.dumps({"probe": here, "cases": {} if stop else run(options.groups)}))
        return 0
    here, found = measured(options.groups)
    if options.write:
        kept = json.loads(HASHES.read_text())["cases"] if options.groups else {}
        content = {"probe": here, "cases": kept | found}
        HASHES.write_text(json.dumps(content, indent=1) + "\n")
        print(f"{len(found)} cases written")
        return 0
    stored = json.loads(HASHES.read_text())
    names = [case.name for group in options.groups or GROUPS for case in GROUPS[group]]
    lines = differences({name: stored["cases"].get(name, {}) for name in names}, found)
    why = unlike(stored["probe"], here)
    if why:
        print(f"this machine computes otherwise: {why}")
    print("\n".join(lines) or "every hash is the same")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
