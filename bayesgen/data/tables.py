"""Tables of texts and labels: from files, folders and built-in sets to rows with named columns."""

from __future__ import annotations

import csv
import difflib
import gzip
import importlib
import io
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from bayesgen.errors import UserError

KINDS = (".tsv", ".csv", ".jsonl")

_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation", "dev"), "test": ("test",)}
TEXTS = ("text", "sentence", "review", "sentence1")
PAIRS = ("sentence2",)
LABELS = ("label", "score", "similarity")
"""Names of columns, the more usual first."""
_DATASETS = ("dataset_dict.json", "state.json")
"""One of these lies in a folder that `save_to_disk` of the library `datasets` wrote."""


class _Format(NamedTuple):
    """What a built-in set looks like: the name of its file that tests, the columns of its files
    where they have no header, and how many fields some rows have after these."""

    test: str = "test"
    columns: tuple[str, ...] | None = None
    extra: int = 0


_FORMATS = {
    "ag_news": _Format("test", ("text", "label")),
    "sst2": _Format("dev"),
    "imdb": _Format("test", ("label", "review")),
    "stsb": _Format(
        "dev", ("genre", "file", "year", "id", "score", "sentence1", "sentence2"), extra=2
    ),
}
NAMES = tuple(_FORMATS)


@dataclass(frozen=True)
class Table:
    """Rows of raw fields, the columns' names where there are any, and where each row stands.
    `classes` names those of columns in which an integer is the id of a class."""

    source: str
    header: list[str] | None
    rows: list[list[Any]]
    numbers: Sequence[int]
    unit: str = "line"
    classes: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def at(self, row: int) -> str:
        return f"{self.source}, {self.unit} {self.numbers[row]}"

    def find(self, known: Sequence[str]) -> int | None:
        """Place of the first of the `known` names that is in the header, however it is written."""
        names = _plain(self.header or ())
        return next((names.index(name) for name in known if name in names), None)

    def require_rows(self, split: str) -> None:
        if not self.rows:
            raise UserError(f"{self.source}: the {split} split has no rows; add some")

    def require_width(self, *widths: int) -> None:
        for i, row in enumerate(self.rows):
            if len(row) not in widths:
                raise UserError(
                    f"{self.at(i)}: the number of fields is {len(row)}, not"
                    f" {' or '.join(map(str, widths))} as elsewhere; mend this {self.unit}"
                )

    def texts(self, place: int) -> tuple[str, ...]:
        column = tuple(row[place] for row in self.rows)
        self._require(place, "text", [isinstance(value, str) for value in column])
        return column

    def labels(self, place: int) -> list[Any]:
        column = [row[place] for row in self.rows]
        there = [isinstance(value, str | Real) and value != "" for value in column]
        self._require(place, "name or number", there)
        return column

    def _require(self, place: int, what: str, there: list[bool]) -> None:
        if not all(there):
            where = f" in '{self.header[place]}'" if self.header else ""
            row = self.at(there.index(False))
            raise UserError(f"{row}: no {what}{where}; complete or remove this row")


def read_tables(
    name_or_path: str, data_dir: Path | None, headed: bool, setting: str = "`data`"
) -> tuple[str, dict[str, Table]]:
    """The name of the data, and the tables of the splits, in the order train, val, test.

    `headed` says that the first line of a .tsv or .csv is a header even where it looks like none;
    built-in sets, whose folders may lie in `data_dir`, keep their form. `setting` is for errors.
    """
    path = Path(name_or_path).expanduser()
    name, kind = path.name, _FORMATS.get(name_or_path, _Format())
    if name_or_path in _FORMATS:
        name, files = name_or_path, _built_in_files(name_or_path, kind, data_dir, setting)
    elif path.is_dir():
        name = path.resolve().name
        if any((path / file).is_file() for file in _DATASETS):
            return name, _datasets_tables(path)
        files = _folder_files(path)
        if "train" not in files:
            raise UserError(
                f"{path}: no train.tsv, .csv or .jsonl (or one of these with .gz) in this folder;"
                " name the training file so, or pass a file"
            )
    elif path.exists():
        files = {"train": path}
    else:
        raise unknown_name(name_or_path, "built-in data", NAMES, setting)
    return name, {split: _read_table(file, headed, kind) for split, file in files.items()}


def unknown_name(name: str, what: str, known: Sequence[str], setting: str) -> UserError:
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "pass one of these names or an existing path"
    return UserError(f"{setting} {name}: neither a path nor {what} ({', '.join(known)}); {hint}")


def holds_tables(name_or_path: str) -> bool:
    """Whether this is a built-in set, or by its name a table or a folder of them."""
    path = Path(name_or_path).expanduser()
    if name_or_path in _FORMATS or not path.is_dir():
        return name_or_path in _FORMATS or Path(path.name.removesuffix(".gz")).suffix in KINDS
    return any((path / file).is_file() for file in _DATASETS) or bool(_folder_files(path))


