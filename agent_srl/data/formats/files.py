"""Where records come from: JSON, JSON lines, gzip, parquet, folders of them, data sets on disk and on the hub.

Every record comes with its place, or with why it could not be read. Files are told apart by content, not by their
ending.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from agent_srl.data.formats.identity import Origin
from agent_srl.errors import DataError

ENDINGS = (".json", ".jsonl", ".ndjson", ".traj", ".parquet")
"""Of the files that are read in a folder, each also with `.gz`."""
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
"""How these files begin, whatever they are called."""
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(?::[\w.-]+)?")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

Found = tuple[Origin, Any]
"""A place and its JSON value, or the ValueError that reading it raised."""


def find_records(path: Path | str) -> Iterator[Found]:
    """Every record of a file, a folder (with all below it) or a data set `owner/name[:split]`.

    Raises:
        DataError: it is not there, cannot be read, or holds nothing.
    """
    where = Path(path)
    if where.is_dir():
        yield from _folder(where)
    elif where.exists() or not _HUB_ID.fullmatch(str(path)) or where.name.endswith((*ENDINGS, ".gz")):
        yield from _file(where)
    else:
        yield from _hub(str(path))


def _folder(folder: Path) -> Iterator[Found]:
    if (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists():
        yield from _saved(folder)
        return
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name.removesuffix(".gz").endswith(ENDINGS))
    if not files:
        raise DataError(f"{folder} holds no trajectory file (endings: {', '.join(ENDINGS)}, each also with .gz)")
    for file in files:
        try:
            yield from _file(file)
        except DataError as error:
            reason = str(error).removeprefix(f"{file} ")
            yield Origin(file, 1), ValueError(reason)


def _file(file: Path) -> Iterator[Found]:
    try:
        begin = _begin(file)
        if file.suffix == ".parquet" or begin == _PARQUET:
            yield from _parquet(file)
            return
        with _open(file, packed=file.suffix == ".gz" or begin.startswith(_GZIP)) as text:
            yield from _values(file, text)
    except FileNotFoundError:
        raise DataError(f"no such file: {file}; check the path") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{file} is not a whole gzip file ({error}); unpack it, or copy it again") from None
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from None


def _begin(file: Path) -> bytes:
    if not file.is_file():  # a pipe can be read only once
        return b""
    with file.open("rb") as opened:
        return opened.read(len(_PARQUET))


def _open(file: Path, *, packed: bool) -> IO[str]:
    # newline="\n": other line breaks may stand inside a JSON string
    opened = gzip.open if packed else open
    return cast(IO[str], opened(file, "rt", encoding="utf-8-sig", errors="replace", newline="\n"))


def _values(file: Path, text: IO[str]) -> Iterator[Found]:
    """JSON lines if the first line that says something is a whole value, else one JSON text."""
    lines = enumerate(text, start=1)
    first = next(((n, line) for n, line in lines if line.strip()), None)
    if first is None:
        raise DataError(f"{file} is empty; it needs at least one record")
    whole = file.name.removesuffix(".gz").endswith((".json", ".traj"))
    value = _load(first[1])
    if isinstance(value, ValueError) and (whole or not _starts_a_line_record(first[1])):
        value = _load(first[1] + text.read())
        if isinstance(value, ValueError):
            raise DataError(f"{file} is not JSON ({value}); JSON lines need a whole record on each line")
        yield from _whole(file, value)
        return
    second = next(((n, line) for n, line in lines if line.strip()), None)
    if second is None and not isinstance(value, ValueError):
        yield from _whole(file, value)
        return
    yield Origin(file, first[0]), value
    for n, line in chain([second] if second else [], lines):
        if line.strip():
            yield Origin(file, n), _load(line)


def _starts_a_line_record(line: str) -> bool:
    """A broken line of JSON lines, not the opening of a text over many lines."""
    return len(line.strip()) > 2


def _whole(file: Path, value: Any) -> Iterator[Found]:
    """A file that is one value: a record, a list of records, or a list that is itself one run."""
    if not isinstance(value, list):
        yield Origin(file, 1, alone=True), value
    elif value and all(isinstance(item, dict) and isinstance(item.get("role"), str) for item in value):
        yield Origin(file, 1, alone=True), {"messages": value}
    elif value and all(isinstance(item, dict) and item.keys() & {"action", "observation", "kind"} for item in value):
        yield Origin(file, 1, alone=True), {"history": value}
    else:
        for n, item in enumerate(value, start=1):
            yield Origin(file, n, alone=len(value) == 1), item


def _load(text: str) -> Any:
    """The JSON value, or the error as a value."""
    try:
        value = json.loads(text)
    except ValueError as error:
        return ValueError(f"not JSON: {error}")
    except RecursionError:
        return ValueError("not JSON that can be read: nested too deeply")
    return _mend(value) if _SURROGATE.search(text) else value


def _mend(value: Any) -> Any:
    """Half a surrogate pair cannot be written or tokenised; it becomes the replacement character."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_mend(item) for item in value]
    if isinstance(value, dict):
        return {_mend(key): _mend(item) for key, item in value.items()}
    return value


def _parquet(file: Path) -> Iterator[Found]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"reading {file} needs pyarrow: pip install 'agent-srl[train]'") from None
    try:
        batches = parquet.ParquetFile(file).iter_batches(batch_size=64)
        rows = (row for batch in batches for row in batch.to_pylist())
        yield from ((Origin(file, n), row) for n, row in enumerate(rows, start=1))
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{file} is no parquet file ({error})") from None


def _saved(folder: Path) -> Iterator[Found]:
    """What `Dataset.save_to_disk` wrote."""
    load = _datasets(str(folder)).load_from_disk
    yield from _rows(str(folder), lambda: load(str(folder)), split="")


def _hub(name: str) -> Iterator[Found]:
    datasets = _datasets(name)
    identity, _, split = name.partition(":")
    yield from _rows(name, lambda: datasets.load_dataset(identity), split)


def _rows(name: str, load: Any, split: str) -> Iterator[Found]:
    try:
        data = load()
    except Exception as error:  # whatever the hub's client raises: offline, no such data set, no permission
        line = str(error).strip().split("\n")[0]
        raise DataError(
            f"cannot load the data set {name} ({type(error).__name__}: {line}); is there a network, and does the name "
            "exist? A local file or folder needs neither"
        ) from None
    if isinstance(data, dict):
        if not split and len(data) > 1:
            raise DataError(f"{name} has the splits {', '.join(data)}: name one, such as {name}:{next(iter(data))}")
        if split and split not in data:
            raise DataError(f"{name} has no such split; it has {', '.join(data)}")
        data = data[split or next(iter(data))]
    yield from ((Origin(name, n), dict(row)) for n, row in enumerate(data, start=1))


def _datasets(name: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError(f"loading {name} needs the package datasets: pip install 'agent-srl[train]'") from None
    return datasets
