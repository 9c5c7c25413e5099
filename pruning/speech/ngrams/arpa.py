"""Read and write n-gram models in ARPA format, the back-off form that KenLM, SRILM, Kaldi and kaldilm use.

``\\data\\`` and the number of n-grams of each length are followed by sections such as ``\\2-grams:``. Their lines
contain the log10 probability, the words, and, except for the longest n-grams, the log10 back-off weight. ``\\end\\``
comes last.
"""

from __future__ import annotations

import codecs
import gzip
import io
import itertools
import logging
import math
import re
import zlib
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np

from pruning.errors import UserError
from pruning.files import PathLike, atomic_path
from pruning.speech.ngrams import ngram
from pruning.speech.ngrams.ngram import Level, NgramModel
from pruning.speech.text.normalisation import normalised

_LOG10 = math.log(10.0)
_NO_UNKNOWN = -100.0  # log10 probability of <unk> if a file has none, as in KenLM
_AGAIN = "give an ARPA file such as local/make_ngram.py or KenLM write"
_COUNT = re.compile(rb"ngram\s+(\d+)\s*=\s*(\d+)")

logger = logging.getLogger(__name__)


def write(model: NgramModel, path: PathLike) -> None:
    """Write ``model`` to ``path``, gzipped if its name ends in ``.gz``; the same model gives the same bytes."""
    with atomic_path(path) as temporary, _writing(temporary) as stream:
        stream.write("\\data\\\n")
        for length, level in enumerate(model.levels, start=1):
            stream.write(f"ngram {length}={len(level.keys)}\n")
        texts = list(model.words)
        for length, level in enumerate(model.levels, start=1):
            stream.write(f"\n\\{length}-grams:\n")
            if length > 1:
                histories, last = np.divmod(level.keys, len(model.words))
                texts = [f"{texts[row]} {model.words[word]}" for row, word in zip(histories.tolist(), last.tolist())]
            highest = length == model.order
            weights = itertools.repeat("") if highest else (f"\t{weight:.6f}" for weight in _log10(level.back_off))
            columns = zip(_log10(level.log_probability), texts, weights)
            stream.writelines(f"{probability:.6f}\t{text}{weight}\n" for probability, text, weight in columns)
        stream.write("\n\\end\\\n")


def _log10(natural: np.ndarray) -> list[float]:
    return (np.round(natural / _LOG10, 6) + 0.0).tolist()  # + 0.0: no minus sign before 0


@contextmanager
def _writing(path: Path) -> Iterator[TextIO]:
    with open(path, "wb") as plain:
        if path.suffix != ".gz":
            with io.TextIOWrapper(plain, encoding="utf-8", newline="\n") as text:
                yield text
            return
        packed = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=plain, mtime=0)
        with packed, io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as text:
            yield text


def read(path: PathLike) -> NgramModel:
    """Read a model, gzipped if the name ends in ``.gz``.

    Lines are checked as they are read, so reading stops at the first broken line. ``<UNK>`` is read as ``<unk>``; if
    the file has neither, ``<unk>`` gets a probability of 1e-100, as in KenLM. Words are normalised as texts are, see
    `pruning.speech.text.normalisation`. The section of a length without n-grams may be missing.

    Raises:
        UserError: the file is missing, truncated or damaged, or a line (named in the message) has wrong numbers,
            counts, words that are not 1-grams, a repeated n-gram, or an n-gram without its history.
    """
    with _reading(path) as stream:
        lines = _Lines(path, stream)
        sizes = _header(lines)
        written, unigrams = _unigrams(lines, sizes)
        words = _in_one_form(written, path)
        ids = {word.encode(): index for some in (words, written) for index, word in enumerate(some)}
        ids[ngram.UNKNOWN_OF_OTHERS.encode()] = ngram.UNKNOWN_ID
        levels = [unigrams]
        for length in range(2, len(sizes) + 1):
            levels.append(_level(lines, length, sizes, ids, levels))
        if lines.current != b"\\end\\":
            raise lines.wrong(r"is not \end\, although all n-grams announced by \data\ were read")
    return NgramModel(words, levels)


@contextmanager
def _reading(path: PathLike) -> Iterator[Iterable[bytes]]:
    try:
        with gzip.open(path, "rb") if Path(path).suffix == ".gz" else open(path, "rb") as stream:
            yield stream
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", "create it with local/make_ngram.py") from None


class _Lines:
    """The non-blank lines of a file, one at a time; errors name the line.

    Attributes:
        current: current line, without white space at its ends.
        number: number of the current line, from 1.
    """

    def __init__(self, path: PathLike, stream: Iterable[bytes]) -> None:
        self.path, self._lines = path, iter(stream)
        self.current, self.number = b"", 0

    def advance(self, needed: bytes = b"\\end\\") -> bytes:
        """Go to the next line and return it; ``needed`` is what the file lacks if there is none."""
        while True:
            try:
                line = next(self._lines, b"")
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise UserError(f"{self.path} is damaged after line {self.number} ({error})", _AGAIN) from None
            if not line:
                what = f"{self.path} is not an ARPA file or is truncated: it ends after line {self.number}"
                raise UserError(f"{what} without {needed.decode()}", _AGAIN)
            self.number += 1
            self.current = (line.removeprefix(codecs.BOM_UTF8) if self.number == 1 else line).strip()
            if self.current:
                return self.current

    def wrong(self, what: str, number: int = 0) -> UserError:
        """Return the error that says ``what`` about a line, by default the current one."""
        return UserError(f"{self.path} line {number or self.number} {what}", _AGAIN)


