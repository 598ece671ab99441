from __future__ import annotations

import errno
import json
import os
import resource
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from bayesgen.errors import UserError
from bayesgen.runs import Run, Snapshot, new_run_path, newest_unfinished, sampler_folder
from bayesgen.runs.files import atomic_save, atomic_write
from bayesgen.workflow.resuming import restore_rng, rng_state

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run")


def snapshot(step: int) -> Snapshot:
    tensors = {
        "leaf.0": torch.full((5,), float(step)),
        "leaf.1": torch.tensor(step),
        "rng.cpu": torch.arange(4, dtype=torch.uint8) + step,
    }
    return Snapshot(tensors, step, draws=step // 10, seconds=step + 0.25)


def same(a: Snapshot | None, b: Snapshot) -> bool:
    assert a is not None
    return (
        (a.step, a.draws, a.seconds) == (b.step, b.draws, b.seconds)
        and a.tensors.keys() == b.tensors.keys()
        and all(a.tensors[k].dtype == v.dtype for k, v in b.tensors.items())
        and all(torch.equal(a.tensors[k], v) for k, v in b.tensors.items())
    )


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def one_line(caught: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- files ---------------------------------------------------------------------------------------


def write_bytes(path: Path, number: int) -> None:
    atomic_write(path, str(number).encode())


def write_tensors(path: Path, number: int) -> None:
    atomic_save(path, {"a": torch.full((3,), float(number))}, {"number": str(number)})


@pytest.mark.parametrize("write", [write_bytes, write_tensors])
def test_a_write_replaces_the_file_and_leaves_nothing_else(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "file.safetensors"
    write(path, 1)
    first = path.read_bytes()
    write(path, 2)
    assert path.read_bytes() != first
    write(path, 1)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [write_bytes, write_tensors])
def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any
) -> None:
    path = tmp_path / "file.safetensors"
    write(path, 1)
    first = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match="No space left on device") as caught:
        write(path, 2)
    assert f"'{path}' could not be written" in one_line(caught)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [write_bytes, write_tensors])
def test_a_write_into_what_is_no_folder_names_the_file(tmp_path: Path, write: Any) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="could not be written") as caught:
        write(tmp_path / "file" / "run.json", 1)
    assert str(tmp_path / "file" / "run.json") in one_line(caught)


def test_a_file_that_grows_too_large_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, hard))
        with pytest.raises(UserError, match=r"could not be written \(File too large\)"):
            atomic_write(tmp_path / "file", bytes(2**16))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_saved_tensors_carry_their_metadata(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file.safetensors", 3)
    with safe_open(tmp_path / "file.safetensors", framework="pt") as file:
        assert file.metadata() == {"number": "3"}
        assert file.get_tensor("a").tolist() == [3.0, 3.0, 3.0]


# -- the folder ----------------------------------------------------------------------------------


def test_create_makes_the_folders_and_nothing_else(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a" / "b")
    assert run.path == tmp_path / "a" / "b"
    assert sorted(p.name for p in run.path.iterdir()) == ["draws", "state"]
    assert not run.finished
    assert run.draw_paths() == []


def test_create_refuses_a_folder_that_holds_a_run(run: Run) -> None:
    run.write_json("run.json", {})
    with pytest.raises(UserError, match=r"`out`: .* already holds a run") as caught:
        Run.create(run.path)
    assert str(run.path) in one_line(caught)


def test_create_refuses_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="`out`: cannot write to") as caught:
        Run.create(tmp_path / "file" / "run")
    assert str(tmp_path / "file" / "run") in one_line(caught)


@pytest.mark.parametrize("refused", ["exists", "mkdir", "touch"])
def test_create_refuses_a_folder_without_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    def denied(self: Path, *args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, refused, denied)
    with pytest.raises(UserError, match=r"`out`: cannot write to .* \(Permission denied\)"):
        Run.create(tmp_path / "run")


def test_open_finds_a_run_that_was_created(run: Run) -> None:
    run.write_json("run.json", {"seed": 0})
    assert Run.open(str(run.path)) == run


@pytest.mark.parametrize("flag", ["--resume", "--run"])
def test_open_refuses_a_folder_without_run_json(run: Run, flag: str) -> None:
    with pytest.raises(UserError, match=f"{flag}: no run at") as caught:
        Run.open(run.path, flag)
    assert str(run.path) in one_line(caught)


def test_json_survives_writing_and_reading(run: Run) -> None:
    content = {"settings": {"prior": "N(θ*, σ²)", "seed": 0, "out": None}, "layout": [1, 2.5]}
    path = run.write_json("run.json", content)
    assert path == run.path / "run.json"
    assert run.read_json("run.json") == json.loads(path.read_text()) == content


@pytest.mark.parametrize("text", [None, "", '{"a": 1'])
def test_json_that_is_missing_or_damaged_is_a_user_error(run: Run, text: str | None) -> None:
    if text is not None:
        (run.path / "run.json").write_text(text)
    with pytest.raises(UserError, match="missing or damaged") as caught:
        run.read_json("run.json")
    assert str(run.path / "run.json") in one_line(caught)


def test_a_list_is_no_record(run: Run) -> None:
    (run.path / "run.json").write_text("[]")
    with pytest.raises(UserError, match=r"missing or damaged \(no JSON object\)"):
        run.record()


def test_tensors_beside_the_draws_survive_writing_and_reading(run: Run) -> None:
    assert run.read_tensors("scale.safetensors") is None
    scale = torch.randn(4)
    run.write_tensors("scale.safetensors", {"scale": scale})
    stored = run.read_tensors("scale.safetensors")
    assert stored is not None
    assert torch.equal(stored["scale"], scale)


# -- draws ---------------------------------------------------------------------------------------


def theta(chain: int, index: int) -> Tensor:
    return torch.tensor([float(chain), float(index), 0.5])


def stored(run: Run, chain: int | None = None) -> list[tuple[int, int]]:
    """(chain, number) of every draw on disk, in the order of `draw_paths`."""
    rows = torch.cat([load_file(path)["draws"] for path in run.draw_paths(chain)])
    return [(int(row[0]), int(row[1])) for row in rows]


def test_a_draw_is_a_row_with_its_chain_and_step(run: Run) -> None:
    run.write_draw(1, 12, theta(1, 12), step=340)
    (path,) = run.draw_paths()
    assert path.name == "c1-000012.safetensors"
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"chain": "1", "step": "340"}
        assert list(file.keys()) == ["draws"]
        assert torch.equal(file.get_tensor("draws"), theta(1, 12).unsqueeze(0))


