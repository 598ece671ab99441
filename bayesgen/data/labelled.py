"""Labelled texts as plain data: from a name, a file, a folder or an iterable, in checked splits.

A row is a text or a pair of texts, and a label: one of a few classes, or a score.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import hashlib
import importlib
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayesgen.errors import UserError

CLASSIFICATION = "sequence-classification"
REGRESSION = "regression"
TASKS = (CLASSIFICATION, REGRESSION)

VALIDATION = 0.1
"""Default share of the training rows that validates where the data have no rows for that."""

KINDS = (".tsv", ".csv", ".jsonl")

_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation", "dev"), "test": ("test",)}
_TEXTS = ("text", "sentence", "review", "sentence1")
_PAIRS = ("sentence2",)
_LABELS = {
    CLASSIFICATION: ("label", "score", "similarity"),
    REGRESSION: ("score", "similarity", "label"),
}
_LARGEST = float(np.finfo(np.float32).max)
_KNOWN = {*_TEXTS, *_PAIRS, *_LABELS[REGRESSION]}


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


@dataclass(frozen=True, eq=False)
class Labelled:
    """Texts with labels.

    Attributes:
        first: N texts.
        second: N texts that belong to those, where a row is a pair.
        labels: [N], int64 ids of classes or float32 scores.
        classes: their names, in the order of the ids; None where the labels are scores.
    """

    name: str
    first: tuple[str, ...]
    second: tuple[str, ...] | None
    labels: NDArray[np.int64] | NDArray[np.float32]
    classes: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: ArrayLike, name: str | None = None) -> Labelled:
        """The given `rows` (1-D indices), in their order."""
        chosen = np.asarray(rows, dtype=np.int64)
        return Labelled(
            name or self.name,
            tuple(self.first[i] for i in chosen),
            None if self.second is None else tuple(self.second[i] for i in chosen),
            self.labels[chosen],
            self.classes,
        )

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of all that was read: texts, labels and classes, but not the name."""
        content = [self.first, self.second, self.labels.tolist(), self.classes]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class LabelledCorpus:
    """The splits of one set of labelled texts; they have the same classes."""

    name: str
    task: str
    train: Labelled
    val: Labelled
    test: Labelled | None

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.train.classes

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Plain data: "sha256" of all splits, "train_rows", "val_rows", "test_rows", "classes"."""
        splits = (self.train, self.val, self.test)
        digests = " ".join("" if split is None else split.fingerprint for split in splits)
        return {
            "sha256": hashlib.sha256(digests.encode()).hexdigest(),
            "train_rows": len(self.train),
            "val_rows": len(self.val),
            "test_rows": 0 if self.test is None else len(self.test),
            "classes": None if self.classes is None else list(self.classes),
        }


@dataclass(frozen=True)
class _Columns:
    """Names of columns that the user chose."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None

    @property
    def any(self) -> bool:
        return any((self.text, self.pair, self.label))


