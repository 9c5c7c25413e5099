"""Text as cached token ids: encoded once, memory-mapped by every process."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal, Optional

import numpy as np

from pruning.errors import UserError
from pruning.files import PathLike, atomic_path, read_json, write_json
from pruning.speech.text.table import TextTable
from pruning.speech.text.text_files import check_texts, read_sentences
from pruning.speech.text.written_form import WRITTEN

logger = logging.getLogger(__name__)

_CHUNK = 20_000
_VERSION = 4
_FACTS, _IDS, _LENGTHS = "facts.json", "ids.npy", "lengths.npy"


@dataclass(frozen=True)
class Form:
    """How the lines of a text are written.

    Attributes:
        written: one of `pruning.speech.text.written_form.WRITTEN`.
        joined: whether lines follow each other as running text.
    """

    written: str = "as-is"
    joined: bool = False


@dataclass(frozen=True)
class FileFacts:
    """Statistics of a text file.

    Attributes:
        path, size, changed: path, size in bytes, and modification time in ns.
        sentences, empty: number of lines with and without words, as the form writes them.
        tokens, unknown: number of tokens and of unknown ones; word marks are not counted.
        first: description of the first unknown token's place; empty if there is none.
        first_empty: number of the first empty line, from 1; 0 if there is none.
    """

    path: str
    size: int
    changed: int
    sentences: int
    empty: int
    tokens: int
    unknown: int
    first: str
    first_empty: int


@dataclass(frozen=True)
class TokenizedText:
    """All sentences of some files, concatenated.

    Attributes:
        ids: ``(T,)`` tokens, in the smallest integer type that the vocabulary needs.
        lengths: ``(S,)`` int32, number of tokens in each sentence.
        files: statistics of each file, see `FileFacts`.
    """

    ids: np.ndarray
    lengths: np.ndarray
    files: tuple[FileFacts, ...]


def tokenized(
    paths: Sequence[PathLike], tokenizer: TextTable, cache: Optional[PathLike] = None, form: Form = Form()
) -> TokenizedText:
    """Return the sentences of text files as token ids.

    Args:
        paths: text files, one sentence per line, plain or gzipped; empty lines are skipped.
        tokenizer: tokens of the language model.
        cache: directory that keeps the ids, keyed by files and tokeniser. They are made again when the size or
            modification time of a file changes; one process makes them while others wait. If None or not writable,
            ids are made in memory every time.
        form: how lines are written, see `Form`.

    Raises:
        UserError: a file is missing or is not text.
    """
    files = check_texts(paths)
    if cache is not None:
        written = [] if form == Form() else [repr(form)]  # what was cached without a form is of the default one
        named = "\n".join([*(str(path.resolve()) for path in files), tokenizer.fingerprint, str(_VERSION), *written])
        place = Path(cache) / f"{files[0].name.split('.')[0]}-{hashlib.sha256(named.encode()).hexdigest()[:16]}"
        try:
            with _alone(place):
                if not _is_of(place, files):
                    with atomic_path(place) as directory:
                        _write(files, tokenizer, directory, form)
            return _read(place, mapped=True)
        except OSError as error:
            logger.warning("cannot cache token ids in %s (%s): text is encoded again at every start", cache, error)
    with tempfile.TemporaryDirectory() as temporary:
        _write(files, tokenizer, Path(temporary), form)
        return _read(Path(temporary), mapped=False)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Wait for and hold the lock of ``place``; the lock ends with the process."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.with_name(f".{place.name}.lock"), "a", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _is_of(place: Path, files: Sequence[Path]) -> bool:
    if not (place / _FACTS).is_file():
        return False
    known = [(facts["size"], facts["changed"]) for facts in read_json(place / _FACTS)["files"]]
    return known == [_stamp(path) for path in files]


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _write(files: Sequence[Path], tokenizer: TextTable, directory: Path, form: Form) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    kind = np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32
    with open(directory / "ids", "wb") as ids, open(directory / "lengths", "wb") as lengths:
        facts = [asdict(_write_file(path, tokenizer, kind, ids, lengths, form)) for path in files]
    for raw, name, dtype in (("ids", _IDS, kind), ("lengths", _LENGTHS, np.int32)):
        _to_npy(directory / raw, directory / name, dtype)
    write_json(directory / _FACTS, {"files": facts})


def _to_npy(raw: Path, path: Path, dtype: Any) -> None:
    """Convert raw numbers to NumPy's format, whose header needs their count."""
    size = raw.stat().st_size
    values = np.memmap(raw, dtype, mode="r") if size else np.zeros(0, dtype)
    np.save(path, values)
    del values
    raw.unlink()


def _write_file(
    path: Path, tokenizer: TextTable, kind: Any, ids: IO[bytes], lengths: IO[bytes], form: Form
) -> FileFacts:
    size, changed = _stamp(path)
    sentences = empty = tokens = unknown = first_empty = 0
    first = ""
    numbered = enumerate(read_sentences(path), start=1)
    while lines := list(itertools.islice(numbered, _CHUNK)):
        written = [WRITTEN[form.written](line) for _, line in lines]
        filled = [numbered_line for numbered_line, text in zip(lines, written) if text]
        if len(filled) < len(lines) and not first_empty:
            first_empty = next(number for (number, _), text in zip(lines, written) if not text)
        texts = [text for text in written if text]
        if form.joined and tokenizer.joint:
            texts = [text if first and not sentences else f"{tokenizer.joint}{text}"
                     for first, text in zip(itertools.chain([True], itertools.repeat(False)), texts)]  # fmt: skip
        rows = tokenizer.encode_all(texts)
        counts = np.fromiter(map(len, rows), np.int32, len(rows))
        flat = np.fromiter(itertools.chain.from_iterable(rows), kind, int(counts.sum()))
        flat.tofile(ids)
        counts.tofile(lengths)
        strange, counted = tokenizer.count_unknown(flat)
        if strange and not first:
            row = int(np.searchsorted(np.cumsum(counts), np.argmax(flat == tokenizer.unknown_id), side="right"))
            first = f"line {filled[row][0]}, {filled[row][1][:40]!r}"
        sentences, empty = sentences + len(filled), empty + len(lines) - len(filled)
        tokens, unknown = tokens + counted, unknown + strange
    return FileFacts(str(path), size, changed, sentences, empty, tokens, unknown, first, first_empty)


def _read(place: Path, mapped: bool) -> TokenizedText:
    try:
        facts = read_json(place / _FACTS)["files"]
        filled = any(one["sentences"] for one in facts)  # an empty file cannot be mapped
        mode: Optional[Literal["r"]] = "r" if mapped and filled else None
        ids, lengths = (np.load(place / name, mmap_mode=mode) for name in (_IDS, _LENGTHS))
    except (ValueError, KeyError) as error:
        raise UserError(
            f"token ids in {place} are broken ({error})", "remove the directory; it is created again"
        ) from None
    return TokenizedText(ids, lengths, tuple(FileFacts(**one) for one in facts))
