"""Token types, named as sentencepiece names them. Does not import sentencepiece."""

from __future__ import annotations

MODEL_TYPES = ("unigram", "bpe", "char", "word")
