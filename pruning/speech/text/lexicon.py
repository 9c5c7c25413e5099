"""The lexicon as a k2 transducer (``L``): word pieces in, words out, any sequence of words."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from pruning.errors import UserError
from pruning.speech.text.bpe import BLANK_ID, Tokenizer

Spelling = tuple[int, ...]

logger = logging.getLogger(__name__)


def spellings(words: Sequence[str], tokenizer: Tokenizer) -> dict[str, Spelling]:
    """Return the pieces of each of ``words`` that can be spelled; log the number of words that cannot.

    Raises:
        UserError: none of the words can be spelled.
    """
    found = {word: tuple(tokenizer.encode(word)) for word in words}
    kept = {
        word: pieces for word, pieces in found.items() if pieces and not {BLANK_ID, tokenizer.unknown_id} & set(pieces)
    }
    if not kept:
        what = f"none of the {len(found)} words of the language model can be spelled with {tokenizer.lang_dir}"
        raise UserError(
            what, "train the word pieces and the language model on text with the same normalisation and case"
        )
    if len(kept) < len(found):
        example = next(word for word in found if word not in kept)
        logger.warning("%d of %d words cannot be spelled with the tokens of %s and will not be recognised, such as %s",
                       len(found) - len(kept), len(found), tokenizer.lang_dir, example)  # fmt: skip
    return kept


def disambiguated(plain: Sequence[Spelling], symbol: int) -> list[Spelling]:
    """Append a disambiguation symbol to each spelling that equals another word's or is a prefix of one.

    Args:
        plain: spelling of each word.
        symbol: id of ``#0``; ``#1`` and so on follow it. ``#0`` itself is not used here.
    """
    counts = Counter(plain)
    beginnings = {pieces[:length] for pieces in counts for length in range(1, len(pieces))}
    seen: Counter[Spelling] = Counter()
    found = []
    for pieces in plain:
        if counts[pieces] > 1 or pieces in beginnings:
            seen[pieces] += 1
            found.append((*pieces, symbol + seen[pieces]))
        else:
            found.append(pieces)
    return found


def transducer(words: Sequence[tuple[int, Spelling]], piece_symbol: int, word_symbol: int) -> Any:
    """Return the k2 transducer of a lexicon, which passes ``#0`` on between words.

    Args:
        words: id and disambiguated spelling of each word.
        piece_symbol: id of ``#0`` among the pieces.
        word_symbol: id of ``#0`` among the words.
    """
    import k2

    between = [(0, 0, piece_symbol, 0)]  # source, destination, label, score (the bits of 0.0)
    within: list[tuple[int, int, int, int]] = []
    outputs, states = [word_symbol], 1
    for word, pieces in words:
        path = [0, *range(states, states + len(pieces) - 1), 0]
        states += len(pieces) - 1
        arcs = [(source, to, piece, 0) for source, to, piece in zip(path, path[1:], pieces)]
        between.append(arcs[0])
        within += arcs[1:]
        outputs.append(word)
    between.append((0, states, -1, 0))
    outputs += [-1, *[0] * len(within)]
    arcs_of_all = torch.tensor(between + within, dtype=torch.int32)
    return k2.Fsa(arcs_of_all, aux_labels=torch.tensor(outputs, dtype=torch.int32))
