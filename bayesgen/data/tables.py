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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

from bayesgen.errors import UserError

KINDS = (".tsv", ".csv", ".jsonl")

_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation", "dev"), "test": ("test",)}
TEXTS = ("text", "sentence", "review", "sentence1")
PAIRS = ("sentence2",)
LABELS = ("label", "score", "similarity")
"""Names of columns, the more usual first."""
_DATASETS = ("dataset_dict.json", "state.json")
"""One of these lies in a folder that `save_to_disk` of the library `datasets` wrote."""


@dataclass(frozen=True)
class _Format:
    """What a built-in set looks like.

    Attributes:
        test: name of the file that tests.
        columns: of its files, where they have no header.
        extra: fields that some rows have at their end.
    """

    test: str = "test"
    columns: tuple[str, ...] | None = None
    extra: int = 0


_ANY = _Format()

_FORMATS: Mapping[str, _Format] = {
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

    Attributes:
        classes: by column, the names of classes that a `datasets` folder states.
    """

    source: str
    header: list[str] | None
    rows: list[list[Any]]
    numbers: Sequence[int]
    unit: str = "line"
    classes: Mapping[str, tuple[str, ...]] | None = None

    def at(self, row: int) -> str:
        return f"{self.source}, {self.unit} {self.numbers[row]}"

    def require_width(self, widths: Sequence[int]) -> None:
        """Raise UserError for a row that has not one of these numbers of fields."""
        for i, row in enumerate(self.rows):
            if len(row) not in widths:
                raise UserError(
                    f"{self.at(i)}: the number of fields is {len(row)}, not"
                    f" {' or '.join(map(str, widths))} as elsewhere; mend this {self.unit}"
                )

    def texts(self, place: int) -> tuple[str, ...]:
        """A column of texts. Raises UserError for a row that lacks one."""
        for i, row in enumerate(self.rows):
            if not isinstance(row[place], str):
                where = f" in '{self.header[place]}'" if self.header else ""
                raise UserError(f"{self.at(i)}: no text{where}; complete or remove this row")
        return tuple(row[place] for row in self.rows)


def read_tables(
    name_or_path: str, data_dir: Path | None, headed: bool, setting: str = "`data`"
) -> tuple[str, dict[str, Table]]:
    """The name of the data, and the table of each split, that of training first.

    Args:
        data_dir: holds folders of built-in sets.
        headed: whether the first line of a .tsv or .csv is a header even where it looks like none;
            built-in sets keep their form.
        setting: that named the data, for errors.
    """
    path = Path(name_or_path).expanduser()
    if name_or_path in _FORMATS:
        kind = _FORMATS[name_or_path]
        folder = _built_in_folder(name_or_path, kind, data_dir, setting)
        stems = {"train": "train", "test": kind.test}
        files = {
            split: _built_in_file(name_or_path, folder, stem, setting)
            for split, stem in stems.items()
        }
        return name_or_path, {s: _read_table(f, headed, kind) for s, f in files.items()}
    if path.is_dir():
        if any((path / file).is_file() for file in _DATASETS):
            return path.resolve().name, _datasets_tables(path)
        files = _folder_files(path)
        return path.resolve().name, {s: _read_table(f, headed) for s, f in files.items()}
    if path.exists():
        return path.name, {"train": _read_table(path, headed)}
    near = difflib.get_close_matches(name_or_path.lower(), NAMES, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "pass one of these names or an existing path"
    raise UserError(
        f"{setting} {name_or_path}: neither a path nor built-in data ({', '.join(NAMES)}); {hint}"
    )


def holds_tables(name_or_path: str) -> bool:
    """Whether this is a built-in set, or by its name a table or a folder of them."""
    path = Path(name_or_path).expanduser()
    if name_or_path in _FORMATS or not path.is_dir():
        return name_or_path in _FORMATS or Path(path.name.removesuffix(".gz")).suffix in KINDS
    files = (name for split in _SPLITS for name in _file_names(split))
    return any((path / file).is_file() for file in (*files, *_DATASETS))


def _file_names(split: str) -> set[str]:
    return {f"{s}{kind}{gz}" for s in _SPLITS[split] for kind in KINDS for gz in ("", ".gz")}


def _built_in_folder(name: str, kind: _Format, data_dir: Path | None, setting: str) -> Path:
    if data_dir is not None and (data_dir / name).is_dir():
        return data_dir / name
    variable = f"{name.upper()}_PATH"
    chosen = os.environ.get(variable)
    if chosen:
        if not Path(chosen).is_dir():
            raise UserError(
                f"{variable}={chosen}: no such folder; correct the variable or unset it"
            )
        return Path(chosen)
    folder = Path.home() / ".cache" / "bayesgen" / name
    if not folder.is_dir():
        raise UserError(
            f"{setting} {name}: not found; put train.tsv and {kind.test}.tsv (or .tsv.gz) into"
            f" {folder if data_dir is None else data_dir / name}, or set {variable} to their folder"
        )
    return folder


def _built_in_file(name: str, folder: Path, stem: str, setting: str) -> Path:
    for file in (folder / f"{stem}.tsv", folder / f"{stem}.tsv.gz"):
        if file.is_file():
            return file
    raise UserError(f"{setting} {name}: no {stem}.tsv or {stem}.tsv.gz in {folder}; put it there")


def _folder_files(folder: Path) -> dict[str, Path]:
    found = {}
    for split in _SPLITS:
        names = _file_names(split)
        files = sorted(file for file in folder.iterdir() if file.name in names)
        if len(files) > 1:
            raise UserError(
                f"{folder}: {files[0].name} and {files[1].name} are both the {split} split; keep"
                " one of them"
            )
        if files:
            found[split] = files[0]
    if "train" not in found:
        raise UserError(
            f"{folder}: no train.tsv, .csv or .jsonl (or one of these with .gz) in this folder;"
            " name the training file so, or pass a file"
        )
    return found


def _read_table(path: Path, headed: bool, kind: _Format = _ANY) -> Table:
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in KINDS:
        raise UserError(
            f"{path}: not one of {', '.join(KINDS)} (or with .gz); rename or convert it"
        )
    text = _read_text(path)
    if suffix == ".jsonl":
        return _json_table(path, text)
    return _separated_table(path, text, suffix == ".csv", headed, kind)


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")  # without the mark that spreadsheets put in front
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 at byte {error.start}; convert the file to UTF-8"
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file; copy or compress it again") from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); pass a readable file"
        ) from error


def _separated_table(path: Path, text: str, comma: bool, headed: bool, kind: _Format) -> Table:
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
    header, widths = None, [len(rows[0])] if rows else []
    known = {*TEXTS, *PAIRS, *LABELS}
    if rows and (known & set(map(plain, rows[0])) or (headed and not kind.columns)):
        header, rows, lines = rows[0], rows[1:], lines[1:]
    elif kind.columns:
        header = list(kind.columns)
        widths = sorted({len(header), len(header) + kind.extra})
    table = Table(str(path), header, rows, lines)
    table.require_width(widths)
    return table


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
        raise UserError(
            f"{folder}: this folder needs the library datasets; pip install datasets"
        ) from error
    try:
        stored = datasets.load_from_disk(str(folder))
    except Exception as error:  # a damaged folder raises what pyarrow raises
        raise UserError(
            f"{folder}: no loadable folder of datasets ({' '.join(str(error).split())[:200]}); save"
            " it again"
        ) from error
    splits = stored if isinstance(stored, dict) else {"train": stored}
    tables = {
        split: _datasets_table(f"{folder} ({alias})", splits[alias])
        for split, aliases in _SPLITS.items()
        for alias in aliases
        if alias in splits
    }
    if "train" not in tables:
        raise UserError(
            f"{folder}: no split 'train' in this folder (there are: {', '.join(splits)})"
        )
    return tables


def _datasets_table(source: str, split: Any) -> Table:
    header = list(split.column_names)
    classes = {
        column: tuple(feature.names)
        for column, feature in split.features.items()
        if hasattr(feature, "names")
    }
    table = Table(source, header, [], range(1, len(split) + 1), "row", classes)
    content = split.with_format(None)[:]
    for column, names in classes.items():
        content[column] = by_name(content[column], names, table.at)
    table.rows.extend(map(list, zip(*(content[column] for column in header), strict=True)))
    return table


def by_name(values: Sequence[Any], classes: tuple[str, ...], at: Callable[[int], str]) -> list[Any]:
    """`values` with the class's name in the place of an integer id."""
    for i, value in enumerate(values):
        if isinstance(value, Integral) and not 0 <= int(value) < len(classes):
            raise UserError(
                f"{at(i)}: label {value} is outside the range of the {len(classes)} classes"
                f" ({some(classes)}), 0 to {len(classes) - 1}; correct or remove it"
            )
    return [classes[int(v)] if isinstance(v, Integral) else v for v in values]


def as_number(value: Any) -> int | float | None:
    """`value` as a number, an int where it is whole; None where it is none."""
    if isinstance(value, str | Integral):
        with suppress(ValueError):
            return int(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else number


def plain(column: Any) -> str:
    """The name of a column, however it is written."""
    return str(column).strip().casefold()


def short(value: Any) -> str:
    """The start of `value`, for a message of one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else text[:37] + "..."


def some(names: Sequence[str]) -> str:
    """Some of `names`, for a message of one line."""
    shown = ", ".join(short(name) for name in names[:10])
    return shown + (", ..." if len(names) > 10 else "")