def load_labelled(
    name_or_path: str,
    *,
    task: str,
    data_dir: Path | None = None,
    validation: float = VALIDATION,
    seed: int = 0,
    text_column: str | None = None,
    label_column: str | None = None,
    pair_column: str | None = None,
) -> LabelledCorpus:
    """Load a built-in set (`NAMES`), a file, a folder of files, or a folder of `datasets`.

    A built-in set is a folder of that name in `data_dir`, else the folder that a variable such as
    AG_NEWS_PATH names, else in ~/.cache/bayesgen; nothing is downloaded. A file is of a kind in
    `KINDS`, also with .gz; a folder holds train.*, and perhaps val.* (or valid, validation, dev)
    and test.*; or it was written by `save_to_disk`. Quotes in a .tsv are ordinary characters.

    Columns are found by their names: text, sentence, review or sentence1, then sentence2; label,
    score or similarity. A file without such a header must have two columns: for a regression the
    label is the one that holds numbers only, else the one with fewer distinct values. Labels that
    are whole numbers are classes in numerical order (0..C-1 stay as they are), names are so in
    alphabetical order.

    Args:
        task: one of `TASKS`.
        validation: where the data have no rows for validation, how many of the training rows
            become these, drawn by `seed`: a share below 1 or a number. Where they have, anything
            but the default is refused.
        text_column, pair_column, label_column: names in the header; without `pair_column`, a
            given `text_column` stands alone.

    Raises:
        UserError: something is missing, damaged or does not fit the task.
    """
    if task not in TASKS:
        raise UserError(f"--task {task}: labelled texts are for {' and '.join(TASKS)}")
    wanted = _Columns(text_column, pair_column, label_column)
    name, tables = _tables(name_or_path, data_dir, wanted)
    for split, table in tables.items():
        if not table.rows:
            raise UserError(f"{table.source}: the {split} split has no rows; add some")
    columns = _find_columns(tables["train"], task, wanted)
    train = _labelled(f"{name}/train", _rows(tables["train"], columns), task)
    others = {
        split: _labelled(
            f"{name}/{split}",
            _rows(table, _find_columns(table, task, wanted, columns)),
            task,
            train,
        )
        for split, table in tables.items()
        if split != "train"
    }
    if "val" not in others:
        train, others["val"] = split_rows(train, validation, seed)
    elif validation != VALIDATION:
        raise UserError(
            f"--validation {validation:g}: {name_or_path} has rows of its own for validation;"
            " leave the flag out"
        )
    _require_classes(train)
    return LabelledCorpus(name, task, train, others["val"], others.get("test"))


def labelled(
    rows: Iterable[Sequence[Any]],
    classes: Sequence[str] | None = None,
    *,
    task: str = CLASSIFICATION,
    name: str = "rows",
) -> Labelled:
    """`rows` of (text, label) or (text, text, label) as data.

    Args:
        classes: names in the order of their ids. An integer is then an id and a string a name;
            by default the classes are those that occur, as in `load_labelled`.
        task: one of `TASKS`.

    Raises:
        UserError: a row is not of this form, or its label is none of the task.
    """
    listed = [list(row) for row in rows]
    table = _Table(name, None, listed, range(1, len(listed) + 1), "row")
    if not listed:
        raise UserError(f"{name}: there are no rows; pass some")
    width = len(listed[0])
    if width not in (2, 3):
        raise UserError(f"{table.at(0)}: {width} fields; pass (text, label) or (text, text, label)")
    table.require_width((width,))
    read = _rows(table, (0, 1 if width == 3 else None, width - 1))
    if classes is None:
        found = _labelled(name, read, task)
        _require_classes(found)
        return found
    if len(set(classes)) != len(classes):
        raise UserError(f"{name}: two classes have the same name; give each its own")
    named = _by_name(read.labels, tuple(classes), read.at)
    return _labelled(name, replace(read, labels=named, classes=tuple(classes)), task)


def split_rows(data: Labelled, validation: float, seed: int) -> tuple[Labelled, Labelled]:
    """Rows for training and for validation, drawn by `seed`, each in the order of `data`.

    Args:
        validation: a share below 1 (of which at least one row comes), or a number of rows.

    Raises:
        UserError: `validation` leaves nothing to train on, or asks for nothing.
    """
    number = validation
    if 0 < validation < 1:
        number = min(max(1, round(len(data) * validation)), len(data) - 1)
    if not (1 <= number < len(data) and number == int(number)):
        raise UserError(
            f"--validation {validation:g}: {data.name} has {len(data):,} rows; choose a share below"
            f" 1 or a number from 1 to {len(data) - 1}"
        )
    order = shuffled(len(data), seed, "validation")
    held, kept = np.sort(order[: int(number)]), np.sort(order[int(number) :])
    return data.take(kept), data.take(held, data.name.removesuffix("/train") + "/val")


def shuffled(rows: int, seed: int, purpose: str) -> NDArray[np.int64]:
    """A permutation of `rows` by `seed`; two purposes never share a stream.

    Raises UserError for a negative seed.
    """
    if seed < 0:
        raise UserError(f"--seed {seed}: choose a number that is not negative")
    stream = np.random.SeedSequence(seed, spawn_key=tuple(purpose.encode()))
    return np.random.default_rng(stream).permutation(rows)


