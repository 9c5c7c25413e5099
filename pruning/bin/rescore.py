"""Rescore n-best lists of any recogniser with a language model of this toolkit or an n-gram.

An n-best list has lines of UTTERANCE SCORE TEXT; larger scores are better. With --dev-nbest and --dev-references, the
weight is the one of --lm-scales with the lowest WER there; it is then used for --nbest. Writes the re-ranked list.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from pruning.bin import arguments, command
from pruning.errors import UserError
from pruning.files import read_lines
from pruning.limits import COUNT, NON_NEGATIVE
from pruning.speech.scoring.word_errors import Transcript, count_errors, read_transcripts, words_of

if TYPE_CHECKING:
    from pruning.speech.decoding.rescoring import Entry

logger = logging.getLogger(__name__)

Scorer = Callable[[Sequence[str]], Sequence[float]]
SCALES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


def _scorer(options: argparse.Namespace) -> Scorer:
    """Return a function that computes the log-probabilities of texts."""
    from pruning.kinds.language_model import LanguageModelKind
    from pruning.speech.decoding.fusion import lm_scores
    from pruning.speech.ngrams import arpa
    from pruning.speech.text.bpe import Tokenizer
    from pruning.speech.text.sentences import boundary_id

    if (options.arpa is None) == (options.lm_exp_dir is None):
        raise UserError("no language model given, or two", "give exactly one of --lm-exp-dir and --arpa")
    if options.arpa is not None:
        model = arpa.read(options.arpa)
        return lambda texts: [sum(model.score(text.split())) for text in texts]
    if options.lang_dir is None:
        raise UserError("--lm-exp-dir needs --lang-dir", "give the lang dir of the language model")
    tokenizer = Tokenizer(options.lang_dir)
    network, _ = LanguageModelKind.load_network(options.lm_exp_dir, tokenizer)
    network.eval()

    def scores(texts: Sequence[str]) -> list[float]:
        sequences = [tokenizer.encode(text) for text in texts]
        for text, tokens in zip(texts, sequences):
            if tokenizer.count_unknown(tokens)[0]:
                what = f"the hypothesis {text[:60]!r} contains characters that the word pieces do not cover"
                raise UserError(what, "write the list in the same form as the training text of the language model")
        return lm_scores(network, sequences, boundary_id(tokenizer))

    return scores


def _references(path: Path, lists: dict[str, list[Entry]]) -> dict[str, list[str]]:
    """Read the reference words of each utterance, from lines UTTERANCE WORDS or from a recogs file of decoding.

    If an utterance is missing in the lists, all of its words count as deleted.

    Raises:
        UserError: the file is missing, repeats an utterance or contains no words, or it lacks an utterance of the
            lists.
    """
    from pruning.speech.decoding.rescoring import check_readable

    check_readable(path, "file of references")
    if path.name.startswith("recogs-"):
        found = {one.id: one.reference for one in read_transcripts(path)}
    else:
        found = {}
        for number, line in enumerate(read_lines(path), start=1):
            name, *text = line.split(maxsplit=1) or [""]
            if name in found:
                raise UserError(f"{path} line {number} repeats {name}", "give one reference per utterance")
            if name:
                found[name] = words_of(" ".join(text))
    for name in lists:
        if name not in found:
            raise UserError(f"{path} has no reference for {name}", "give references for the same utterances")
    if not any(found.values()):
        raise UserError(f"{path} contains no words", "give lines of UTTERANCE WORDS")
    missing = sorted(found.keys() - lists.keys())
    if missing:
        what = "%d of %d utterances of %s have no hypothesis (first: %s); their words count as deleted"
        logger.warning(what, len(missing), len(found), path, missing[0])
    return found


def _error_rate(lists: dict[str, list[Entry]], references: dict[str, list[str]]) -> float:
    """Return the WER in percent of the first hypotheses; words of utterances without one count as deleted."""
    best = {name: entries[0].text.split() for name, entries in lists.items()}
    transcripts = [Transcript(name, words, best.get(name, [])) for name, words in references.items()]
    words = sum(len(one.reference) for one in transcripts)
    return 100.0 * sum(count_errors(one)["total"] for one in transcripts) / words


def _tuned(options: argparse.Namespace, scorer: Scorer) -> float:
    """Return the scale with the lowest WER on the dev list, the smallest of equally good ones."""
    from pruning.speech.decoding.rescoring import read_nbest, rescore

    lists = read_nbest(options.dev_nbest)
    references = _references(options.dev_references, lists)
    rates = {scale: _error_rate(rescore(lists, scorer, scale), references) for scale in sorted(options.lm_scales)}
    for scale, rate in rates.items():
        print(f"dev, scale {scale:g}: WER {rate:.2f} %")
    return min(rates, key=lambda scale: rates[scale])


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--nbest", type=Path, required=True, help="n-best list to rescore")
    parser.add_argument("--output", type=Path, required=True, help="file for the re-ranked list with the new scores")
    parser.add_argument("--lm-exp-dir", type=Path, help="experiment directory of a language model")
    parser.add_argument("--lang-dir", type=Path, help="with --lm-exp-dir: its lang dir, with bpe.model")
    parser.add_argument("--arpa", type=Path, help="ARPA file of an n-gram, instead of --lm-exp-dir")
    parser.add_argument("--lm-scale", type=NON_NEGATIVE.parse, help="weight of the language model")
    parser.add_argument(
        "--lm-scales", type=NON_NEGATIVE.parse, nargs="+", default=list(SCALES), help="weights to try on --dev-nbest"
    )
    parser.add_argument("--dev-nbest", type=Path, help="n-best list on which the weight is chosen")
    parser.add_argument(
        "--dev-references", type=Path, help="references for --dev-nbest: lines of UTTERANCE WORDS, or recogs-*"
    )
    parser.add_argument("--references", type=Path, help="references for --nbest, to print its WER")
    parser.add_argument("--num-threads", type=COUNT.parse, default=1, help="number of threads")
    options = parser.parse_args(argv)
    if (options.lm_scale is None) == (options.dev_nbest is None) or (
        (options.dev_nbest is None) != (options.dev_references is None)
    ):
        raise UserError("cannot tell which weight the language model has",
                        "give either --lm-scale, or both --dev-nbest and --dev-references")  # fmt: skip

    import torch

    from pruning.speech.decoding.rescoring import read_nbest, rescore, write_nbest

    torch.set_num_threads(options.num_threads)
    lists = read_nbest(options.nbest)
    references = None if options.references is None else _references(options.references, lists)
    scorer = _scorer(options)
    scale = _tuned(options, scorer) if options.lm_scale is None else options.lm_scale
    found = rescore(lists, scorer, scale)
    write_nbest(options.output, [entry for entries in found.values() for entry in entries])
    changed = sum(found[name][0].text != max(lists[name], key=lambda entry: entry.score).text for name in lists)
    print(f"scale {scale:g}: the best hypothesis changed for {changed} of {len(lists)} utterances")
    if references is not None:
        before = _error_rate({name: sorted(entries, key=lambda e: -e.score) for name, entries in lists.items()},
                             references)  # fmt: skip
        print(f"WER {before:.2f} % -> {_error_rate(found, references):.2f} %")


if __name__ == "__main__":
    command.run(main)