def _header(lines: _Lines) -> list[int]:
    """Return the numbers of n-grams given after ``\\data\\``, from length 1; text before it is skipped."""
    while lines.advance(needed=b"\\data\\") != b"\\data\\":
        pass
    sizes: list[int] = []
    while match := _COUNT.fullmatch(lines.advance()):
        if int(match[1]) != len(sizes) + 1:
            raise lines.wrong(f"does not give the number of {len(sizes) + 1}-grams")
        sizes.append(int(match[2]))
    if not sizes:
        raise lines.wrong("does not give the number of 1-grams")
    return sizes


def _section(lines: _Lines, length: int, sizes: list[int]) -> Iterator[tuple[float, list[bytes], float]]:
    """Yield log10 probability, words and log10 back-off weight of each n-gram; end on the first line after them.

    Args:
        lines: positioned at the head of the section.
        length: length of the n-grams in the section.
        sizes: number of n-grams of each length, from 1.
    """
    if lines.current != b"\\%d-grams:" % length:
        if not sizes[length - 1]:
            return
        raise lines.wrong(rf"is not \{length}-grams:, although all shorter n-grams announced by \data\ were read")
    highest = length == len(sizes)
    shapes = (length + 1,) if highest else (length + 1, length + 2)
    for done in range(sizes[length - 1]):
        fields = lines.advance().split()
        try:
            probability = float(fields[0])
            back_off = float(fields[length + 1]) if len(fields) > length + 1 else 0.0
        except ValueError:
            fields = []
        if len(fields) not in shapes:
            which = rf"{length}-gram {done + 1} of the {sizes[length - 1]} that \data\ announces"
            parts = f"a number and {length} words" + ("" if highest else ", perhaps another number")
            raise lines.wrong(f"is not {which}: {parts}")
        if not probability <= 0 or not math.isfinite(back_off):
            raise lines.wrong(
                "has an invalid log10 probability (must be at most 0) or back-off weight (must be finite)"
            )
        yield probability, fields[1 : length + 1], back_off
    lines.advance()


def _unigrams(lines: _Lines, sizes: list[int]) -> tuple[list[str], Level]:
    """Return the words in order of their ids, as they are written, and the first level."""
    found: dict[str, tuple[float, float]] = {}
    unknown = ""  # a file may have it in both cases; the later counts, as in KenLM
    for probability, (word,), back_off in _section(lines, 1, sizes):
        try:
            text = word.decode()
        except UnicodeDecodeError:
            raise lines.wrong("is not text in UTF-8") from None
        written, text = text, ngram.UNKNOWN if text == ngram.UNKNOWN_OF_OTHERS else text
        if text in found and (text != ngram.UNKNOWN or written == unknown):
            raise lines.wrong(f"repeats the 1-gram {text}")
        unknown = written if text == ngram.UNKNOWN else unknown
        found[text] = probability, back_off
    for mark in (ngram.START, ngram.END):
        if mark not in found:
            raise lines.wrong(f"ends the 1-grams, but {mark} is not one of them")
    if ngram.UNKNOWN not in found:
        logger.info("%s has no %s: unknown words get almost zero probability", lines.path, ngram.UNKNOWN)
        found[ngram.UNKNOWN] = _NO_UNKNOWN, 0.0
    words = [*ngram.SPECIAL, *(word for word in found if word not in ngram.SPECIAL)]
    values = np.array([found[word] for word in words]) * _LOG10
    return words, Level(np.arange(len(words)), values[:, 0], values[:, 1])


def _in_one_form(written: list[str], path: PathLike) -> list[str]:
    """The words as texts have them; the log says how many remain that no text has."""
    words, taken = [], set(written)
    for word in written:
        form = normalised(word)
        if form not in taken and form.split() == [form]:
            taken.add(form)
            word = form
        words.append(word)
    strange = [word for word in words if word != normalised(word)]
    if strange:
        logger.warning("%d words of %s occur in no text as texts are read here: %a, for one",
                       len(strange), path, strange[0])  # fmt: skip
    return words


def _level(lines: _Lines, length: int, sizes: list[int], ids: dict[bytes, int], levels: list[Level]) -> Level:
    """Return the level of n-grams of ``length`` above those already read."""
    words, values, numbers = array("q"), array("d"), array("q")
    for probability, sequence, back_off in _section(lines, length, sizes):
        try:
            words.extend([ids[word] for word in sequence])
        except KeyError as error:
            raise lines.wrong(f"contains {error.args[0].decode(errors='replace')}, which is not a 1-gram") from None
        values.extend((probability, back_off))
        numbers.append(lines.number)
    columns = np.array(words).reshape(-1, length).T
    rows = columns[0]
    for level, column in zip(levels[1:], columns[1:]):
        rows = level.find_all(rows * len(levels[0].keys) + column)
    if rows.min(initial=0) < 0:
        number = numbers[int(rows.argmin())]
        raise lines.wrong(f"has a {length}-gram whose first {length - 1} words are not a {length - 1}-gram", number)
    keys = rows * len(levels[0].keys) + columns[-1]
    by_key = keys.argsort(kind="stable")
    keys = keys[by_key]
    repeated = by_key[1:][keys[1:] == keys[:-1]]
    if len(repeated):
        raise lines.wrong(f"repeats a {length}-gram", numbers[int(repeated.min())])
    natural = np.array(values).reshape(-1, 2)[by_key] * _LOG10
    return Level(keys, natural[:, 0], natural[:, 1])