# Files


@dataclass(frozen=True)
class _Table:
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


def _tables(
    name_or_path: str, data_dir: Path | None, wanted: _Columns
) -> tuple[str, dict[str, _Table]]:
    """The name of the data, and the table of each split."""
    path = Path(name_or_path).expanduser()
    if name_or_path in _FORMATS:
        kind = _FORMATS[name_or_path]
        folder = _built_in_folder(name_or_path, kind, data_dir)
        files = {
            "train": _built_in_file(name_or_path, folder, "train"),
            "test": _built_in_file(name_or_path, folder, kind.test),
        }
        return name_or_path, {s: _read_table(f, wanted, kind) for s, f in files.items()}
    if path.is_dir():
        if any((path / f).is_file() for f in ("dataset_dict.json", "state.json")):
            return path.resolve().name, _datasets_tables(path)
        return path.resolve().name, {
            s: _read_table(f, wanted) for s, f in _folder_files(path).items()
        }
    if path.exists():
        return path.name, {"train": _read_table(path, wanted)}
    near = difflib.get_close_matches(name_or_path.lower(), NAMES, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "pass one of these names or an existing path"
    raise UserError(
        f"--data {name_or_path}: neither a path nor built-in data ({', '.join(NAMES)}); {hint}"
    )


def _built_in_folder(name: str, kind: _Format, data_dir: Path | None) -> Path:
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
            f"--data {name}: not found; put train.tsv and {kind.test}.tsv (or .tsv.gz) into"
            f" {folder if data_dir is None else data_dir / name}, or set {variable} to their folder"
        )
    return folder


def _built_in_file(name: str, folder: Path, stem: str) -> Path:
    for file in (folder / f"{stem}.tsv", folder / f"{stem}.tsv.gz"):
        if file.is_file():
            return file
    raise UserError(f"--data {name}: no {stem}.tsv or {stem}.tsv.gz in {folder}; put it there")


def _folder_files(folder: Path) -> dict[str, Path]:
    found = {}
    for split, stems in _SPLITS.items():
        names = {f"{stem}{kind}{gz}" for stem in stems for kind in KINDS for gz in ("", ".gz")}
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


def _read_table(path: Path, wanted: _Columns, kind: _Format = _ANY) -> _Table:
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in KINDS:
        raise UserError(
            f"{path}: not one of {', '.join(KINDS)} (or with .gz); rename or convert it"
        )
    text = _read_text(path)
    if suffix == ".jsonl":
        return _json_table(path, text)
    return _separated_table(path, text, suffix == ".csv", wanted, kind)


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


