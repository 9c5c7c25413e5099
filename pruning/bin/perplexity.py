"""Measure the perplexity of text, per token and per word, under a language model: a network or an n-gram.

Writes EXP/perplexity/perplexity-SET.json, where SET tells --form, --context and --block if they are given. A text that
was already measured with the same weights is not measured again.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from pruning import provenance
from pruning.bin import arguments, command
from pruning.errors import UserError
from pruning.limits import COUNT, NATURAL
from pruning.speech.text.text_files import ON_EMPTY, check_texts, empty_line, read_sentences, read_words, set_name
from pruning.speech.text.written_form import WRITTEN

if TYPE_CHECKING:
    from pruning.models.transformer_lm import TransformerLM
    from pruning.speech.scoring.perplexity import Perplexity, WordScores
    from pruning.speech.text.bpe import Tokenizer
    from pruning.speech.text.network_tokens import NetworkTokens

logger = logging.getLogger(__name__)
LONGEST = 4096


class _Scorer(NamedTuple):
    """A language model: the function that scores lines of a file, whether ends are scored, and what it is made of."""

    score: Callable[[Path, Sequence[str]], list[WordScores]]
    ends: bool
    made_of: dict[str, Any]


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument(
        "--exp-dir",
        type=Path,
        required=True,
        help="experiment directory, whose best checkpoint is measured; with --arpa: directory for the results",
    )
    parser.add_argument("--arpa", type=Path, help="ARPA file of a word n-gram, to measure instead of a network")
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="text files, one per set")
    parser.add_argument("--lang-dir", help="lang dir of the network, with bpe.model or tokenizer.json; not with --arpa")
    parser.add_argument(
        "--vocabulary",
        type=Path,
        help="file of the words that count, one per line; perplexity per word leaves out all others",
    )
    parser.add_argument("--on-empty", choices=ON_EMPTY, default=ON_EMPTY[0], help="what to do with empty lines")
    parser.add_argument("--form", choices=WRITTEN, default="as-is", help="how lines are written for the language "
                        "model: as they are, in lower case, as English sentences, as LibriSpeech's words")  # fmt: skip
    parser.add_argument("--context", type=NATURAL.parse, default=0, help="number of lines that the network reads "
                        "before each line; for a network of running text")  # fmt: skip
    parser.add_argument("--block", type=NATURAL.parse, default=0, help="pack all lines into blocks of this number of "
                        "tokens; for a network of running text")  # fmt: skip
    parser.add_argument("--score-end", type=arguments.boolean, metavar="true|false", help="score the end of a line; "
                        "default: true, but false for a network of running text")  # fmt: skip
    parser.add_argument("--max-tokens", type=COUNT.parse, default=8192, help="tokens in a batch")
    parser.add_argument("--num-threads", type=COUNT.parse, default=1, help="number of threads")
    options = parser.parse_args(argv)

    import torch

    from pruning.experiments.measurement import PERPLEXITY, Measurement, Utterances, is_done, path_of
    from pruning.speech.scoring.perplexity import perplexity, variant

    torch.set_num_threads(options.num_threads)
    vocabulary = None if options.vocabulary is None else frozenset(read_words(options.vocabulary))
    if (options.arpa is None) == (options.lang_dir is None):
        raise UserError("exactly one of --lang-dir and --arpa must be given",
                        "give --lang-dir for a network, or --arpa for an n-gram")  # fmt: skip
    scorer = _ngram(options, vocabulary) if options.arpa is not None else _network(options)
    names = [set_name(text) for text in options.text]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise UserError(
            f"several files of --text have the set name {repeated[0]}", "rename them, or measure them one at a time"
        )
    for text in check_texts(options.text):
        ends = scorer.made_of.get("ends", False)
        name = f"{set_name(text)}{variant(options.form, options.context, options.block, ends)}"
        path = path_of(options.exp_dir, PERPLEXITY, name)
        parameters = {
            **scorer.made_of,
            "text": provenance.file_fingerprint(text),
            "vocabulary": options.vocabulary and provenance.file_fingerprint(options.vocabulary),
        }
        if is_done(path, parameters):
            logger.info("%s is done", path)
            continue
        lines = _lines(text, options.on_empty, options.form)
        written = [WRITTEN[options.form](line) for line in lines]
        counted = written if options.form == "words" else lines  # the other forms keep the words apart
        try:
            found = perplexity(scorer.score(text, written), counted, vocabulary, scorer.ends)
        except ValueError as error:
            raise UserError(f"{text}: {error}", "write the text so that word pieces do not span words") from None
        made = provenance.environment("pruning.bin.perplexity", argv, "cpu")
        ends = found.sentences * scorer.ends
        Measurement(PERPLEXITY, name, Utterances.sentences(len(lines)), _columns(found, options.arpa is None),
                    {"left_out": found.left_out, "ends": ends}, parameters, provenance=made).write(path)  # fmt: skip
        logger.info("%s: perplexity %.2f per word; %d of %d words left out", name, found.per_word, found.left_out,
                    found.left_out + found.words - ends)  # fmt: skip


def _lines(text: Path, on_empty: str, form: str) -> list[str]:
    """Return the lines of a file without those that are empty in the form in which they are measured.

    Raises:
        UserError: a line is empty, unless such lines are to be skipped.
    """
    lines = []
    for number, line in enumerate(read_sentences(text), start=1):
        empty = not WRITTEN[form](line)
        if empty and on_empty == "error":
            raise empty_line(text, number, "--on-empty skip")
        lines += [] if empty else [line]
    return lines


def _columns(found: Perplexity, with_tokens: bool) -> dict[str, list[float]]:
    """Return the columns of the measurement; those of tokens only for a network: the n-gram's are words."""
    word_nll, words, nll, tokens = found.sums.T.tolist()
    columns = {"word_nll": [round(nats, 3) for nats in word_nll], "words": [int(count) for count in words]}
    if with_tokens:
        columns |= {"nll": [round(nats, 3) for nats in nll], "tokens": [int(count) for count in tokens]}
    return columns