def _built_in_files(
    name: str, kind: _Format, data_dir: Path | None, setting: str
) -> dict[str, Path]:
    """Those of a folder in `data_dir`, else that a variable names, else in the cache."""
    cache, variable = Path.home() / ".cache" / "bayesgen", f"{name.upper()}_PATH"
    chosen = os.environ.get(variable)
    own = (data_dir or cache) / name
    folder = own if data_dir and own.is_dir() else Path(chosen or cache / name)
    if not folder.is_dir():
        if chosen:
            raise UserError(f"{variable}={chosen}: no such folder; correct or unset the variable")
        raise UserError(
            f"{setting} {name}: not found; put train.tsv and {kind.test}.tsv (or .tsv.gz) into"
            f" {own}, or set {variable} to their folder"
        )
    files = {}
    for split, stem in {"train": "train", "test": kind.test}.items():
        there = [file for end in (".tsv", ".tsv.gz") if (file := folder / f"{stem}{end}").is_file()]
        if not there:
            raise UserError(f"{setting} {name}: no {stem}.tsv or {stem}.tsv.gz in {folder}; add it")
        files[split] = there[0]
    return files


def _folder_files(folder: Path) -> dict[str, Path]:
    found = {}
    for split, stems in _SPLITS.items():
        names = {f"{stem}{kind}{gz}" for stem in stems for kind in KINDS for gz in ("", ".gz")}
        files = [file for name in sorted(names) if (file := folder / name).is_file()]
        if len(files) > 1:
            raise UserError(
                f"{folder}: {files[0].name} and {files[1].name} are both the {split} split; keep"
                " one of them"
            )
        if files:
            found[split] = files[0]
    return found


def _read_table(path: Path, headed: bool, kind: _Format) -> Table:
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in KINDS:
        raise UserError(f"{path}: not one of {', '.join(KINDS)} (or with .gz); convert it")
    text = read_text(path, "utf-8-sig")  # without the mark that spreadsheets put in front
    if suffix == ".jsonl":
        return _json_table(path, text)
    rows, lines = _separated(path, text, comma=suffix == ".csv")
    header, widths = None, {len(row) for row in rows[:1]}
    named = rows and {*TEXTS, *PAIRS, *LABELS}.intersection(_plain(rows[0]))
    if named or (rows and headed and not kind.columns):
        header, rows, lines = rows[0], rows[1:], lines[1:]
    elif kind.columns:
        header = list(kind.columns)
        widths = {len(header), len(header) + kind.extra}
    table = Table(str(path), header, rows, lines)
    table.require_width(*sorted(widths))
    return table


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file, which may be one of gzip. Raises UserError where it cannot be read."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; convert it to UTF-8") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file; copy or compress it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); pass another") from error


def _separated(path: Path, text: str, comma: bool) -> tuple[list[list[str]], list[int]]:
    """The rows of a .csv or .tsv, and the line that each begins on."""
    form: Any = {} if comma else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, **form)
    rows, lines, line = [], [], 1
    limit = csv.field_size_limit(2**31 - 1)  # a text may be a whole book
    try:
        for row in reader:
            if row:  # a blank line has no fields
                rows.append(row)
                lines.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: {error}; mend the quotes from there on") from error
    finally:
        csv.field_size_limit(limit)
    return rows, lines


def _json_table(path: Path, text: str) -> Table:
    objects, lines = [], []
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise UserError(f"{path}, line {line}: not one JSON object; mend this line")
        objects.append(found)
        lines.append(line)
    header = list({key: None for found in objects for key in found})
    return Table(str(path), header, [[o.get(key) for key in header] for o in objects], lines)


def _datasets_tables(folder: Path) -> dict[str, Table]:
    """The splits of a folder that `save_to_disk` of the library `datasets` wrote."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise UserError(f"{folder}: needs the library datasets; pip install datasets") from error
    try:
        stored = datasets.load_from_disk(str(folder))
    except Exception as error:  # a damaged folder raises what pyarrow raises
        raise UserError(
            f"{folder}: no loadable folder of datasets ({' '.join(str(error).split())[:200]}); save"
            " it again"
        ) from error
    splits = stored if isinstance(stored, dict) else {"train": stored}
    if "train" not in splits:
        raise UserError(f"{folder}: no split 'train' (there are: {', '.join(splits)})")
    return {
        split: _datasets_table(f"{folder} ({alias})", splits[alias])
        for split, aliases in _SPLITS.items()
        for alias in aliases
        if alias in splits
    }


def _datasets_table(source: str, split: Any) -> Table:
    header = list(split.column_names)
    content = split.with_format(None)[:]
    rows = [list(row) for row in zip(*(content[column] for column in header), strict=True)]
    names = [getattr(split.features[column], "names", None) for column in header]
    classes = {i: tuple(each) for i, each in enumerate(names) if each}
    return Table(source, header, rows, range(1, len(rows) + 1), "row", classes)


def _plain(header: Sequence[Any]) -> list[str]:
    return [str(column).strip().casefold() for column in header]


def short(value: Any) -> str:
    """The start of `value`, for a message of one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else text[:37] + "..."


def some(names: Sequence[str]) -> str:
    """Some of `names`, for a message of one line."""
    shown = ", ".join(short(name) for name in names[:10])
    return shown + (", ..." if len(names) > 10 else "")
