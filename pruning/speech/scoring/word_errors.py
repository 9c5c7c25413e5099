"""Word error rates with intervals, and result files in icefall's format."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pruning.errors import UserError
from pruning.files import PathLike, read_lines, write_text
from pruning.speech.text.normalisation import normalised

_NOTHING = "\0"  # stands for no word in alignments; cannot occur in a text
_SHOWN_NOTHING = "*"
_CHARACTERS = re.compile(
    "([\u1100-\u11ff\u2e80-\ua4cf\ua840-\ud7af\uf900-\ufaff\ufe30-\ufe4f\uff65-\uffdc\U00020000-\U0002ffff])"
)  # the ranges of icefall's tokenize_by_CJK_char: Chinese, kana, bopomofo, Yi, Hangul and their half-width forms
_LINE = re.compile(r"(?P<id>.+):\t(?P<kind>(?:timestamp_)?(?:ref|hyp))=(?P<words>\[.*\])")


def characters(text: str) -> list[str]:
    """Split ``text`` into words, with each CJK character a word: ``语音 AI`` -> ``["语", "音", "AI"]``.

    Character error rates of Chinese, Japanese and Korean are counted this way, also by icefall's recipes. Decomposed
    Korean is composed to syllables first.
    """
    return _CHARACTERS.sub(r" \1 ", normalised(text)).split()


def words_of(text: str) -> list[str]:
    """Return the words of ``text``, normalised."""
    return normalised(text).split()


SCORED: dict[str, Callable[[str], list[str]]] = {"words": words_of, "characters": characters}
"""How a text is split into the units that are scored, by name."""


class Transcript(NamedTuple):
    """An utterance, what was said, and what was recognised.

    Attributes:
        id: unique in its test set.
        reference: the words that were said.
        hypothesis: the words that were recognised.
        set: name of the test set; utterances of two sets are different whatever their ids are.
        speaker: who said it; empty: unknown.
    """

    id: str
    reference: list[str]
    hypothesis: list[str]
    set: str = ""
    speaker: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What no other utterance has: test set and id."""
        return self.set, self.id


@dataclass(frozen=True)
class Score:
    """Word errors of a set of utterances."""

    insertions: int
    deletions: int
    substitutions: int
    words: int
    """Number of words in the references."""
    utterances: int
    interval: tuple[float, float]
    """95 % bootstrap interval of the word error rate, in percent."""

    @property
    def errors(self) -> int:
        """Total number of errors."""
        return self.insertions + self.deletions + self.substitutions

    @property
    def wer(self) -> float:
        """Word error rate in percent."""
        return 100.0 * self.errors / self.words


def score(transcripts: Sequence[Transcript]) -> Score:
    """Count word errors and estimate the interval of their rate, see `pruning.speech.scoring.bootstrap.Design`.

    Raises:
        UserError: the references contain no words.
    """
    import numpy as np

    from pruning.speech.scoring.bootstrap import Design

    transcripts = sorted(transcripts, key=lambda t: t.key)  # in the order of ids, as every table has it
    counts = [count_errors(t) for t in transcripts]
    errors, words = (np.array([c[name] for c in counts]) for name in ("total", "ref_len"))
    if not words.sum():
        raise UserError("the references contain no words", "give cuts with transcripts")
    drawn = Design.of_sets((t.set, t.id, t.speaker) for t in transcripts).rate(errors, words).interval
    return Score(
        insertions=sum(c["ins"] for c in counts),
        deletions=sum(c["del"] for c in counts),
        substitutions=sum(c["sub"] for c in counts),
        words=int(words.sum()),
        utterances=len(transcripts),
        interval=(drawn.low, drawn.high),
    )


def count_errors(transcript: Transcript) -> dict[str, int]:
    """Return the number of errors by type (``ins``, ``del``, ``sub``, ``total``) and ``ref_len``."""
    import kaldialign

    return kaldialign.edit_distance(transcript.reference, transcript.hypothesis)


def write_results(directory: PathLike, set_name: str, suffix: str, transcripts: Sequence[Transcript]) -> Score:
    """Write ``recogs-``, ``errs-`` and ``wer-summary-<set>-<suffix>.txt``, each by rename, and return the score.

    Args:
        directory: directory to write to.
        set_name: name of the test set, e.g. ``test-clean``.
        suffix: names every setting that affects the result.
        transcripts: transcripts in any order; they are written sorted by id.

    Raises:
        UserError: the references contain no words, or an id occurs twice.
    """
    directory = Path(directory)
    transcripts = sorted(transcripts)
    _check_unique(transcripts, f"test set {set_name}")
    result = score(transcripts)
    recogs = "".join(f"{t.id}:\tref={t.reference}\n{t.id}:\thyp={t.hypothesis}\n" for t in transcripts)
    write_text(recogs_path(directory, set_name, suffix), recogs)
    write_text(directory / f"errs-{set_name}-{suffix}.txt", error_report(transcripts, result))
    write_text(directory / f"wer-summary-{set_name}-{suffix}.txt", f"settings\tWER\n{suffix}\t{result.wer:.2f}\n")
    return result


def recogs_path(directory: PathLike, set_name: str, suffix: str) -> Path:
    """Return the path of the file with references and hypotheses of a set."""
    return Path(directory) / f"recogs-{set_name}-{suffix}.txt"