def _network(options: argparse.Namespace) -> _Scorer:
    """Return a network as a scorer."""
    from pruning.kinds.language_model import LanguageModelKind
    from pruning.speech.text.bpe import Tokenizer
    from pruning.speech.text.lm_tokens import read_tokens

    tokens = read_tokens(options.lang_dir)
    model, _ = LanguageModelKind.load_network(options.exp_dir, tokens)
    made_of = {"weights": provenance.weights_fingerprint(model), "bpe_model": tokens.fingerprint}
    made_of |= {"form": options.form} if options.form != "as-is" else {}
    if isinstance(tokens, Tokenizer):
        return _of_sentences(model.eval(), tokens, options, made_of)
    return _of_running_text(model.eval(), tokens, options, made_of)


def _of_sentences(
    model: TransformerLM, tokenizer: Tokenizer, options: argparse.Namespace, made_of: dict[str, Any]
) -> _Scorer:
    from pruning.speech.scoring.perplexity import word_scores
    from pruning.speech.text.sentences import Sentences, TextConfig

    _refuse_context(options, "is of single sentences")
    config = TextConfig(max(options.max_tokens, LONGEST + 2), LONGEST, on_empty="skip", form=options.form)

    def score(text: Path, lines: Sequence[str]) -> list[WordScores]:
        sentences = Sentences([text], tokenizer, config)
        if len(sentences) != len(lines):
            raise UserError(f"{text} has a sentence of more than {LONGEST} tokens", "split it")
        return word_scores(model, sentences.evaluation_batches(), tokenizer)

    return _Scorer(score, True, made_of)


def _of_running_text(
    model: TransformerLM, tokens: NetworkTokens, options: argparse.Namespace, made_of: dict[str, Any]
) -> _Scorer:
    from pruning.speech.scoring.running_text import Setting, running_word_scores

    ends = bool(options.score_end)
    if options.block and (ends or options.context):
        raise UserError("--block has neither ends nor contexts", "leave out --context and --score-end, or --block")
    setting = Setting(options.context, options.block, ends, model.config.positions, options.max_tokens)

    def score(text: Path, lines: Sequence[str]) -> list[WordScores]:
        try:
            return running_word_scores(model, lines, tokens, setting)
        except UserError as error:
            raise UserError(f"{text}: {error.what}", error.remedy) from None

    made_of |= {"context": options.context, "block": options.block, "ends": ends}
    return _Scorer(score, ends, made_of)


def _refuse_context(options: argparse.Namespace, why: str) -> None:
    if options.context or options.block or options.score_end is False:
        raise UserError(f"the language model {why}", "leave out --context, --block and --score-end")


def _ngram(options: argparse.Namespace, vocabulary: Optional[frozenset[str]]) -> _Scorer:
    """Return a word n-gram as a scorer.

    Raises:
        UserError: the vocabulary has words that the n-gram does not have, which would make its perplexity infinite.
    """
    import numpy as np

    from pruning.speech.ngrams import arpa
    from pruning.speech.scoring.perplexity import WordScores

    _refuse_context(options, "is an n-gram of single sentences")
    model = arpa.read(options.arpa)
    strange = sorted((vocabulary or frozenset()) - set(model.vocabulary))
    if strange:
        raise UserError(
            f"{options.arpa} does not contain {strange[0]!r} of {options.vocabulary}",
            "estimate the n-gram with --vocabulary, or remove such words from the vocabulary",
        )

    def score(text: Path, lines: Sequence[str]) -> list[WordScores]:
        scored = (model.score(line.split()) for line in lines)
        return [WordScores(place, -np.array(found), len(found)) for place, found in enumerate(scored)]

    made_of = {"weights": provenance.file_fingerprint(options.arpa)}
    return _Scorer(score, True, made_of | ({"form": options.form} if options.form != "as-is" else {}))


if __name__ == "__main__":
    command.run(main)
