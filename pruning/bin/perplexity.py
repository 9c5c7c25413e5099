"""Measure the perplexity of text, per token and per word, under a language model: a network or an n-gram.

Writes EXP/perplexity/perplexity-SET.json. A text that was already measured with the same weights is not measured again.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from pruning import provenance
from pruning.bin import arguments, command
from pruning.errors import UserError
from pruning.limits import COUNT
from pruning.speech.text.text_files import ON_EMPTY, check_texts, empty_line, read_sentences, read_words, set_name

if TYPE_CHECKING:
    from pruning.speech.scoring.perplexity import Perplexity, WordScores

logger = logging.getLogger(__name__)
LONGEST = 4096
Scorer = Callable[[Path, Sequence[str]], "list[WordScores]"]


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
    parser.add_argument("--lang-dir", help="directory with bpe.model and tokens.txt; not with --arpa")
    parser.add_argument(
        "--vocabulary",
        type=Path,
        help="file of the words that count, one per line; perplexity per word leaves out all others",
    )
    parser.add_argument("--on-empty", choices=ON_EMPTY, default=ON_EMPTY[0], help="what to do with empty lines")
    parser.add_argument("--max-tokens", type=COUNT.parse, default=8192, help="tokens in a batch")
    parser.add_argument("--num-threads", type=COUNT.parse, default=1, help="number of threads")
    options = parser.parse_args(argv)

    import torch

    from pruning.experiments.measurement import PERPLEXITY, Measurement, Utterances, is_done, path_of
    from pruning.speech.scoring.perplexity import perplexity

    torch.set_num_threads(options.num_threads)
    vocabulary = None if options.vocabulary is None else frozenset(read_words(options.vocabulary))
    if (options.arpa is None) == (options.lang_dir is None):
        raise UserError("exactly one of --lang-dir and --arpa must be given",
                        "give --lang-dir for a network, or --arpa for an n-gram")  # fmt: skip
    scorer, made_of = _ngram(options, vocabulary) if options.arpa is not None else _network(options)
    names = [set_name(text) for text in options.text]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise UserError(
            f"several files of --text have the set name {repeated[0]}", "rename them, or measure them one at a time"
        )
    for text in check_texts(options.text):
        name = set_name(text)
        path = path_of(options.exp_dir, PERPLEXITY, name)
        parameters = {
            **made_of,
            "text": provenance.file_fingerprint(text),
            "vocabulary": options.vocabulary and provenance.file_fingerprint(options.vocabulary),
        }
        if is_done(path, parameters):
            logger.info("%s is done", path)
            continue
        lines = []
        for number, line in enumerate(read_sentences(text), start=1):
            if not line and options.on_empty == "error":
                raise empty_line(text, number, "--on-empty skip")
            lines += [line] if line else []
        try:
            found = perplexity(scorer(text, lines), lines, vocabulary)
        except ValueError as error:
            raise UserError(f"{text}: {error}", "write the text so that word pieces do not span words") from None
        made = provenance.environment("pruning.bin.perplexity", argv, "cpu")
        Measurement(PERPLEXITY, name, Utterances.sentences(len(lines)), _columns(found, options.arpa is None),
                    {"left_out": found.left_out}, parameters, provenance=made).write(path)  # fmt: skip
        logger.info("%s: perplexity %.2f per word; %d of %d words left out", name, found.per_word, found.left_out,
                    found.left_out + found.words - found.sentences)  # fmt: skip


def _columns(found: Perplexity, with_tokens: bool) -> dict[str, list[float]]:
    """Return the columns of the measurement; those of tokens only for a network: the n-gram's are words."""
    word_nll, words, nll, tokens = found.sums.T.tolist()
    columns = {"word_nll": [round(nats, 3) for nats in word_nll], "words": [int(count) for count in words]}
    if with_tokens:
        columns |= {"nll": [round(nats, 3) for nats in nll], "tokens": [int(count) for count in tokens]}
    return columns


def _network(options: argparse.Namespace) -> tuple[Scorer, dict[str, Any]]:
    """Return a function that scores the sentences of a file with a network, and the network's fingerprints."""
    from pruning.kinds.language_model import LanguageModelKind
    from pruning.speech.scoring.perplexity import word_scores
    from pruning.speech.text.bpe import Tokenizer
    from pruning.speech.text.sentences import Sentences, TextConfig

    tokenizer = Tokenizer(options.lang_dir)
    model, _ = LanguageModelKind.load_network(options.exp_dir, tokenizer)
    model.eval()

    def score(text: Path, lines: Sequence[str]) -> list[WordScores]:
        config = TextConfig(max(options.max_tokens, LONGEST + 2), LONGEST, on_empty="skip")
        sentences = Sentences([text], tokenizer, config)
        if len(sentences) != len(lines):
            raise UserError(f"{text} has a sentence of more than {LONGEST} tokens", "split it")
        return word_scores(model, sentences.evaluation_batches(), tokenizer)

    return score, {"weights": provenance.weights_fingerprint(model), "bpe_model": tokenizer.fingerprint}


def _ngram(options: argparse.Namespace, vocabulary: Optional[frozenset[str]]) -> tuple[Scorer, dict[str, Any]]:
    """Return a function that scores the sentences of a file with a word n-gram, and the n-gram's fingerprint.

    Raises:
        UserError: the vocabulary has words that the n-gram does not have, which would make its perplexity infinite.
    """
    import numpy as np

    from pruning.speech.ngrams import arpa
    from pruning.speech.scoring.perplexity import WordScores

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

    return score, {"weights": provenance.file_fingerprint(options.arpa)}


if __name__ == "__main__":
    command.run(main)
