"""Kinds of tokens, as sentencepiece calls its models. Needs no sentencepiece."""

from __future__ import annotations

MODEL_TYPES = ("unigram", "bpe", "char", "word")
