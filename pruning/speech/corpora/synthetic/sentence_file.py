"""Sentences of the synthetic corpora from a file of real text, with an open vocabulary."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pruning import provenance
from pruning.errors import UserError
from pruning.speech.corpora.synthetic.config import TextConfig
from pruning.speech.text.text_files import check_texts, read_sentences

_WORDS = re.compile(r"[a-z]+(?:'[a-z]+)*(?: [a-z]+(?:'[a-z]+)*)*")


class SentenceFile:
    """Draws sentences from a text file with one sentence per line, plain or gzipped.

    Only lines of words are used, in letters A to Z and apostrophes, whose number of words is in the configured range.

    Args:
        path: path of the file.
        config: which file was configured, and the range.

    Raises:
        UserError: the file does not exist, is not the configured file, or has no such line.
    """

    remedy = "request fewer utterances or give a longer text"

    def __init__(self, path: Path, config: TextConfig) -> None:
        check_texts([path])
        if provenance.file_fingerprint(path) != config.fingerprint:
            raise UserError(f"{path} is not the configured text {config.fingerprint}", "give the configured text")
        least, most = config.words
        lines = dict.fromkeys(line.lower() for line in read_sentences(path))
        self.sentences = [line for line in lines if _WORDS.fullmatch(line) and least <= line.count(" ") + 1 <= most]
        if not self.sentences:
            raise UserError(f"{path} has no line of {least} to {most} words in letters A to Z and apostrophes",
                            "normalise the text, or give another range of words")  # fmt: skip

    def sentence(self, generator: np.random.Generator) -> str:
        """Draw a sentence in lower case, with single spaces between words."""
        return self.sentences[int(generator.integers(len(self.sentences)))]