def _separated_table(path: Path, text: str, comma: bool, wanted: _Columns, kind: _Format) -> _Table:
    lines_of_text = io.StringIO(text, newline="")
    if comma:
        reader = csv.reader(lines_of_text, strict=True)
    else:
        reader = csv.reader(lines_of_text, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
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
    if rows and (_KNOWN & set(map(_plain, rows[0])) or (wanted.any and not kind.columns)):
        header, rows, lines = rows[0], rows[1:], lines[1:]
    elif kind.columns:
        header = list(kind.columns)
        widths = sorted({len(header), len(header) + kind.extra})
    table = _Table(str(path), header, rows, lines)
    table.require_width(widths)
    return table


def _json_table(path: Path, text: str) -> _Table:
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
    return _Table(str(path), header, [[o.get(key) for key in header] for o in objects], lines)


def _datasets_tables(folder: Path) -> dict[str, _Table]:
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


def _datasets_table(source: str, split: Any) -> _Table:
    header = list(split.column_names)
    classes = {
        column: tuple(feature.names)
        for column, feature in split.features.items()
        if hasattr(feature, "names")
    }
    content = split.with_format(None)[:]
    columns = [list(content[column]) for column in header]
    table = _Table(source, header, [], range(1, len(split) + 1), "row", classes)
    for column, names in classes.items():
        i = header.index(column)
        columns[i] = _by_name(columns[i], names, table.at)
    table.rows.extend(map(list, zip(*columns, strict=True)))
    return table


# Columns

_Places = tuple[int, int | None, int]
"""Positions of the text, of the second text where there is one, and of the label."""


def _find_columns(
    table: _Table, task: str, wanted: _Columns, train: _Places | None = None
) -> _Places:
    """Where texts and labels are; in a file without a header, where they are in `train`."""
    header = table.header
    if header is None:
        if train is None:
            return _guess_columns(table, task)
        if len(table.rows[0]) <= max(place or 0 for place in train):
            raise UserError(
                f"{table.source}: fewer columns than the training rows have; give it the same"
            )
        return train
    plain = [_plain(column) for column in header]

    def find(chosen: str | None, known: Sequence[str], flag: str) -> int | None:
        if chosen is not None:
            if chosen in header:
                return header.index(chosen)
            raise UserError(
                f"{flag} {chosen}: no such column in {table.source} (there are: {_some(header)})"
            )
        return next((plain.index(name) for name in known if name in plain), None)

    text = find(wanted.text, _TEXTS, "--text-column")
    pair = find(wanted.pair, _PAIRS if wanted.text is None else (), "--pair-column")
    label = find(wanted.label, _LABELS[task], "--label-column")
    if text is None or label is None:
        what, flag = ("text", "--text-column") if text is None else ("label", "--label-column")
        raise UserError(
            f"{table.source}: no {what} column among {_some(header)}; name it by {flag}"
        )
    if len({text, pair, label}) < 3:
        raise UserError(
            f"{table.source}: text, pair and label must be three columns; correct --text-column,"
            " --pair-column or --label-column"
        )
    return text, pair, label


def _guess_columns(table: _Table, task: str) -> _Places:
    """Text and label of two columns without a header, by their content."""
    columns = list(zip(*table.rows, strict=True))
    if len(columns) != 2:
        raise UserError(
            f"{table.source}: {len(columns)} columns and no header that tells the text from the"
            " label; put one on top, such as text and label"
        )
    numeric = [all(_number(value) is not None for value in column) for column in columns]
    distinct = [len(set(column)) for column in columns]
    if task == REGRESSION and numeric[0] != numeric[1]:
        label = numeric.index(True)
    elif distinct[0] != distinct[1]:
        label = distinct.index(min(distinct))
    else:
        raise UserError(
            f"{table.source}: no header, and either column could be the label; put one on top, such"
            " as text and label"
        )
    if task == CLASSIFICATION and len(columns[label]) > 1:
        odd = columns[label][0]
        if odd not in columns[label][1:]:
            raise UserError(
                f"{table.at(0)}: label '{_short(odd)}' occurs nowhere else; name the columns by"
                " --text-column and --label-column if this is a header, else put one on top"
            )
    return 1 - label, None, label


@dataclass(frozen=True)
class _Rows:
    """What a table says, before labels are numbers; `at` says where a row stands."""

    first: tuple[str, ...]
    second: tuple[str, ...] | None
    labels: Sequence[Any]
    classes: tuple[str, ...] | None
    at: Callable[[int], str]


def _rows(table: _Table, columns: _Places) -> _Rows:
    text, pair, label = columns

    def texts(column: int) -> tuple[str, ...]:
        for i, row in enumerate(table.rows):
            if not isinstance(row[column], str):
                what = f" in '{table.header[column]}'" if table.header else ""
                raise UserError(f"{table.at(i)}: no text{what}; complete or remove this row")
        return tuple(row[column] for row in table.rows)

    labels = [row[label] for row in table.rows]
    for i, value in enumerate(labels):
        if value == "" or not isinstance(value, str | Real):
            what = f" in '{table.header[label]}'" if table.header else ""
            raise UserError(
                f"{table.at(i)}: no name or number{what} as a label; complete or remove this row"
            )
    known = (table.classes or {}).get(table.header[label]) if table.header else None
    return _Rows(texts(text), None if pair is None else texts(pair), labels, known, table.at)


# Labels


def _labelled(name: str, rows: _Rows, task: str, train: Labelled | None = None) -> Labelled:
    """`rows` with labels as numbers, in the classes of `train` where that is given."""
    if train is not None and (train.second is None) != (rows.second is None):
        raise UserError(
            f"{name}: pairs of texts in one split and single texts in another; give all the same"
        )
    if task == REGRESSION:
        return Labelled(name, rows.first, rows.second, _scores(rows), None)
    known = rows.classes if train is None else train.classes
    classes = known or _find_classes(rows)
    return Labelled(name, rows.first, rows.second, _class_ids(rows, classes), classes)


def _scores(rows: _Rows) -> NDArray[np.float32]:
    for i, value in enumerate(rows.labels):
        number = _number(value)
        if number is None:
            raise UserError(
                f"{rows.at(i)}: '{_short(value)}' is a label and no score; take --task"
                f" {CLASSIFICATION}"
            )
        if not abs(number) <= _LARGEST:
            raise UserError(f"{rows.at(i)}: {value} is no finite score; correct or remove it")
    return np.array([_number(value) for value in rows.labels], dtype=np.float32)


def _find_classes(rows: _Rows) -> tuple[str, ...]:
    """The names of all classes that occur, numbers in their own order."""
    numbers = [_number(value) for value in rows.labels]
    if any(number is None for number in numbers):
        return tuple(sorted({_class_name(value) for value in rows.labels}))
    for i, number in enumerate(numbers):
        if not isinstance(number, int):
            raise UserError(
                f"{rows.at(i)}: {rows.labels[i]} is a score and no label; take --task {REGRESSION}"
            )
    return tuple(map(str, sorted({number for number in numbers if number is not None})))


def _class_ids(rows: _Rows, classes: tuple[str, ...]) -> NDArray[np.int64]:
    ids = {_class_name(name): i for i, name in enumerate(classes)}
    for i, value in enumerate(rows.labels):
        if _class_name(value) not in ids:
            raise UserError(
                f"{rows.at(i)}: label '{_short(value)}' is none of the {len(classes)} classes"
                f" ({_some(classes)}); correct it"
            )
    return np.array([ids[_class_name(value)] for value in rows.labels], dtype=np.int64)


def _by_name(
    values: Sequence[Any], classes: tuple[str, ...], at: Callable[[int], str]
) -> list[Any]:
    """`values` with the class's name in the place of an integer id."""
    for i, value in enumerate(values):
        if isinstance(value, Integral) and not 0 <= int(value) < len(classes):
            raise UserError(
                f"{at(i)}: label {value} is outside the range of the {len(classes)} classes"
                f" ({_some(classes)}), 0 to {len(classes) - 1}; correct or remove it"
            )
    return [classes[int(v)] if isinstance(v, Integral) else v for v in values]


def _require_classes(train: Labelled) -> None:
    if train.classes is not None and len(np.unique(train.labels)) < 2:
        (only,) = np.unique(train.labels)
        raise UserError(
            f"{train.name}: all {len(train)} rows are of one class, '{train.classes[only]}'; a"
            " classifier needs rows of at least two"
        )


def _number(value: Any) -> int | float | None:
    """`value` as a number, an int where it is whole; None where it is none."""
    if isinstance(value, str | Integral):
        with suppress(ValueError):
            return int(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else number


def _class_name(value: Any) -> str:
    """One spelling for each class: a whole number as such, whether text or number in the file."""
    number = _number(value)
    return str(number) if isinstance(number, int) else str(value).strip()


def _plain(column: Any) -> str:
    return str(column).strip().casefold()


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else text[:37] + "..."


def _some(names: Sequence[str]) -> str:
    """Some of `names`, for a message of one line."""
    shown = ", ".join(_short(name) for name in names[:10])
    return shown + (", ..." if len(names) > 10 else "")
