"""n-gram models in ARPA's text format, the back-off form that KenLM, SRILM, Kaldi and kaldilm read and write.

After ``\\data\\`` and the number of n-grams of each length come sections such as ``\\2-grams:``, whose lines hold the
log10 probability, the words, and the log10 back-off weight unless they are the longest; ``\\end\\`` comes last.
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
_NO_UNKNOWN = -100.0  # log10 probability of <unk> where a file has none, KenLM's
_AGAIN = "give an ARPA file as local/make_ngram.py or KenLM write it"
_COUNT = re.compile(rb"ngram\s+(\d+)\s*=\s*(\d+)")

logger = logging.getLogger(__name__)


def write(model: NgramModel, path: PathLike) -> None:
    """Write ``model`` to ``path``, compressed when its name ends in ``.gz``; the same model gives the same bytes."""
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
    """Read a model, of a compressed file when the name ends in ``.gz``.

    Each line is checked as it is read: the end of a file with a broken line is never looked at. ``<UNK>`` is read as
    ``<unk>``; where neither is there, ``<unk>`` gets a probability of 1e-100, as in KenLM. Words come in the form of
    `pruning.speech.text.normalisation`, as texts do. The section of a length of which there are none may be missing.

    Raises:
        UserError: the file is absent, cut off or damaged, or a line, which the message names, is not as the format
            wants it: numbers, counts, words that are no 1-grams, repeated n-grams, n-grams without their history.
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
            raise lines.wrong(r"is not \end\, which follows as many n-grams as \data\ announces")
    return NgramModel(words, levels)


@contextmanager
def _reading(path: PathLike) -> Iterator[Iterable[bytes]]:
    try:
        with gzip.open(path, "rb") if Path(path).suffix == ".gz" else open(path, "rb") as stream:
            yield stream
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", "make it with local/make_ngram.py") from None


class _Lines:
    """The lines of a file that are not blank, one at a time; a fault names the line.

    Attributes:
        current: the line, without white space at its ends.
        number: of the line, from 1.
    """

    def __init__(self, path: PathLike, stream: Iterable[bytes]) -> None:
        self.path, self._lines = path, iter(stream)
        self.current, self.number = b"", 0

    def advance(self, needed: bytes = b"\\end\\") -> bytes:
        """Go to the next line, and return it. ``needed``: what the file lacks if there is none."""
        while True:
            try:
                line = next(self._lines, b"")
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise UserError(f"{self.path} is damaged after line {self.number} ({error})", _AGAIN) from None
            if not line:
                what = f"{self.path} is no ARPA file or is cut off: it ends after line {self.number}"
                raise UserError(f"{what} without {needed.decode()}", _AGAIN)
            self.number += 1
            self.current = (line.removeprefix(codecs.BOM_UTF8) if self.number == 1 else line).strip()
            if self.current:
                return self.current

    def wrong(self, what: str, number: int = 0) -> UserError:
        """The error to raise for a line, by default the current one, that ``what`` says something of."""
        return UserError(f"{self.path} line {number or self.number} {what}", _AGAIN)


def _header(lines: _Lines) -> list[int]:
    """The numbers of n-grams that follow ``\\data\\``, from length 1; what stands before it is left unread."""
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
    """The log10 probability, words and log10 back-off weight of each n-gram; ends on the first line after them.

    Args:
        lines: at the head of the section.
        length: of its n-grams.
        sizes: the numbers of n-grams from length 1.
    """
    if lines.current != b"\\%d-grams:" % length:
        if not sizes[length - 1]:
            return
        raise lines.wrong(rf"is not \{length}-grams:, which follows as many shorter ones as \data\ announces")
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
            raise lines.wrong("holds no log10 probability and back-off weight: one of at most 0, and a finite one")
        yield probability, fields[1 : length + 1], back_off
    lines.advance()


def _unigrams(lines: _Lines, sizes: list[int]) -> tuple[list[str], Level]:
    """The words by id, as they are written, and the first level."""
    found: dict[str, tuple[float, float]] = {}
    unknown = ""  # a file may have it in both cases: the later counts, as in KenLM
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
            raise lines.wrong(f"ends the 1-grams, and {mark} is none of them")
    if ngram.UNKNOWN not in found:
        logger.info("%s has no %s: words that it does not know are next to impossible", lines.path, ngram.UNKNOWN)
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
    """The level of n-grams of ``length`` above those that were read."""
    words, values, numbers = array("q"), array("d"), array("q")
    for probability, sequence, back_off in _section(lines, length, sizes):
        try:
            words.extend([ids[word] for word in sequence])
        except KeyError as error:
            raise lines.wrong(f"holds {error.args[0].decode(errors='replace')}, which is no 1-gram") from None
        values.extend((probability, back_off))
        numbers.append(lines.number)
    columns = np.array(words).reshape(-1, length).T
    rows = columns[0]
    for level, column in zip(levels[1:], columns[1:]):
        rows = level.find_all(rows * len(levels[0].keys) + column)
    if rows.min(initial=0) < 0:
        number = numbers[int(rows.argmin())]
        raise lines.wrong(f"holds a {length}-gram whose first {length - 1} words are no {length - 1}-gram", number)
    keys = rows * len(levels[0].keys) + columns[-1]
    by_key = keys.argsort(kind="stable")
    keys = keys[by_key]
    repeated = by_key[1:][keys[1:] == keys[:-1]]
    if len(repeated):
        raise lines.wrong(f"repeats a {length}-gram", numbers[int(repeated.min())])
    natural = np.array(values).reshape(-1, 2)[by_key] * _LOG10
    return Level(keys, natural[:, 0], natural[:, 1])