def test_draws_come_chain_by_chain_in_the_order_of_their_numbers(run: Run) -> None:
    chains, numbers = (0, 2, 10), (0, 2, 9, 10, 11, 999_999, 1_000_000)
    for chain in reversed(chains):
        for index in reversed(numbers):
            run.write_draw(chain, index, theta(chain, index) % 1_000_003, step=index)
    assert stored(run) == [(chain, index) for chain in chains for index in numbers]
    assert stored(run, 0) == [(0, index) for index in numbers]
    assert stored(run, 10) == [(10, index) for index in numbers]
    assert run.draw_paths(1) == []


def test_an_unfinished_write_is_no_draw(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write_draw(0, 0, theta(0, 0), step=1)

    def killed(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        run.write_draw(0, 1, theta(0, 1), step=2)
    assert stored(run) == [(0, 0)]
    assert [path.name for path in (run.path / "draws").iterdir()] == ["c0-000000.safetensors"]


@pytest.mark.parametrize(
    "name", ["c0-1x", "c0-12", "c0-000001 (1)", "c00-000001", "c0-000001-old", "c0", "c0-00000²"]
)
def test_a_file_with_almost_the_name_of_a_draw_is_refused(run: Run, name: str) -> None:
    run.write_draw(0, 0, theta(0, 0), step=1)
    path = run.path / "draws" / f"{name}.safetensors"
    atomic_save(path, {"draws": theta(0, 1)[None]}, {})
    for chain in (None, 0):
        with pytest.raises(UserError, match="is not named as a draw is") as caught:
            run.draw_paths(chain)
        assert str(path) in one_line(caught)
    path.rename(path.with_name(f".{path.name}.tmp"))
    (path.parent / "notes.txt").write_text("not a draw")
    assert stored(run) == [(0, 0)]


def test_drop_draws_forgets_those_of_one_chain_from_a_number_on(run: Run) -> None:
    for chain in (1, 10):
        for index in range(12):
            run.write_draw(chain, index, theta(chain, index), step=index)
    run.drop_draws(1, keep=9)
    assert stored(run, 1) == [(1, index) for index in range(9)]
    assert stored(run, 10) == [(10, index) for index in range(12)]
    run.drop_draws(1, keep=9)
    run.drop_draws(10, keep=0)
    assert stored(run) == [(1, index) for index in range(9)]


# -- state ---------------------------------------------------------------------------------------


def test_no_state_was_saved(run: Run) -> None:
    assert run.read_state(0) is None


def test_the_state_is_the_last_one_written(run: Run) -> None:
    for step in (10, 20, 30):
        run.write_state(0, snapshot(step))
        assert same(run.read_state(0), snapshot(step))
    names = sorted(path.name for path in (run.path / "state").iterdir())
    assert names == ["c0.previous.safetensors", "c0.safetensors"]


def test_chains_have_states_of_their_own(run: Run) -> None:
    run.write_state(1, snapshot(10))
    run.write_state(10, snapshot(20))
    assert same(run.read_state(1), snapshot(10))
    assert same(run.read_state(10), snapshot(20))
    assert run.read_state(0) is None


@pytest.mark.parametrize("damage", [truncate, Path.unlink, lambda path: path.write_bytes(b"")])
def test_the_state_before_is_read_where_the_current_one_is_damaged(run: Run, damage: Any) -> None:
    run.write_state(0, snapshot(10))
    run.write_state(0, snapshot(20))
    damage(run.path / "state" / "c0.safetensors")
    assert same(run.read_state(0), snapshot(10))


def test_no_state_is_read_where_both_files_are_damaged(run: Run) -> None:
    run.write_state(0, snapshot(10))
    run.write_state(0, snapshot(20))
    for path in (run.path / "state").iterdir():
        truncate(path)
    assert run.read_state(0) is None


def test_a_state_can_be_written_after_a_damaged_one(run: Run) -> None:
    run.write_state(0, snapshot(10))
    truncate(run.path / "state" / "c0.safetensors")
    run.write_state(0, snapshot(20))
    assert same(run.read_state(0), snapshot(20))


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_state_is_never_lost_at_whatever_rename_the_process_dies(
    run: Run, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    run.write_state(0, snapshot(10))
    run.write_state(0, snapshot(20))
    calls, replace = [], Path.replace

    def dies(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == call:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        run.write_state(0, snapshot(30))
    assert same(run.read_state(0), snapshot(20))


def test_the_generator_goes_on_where_its_state_was_taken() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.randn(3)
        state = rng_state(CPU)
        expected = torch.randn(5)
        torch.manual_seed(1)
        restore_rng(state, CPU)
        assert torch.equal(torch.randn(5), expected)


# -- finding runs --------------------------------------------------------------------------------


def start(base: Path, name: str, *, finished: bool = False) -> Run:
    run = Run.create(sampler_folder(base, "sghmc") / name)
    run.write_json("run.json", {})
    if finished:
        run.write_json("sghmc_metrics.json", {})
    return run


def test_runs_of_a_sampler_lie_in_its_folder(tmp_path: Path) -> None:
    path = new_run_path(tmp_path, "sghmc")
    assert path.parent == tmp_path / "checkpoints" / "samplers" / "sghmc_sampler"
    assert path.name.startswith("run_2")


def test_a_new_run_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr("bayesgen.runs.datetime", Stopped)
    names = []
    for _ in range(3):
        path = new_run_path(tmp_path, "sghmc")
        Run.create(path)
        names.append(path.name)
    assert names == ["run_20260102-030405", "run_20260102-030405-2", "run_20260102-030405-3"]


def test_totals_make_a_run_finished(tmp_path: Path) -> None:
    run = start(tmp_path, "run_1")
    assert not run.finished
    run.metrics.write_text("{}\n")
    assert not run.finished
    run.write_json("sghmc_metrics.json", {})
    assert run.finished


def test_the_newest_unfinished_run_is_resumed(tmp_path: Path) -> None:
    assert newest_unfinished(tmp_path, "sghmc") is None
    start(tmp_path, "run_20260101-000000")
    start(tmp_path, "run_20260103-000000", finished=True)
    expected = start(tmp_path, "run_20260102-235959")
    Run.create(sampler_folder(tmp_path, "sghmc") / "run_20260104-000000")  # without run.json
    assert newest_unfinished(tmp_path, "sghmc") == expected
    assert newest_unfinished(tmp_path, "sgld") is None


def test_the_newest_of_many_runs_of_one_second_is_resumed(tmp_path: Path) -> None:
    for suffix in ("", "-2", "-9", "-10"):
        newest = start(tmp_path, f"run_20260101-000000{suffix}")
    assert newest_unfinished(tmp_path, "sghmc") == newest


def test_nothing_is_resumed_where_every_run_is_finished(tmp_path: Path) -> None:
    start(tmp_path, "run_20260101-000000", finished=True)
    assert newest_unfinished(tmp_path, "sghmc") is None
