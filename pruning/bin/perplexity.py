"""Measure the perplexity of text under language models, per token and per word, networks and n-grams alike.

Writes EXP/perplexity/perplexity-SET.json; a text that was measured with the same weights before is not measured again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import torch

from pruning.bin import arguments, command
from pruning.errors import UserError
from pruning.files import read_json, read_lines, write_json
from pruning.speech.bpe import Tokenizer
from pruning.speech.perplexity import perplexity, word_scores
from pruning.speech.sentences import Sentences, TextConfig, check_texts, read_sentences, set_name
from pruning.training import lm_runs, provenance
from pruning.training.decoding_results import perplexity_path

logger = logging.getLogger(__name__)
LONGEST = 4096


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--exp-dir", type=Path, required=True, help="experiment; its best checkpoint is measured")
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="text files, a set each")
    parser.add_argument("--lang-dir", required=True, help="directory with bpe.model and tokens.txt")
    parser.add_argument("--vocabulary", type=Path,
                        help="words, one a line, that count; others are left out of the measure per word")
    parser.add_argument("--max-tokens", type=int, default=8192, help="tokens in a batch")
    parser.add_argument("--num-threads", type=int, default=1, help="threads")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.num_threads)
    tokenizer = Tokenizer(options.lang_dir)
    model, _ = lm_runs.load_network(options.exp_dir, tokenizer)
    weights = provenance.weights_fingerprint(model)
    vocabulary = None if options.vocabulary is None else _words(options.vocabulary)
    for text in check_texts(options.text):
        name = set_name(text)
        path = perplexity_path(options.exp_dir, name)
        made_of = {"weights": weights, "bpe_model": tokenizer.fingerprint, "text": provenance.file_fingerprint(text),
                   "vocabulary": options.vocabulary and provenance.file_fingerprint(options.vocabulary)}  # fmt: skip
        if path.is_file() and read_json(path).get("parameters") == made_of:
            logger.info("%s is done", path)
            continue
        config = TextConfig(max(options.max_tokens, LONGEST + 2), LONGEST)
        sentences = Sentences([text], tokenizer, config)
        lines = [line for line in read_sentences(text) if line]
        if len(sentences) != len(lines):
            raise UserError(f"{text} has a sentence of more than {LONGEST} tokens", "split it")
        found = perplexity(word_scores(model.eval(), sentences.evaluation_batches(), tokenizer), lines, vocabulary)
        facts: dict[str, Any] = {
            "set": name,
            "perplexity_per_word": found.per_word,
            "perplexity_per_token": found.per_token,
            **{key: value for key, value in found._asdict().items() if key != "sums"},
            "nll": [round(float(nll), 3) for nll in found.sums[:, 0]],
            "counted": [int(words) for words in found.sums[:, 1]],
            "parameters": made_of,
            **provenance.environment("pruning.bin.perplexity", argv, "cpu"),
        }
        write_json(path, facts)
        logger.info("%s: perplexity %.2f a word, %.2f a token; %d of %d words left out", name, found.per_word,
                    found.per_token, found.left_out, found.left_out + found.words - found.sentences)  # fmt: skip


def _words(path: Path) -> frozenset[str]:
    """A list of words; of several columns (``words.txt``) the first.

    Raises:
        UserError: it is missing or empty.
    """
    words = frozenset(line.split()[0] for line in read_lines(path) if line.strip())
    if not words:
        raise UserError(f"{path} has no words", "give one a line")
    return words


if __name__ == "__main__":
    command.run(main)