def read_transcripts(path: PathLike) -> list[Transcript]:
    """Read a ``recogs-`` file written by this package or by icefall.

    Raises:
        UserError: the file is missing, a line cannot be read, or an utterance lacks its reference or hypothesis.
    """
    remedy = "give a recogs file written by decoding"
    try:
        lines = read_lines(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error})", remedy) from None
    found: dict[str, dict[str, list[str]]] = {}
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise UserError(f"{path} line {number} is neither a reference nor a hypothesis", remedy)
        if match["kind"].startswith("timestamp"):  # written by icefall, for words or tokens
            continue
        utterance = found.setdefault(match["id"], {})
        if match["kind"] in utterance:
            raise UserError(f"{path} line {number} repeats the {match['kind']} of {match['id']}", remedy)
        utterance[match["kind"]] = _words(match["words"], f"{path} line {number}")
    for name, utterance in found.items():
        if len(utterance) != 2:
            raise UserError(f"{path} lacks the reference or the hypothesis of {name}", remedy)
    return [Transcript(name, utterance["ref"], utterance["hyp"]) for name, utterance in found.items()]


def _words(text: str, where: str) -> list[str]:
    try:
        words = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{where} does not contain a list of words", "give a recogs file written by decoding")
    return words_of(" ".join(words))


def _check_unique(transcripts: Iterable[Transcript], where: str) -> None:
    name, count = Counter(t.id for t in transcripts).most_common(1)[0] if transcripts else ("", 0)
    if count > 1:
        raise UserError(f"utterance {name} occurs {count} times in {where}", "remove the repetitions from its cuts")


def _align(transcript: Transcript) -> list[tuple[str, str]]:
    """Return pairs of reference and hypothesis words; ``_NOTHING`` if one of them is missing."""
    import kaldialign

    return kaldialign.align(transcript.reference, transcript.hypothesis, _NOTHING)


def _show_alignment(pairs: Sequence[tuple[str, str]]) -> str:
    """Format an alignment as ``THE (CAT->CAP) SAT (*->ON IT)``, with adjacent errors joined."""
    shown: list[str] = []
    wrong: list[tuple[str, str]] = []

    def close() -> None:
        if wrong:
            sides = (" ".join(word for word in side if word != _NOTHING) for side in zip(*wrong))
            shown.append("({}->{})".format(*(side or _SHOWN_NOTHING for side in sides)))
            wrong.clear()

    for reference, hypothesis in pairs:
        if reference == hypothesis:
            close()
            shown.append(reference)
        else:
            wrong.append((reference, hypothesis))
    close()
    return " ".join(shown)


def error_report(transcripts: Sequence[Transcript], result: Score) -> str:
    """Return the text of an ``errs-`` file: totals, alignment of each utterance, and counts of each error and word.

    Sections and lines have icefall's format, so that its tools can read them.
    """
    alignments = [_align(t) for t in transcripts]
    pairs = Counter(pair for alignment in alignments for pair in alignment)
    substitutions = {f"{r} -> {h}": n for (r, h), n in pairs.items() if r != h and _NOTHING not in (r, h)}
    deletions = {r: n for (r, h), n in pairs.items() if h == _NOTHING}
    insertions = {h: n for (r, h), n in pairs.items() if r == _NOTHING}
    correct = sum(n for (r, h), n in pairs.items() if r == h)
    lines = [
        f"%WER = {result.wer:.2f}",
        f"Errors: {result.insertions} insertions, {result.deletions} deletions, {result.substitutions} substitutions, "
        f"over {result.words} reference words ({correct} correct)",
        "Search below for sections starting with PER-UTT DETAILS:, SUBSTITUTIONS:, DELETIONS:, INSERTIONS:, "
        "PER-WORD STATS:",
        "",
        "PER-UTT DETAILS: corr or (ref->hyp)  ",
        *(f"{t.id}:\t{_show_alignment(alignment)}" for t, alignment in zip(transcripts, alignments)),
    ]
    sections = (
        ("SUBSTITUTIONS: count ref -> hyp", substitutions),
        ("DELETIONS: count ref", deletions),
        ("INSERTIONS: count hyp", insertions),
    )
    for title, counts in sections:
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        lines += ["", title, *(f"{count}   {name}" for name, count in ranked)]
    return "\n".join([*lines, "", *_word_statistics(pairs)]) + "\n"


def _word_statistics(pairs: Counter[tuple[str, str]]) -> list[str]:
    """Count each word as correct, wrong, in references and in hypotheses; most errors first."""
    correct, wrong, in_reference, in_hypothesis = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for (reference, hypothesis), count in pairs.items():
        in_reference[reference] += count
        in_hypothesis[hypothesis] += count
        if reference == hypothesis:
            correct[reference] += count
        else:
            wrong[reference] += count
            wrong[hypothesis] += count
    words = sorted((in_reference.keys() | in_hypothesis.keys()) - {_NOTHING}, key=lambda word: (-wrong[word], word))
    return [
        "PER-WORD STATS: word  corr tot_errs count_in_ref count_in_hyp",
        *(f"{word}   {correct[word]} {wrong[word]} {in_reference[word]} {in_hypothesis[word]}" for word in words),
    ]
