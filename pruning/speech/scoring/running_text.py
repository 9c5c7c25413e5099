"""Scores of running text under a language model with tokens of its own: lines with those before them, or in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pruning.errors import UserError
from pruning.speech.decoding.network_scorer import edge_scores
from pruning.speech.interfaces import ExtendedNetwork
from pruning.speech.scoring.perplexity import WordScores
from pruning.speech.text.network_tokens import NetworkTokens


@dataclass(frozen=True)
class Setting:
    """What lines are scored with.

    Attributes:
        context: number of lines before a line that the network reads first.
        block: number of tokens in blocks, into which all lines are packed; a line is then scored behind those before it
            in its block. 0: no blocks.
        ends: whether the token behind a line is scored, as a word of its own; not with blocks.
        room: largest number of tokens that the network takes, with that before the text; 0: any number. Contexts are
            shortened to it.
        max_tokens: maximum number of tokens in a batch, padding included.
    """

    context: int = 0
    block: int = 0
    ends: bool = False
    room: int = 0
    max_tokens: int = 8192


@dataclass(frozen=True)
class _Row:
    """Tokens behind the start of a text, of which those from ``first`` on are scored; ``place``: of the first one."""

    tokens: list[int]
    first: int
    place: int


def running_word_scores(
    network: ExtendedNetwork, lines: Sequence[str], tokens: NetworkTokens, setting: Setting
) -> list[WordScores]:
    """Score lines of running text.

    Args:
        network: language model in evaluation mode.
        lines: the lines, in order, without empty ones.
        tokens: tokens of the network.
        setting: see `Setting`.

    Raises:
        UserError: a line has more tokens than the network takes.
    """
    first = tokens.encode_all(lines)
    behind = tokens.encode_all([f"{tokens.joint}{line}" for line in lines]) if tokens.joint else first
    rows, of_lines = (_blocks if setting.block else _with_context)(first, behind, tokens, setting)
    nll = np.full(sum(map(len, of_lines)), np.nan)
    for batch in _batches(rows, setting.max_tokens):
        for row, found in zip(batch, _scored(network, batch, tokens.boundaries[0])):
            nll[row.place : row.place + len(found)] = found
    begins, found_lines = tokens.begins(), []
    for place, (ids, part) in enumerate(zip(of_lines, np.split(nll, np.cumsum(list(map(len, of_lines)))[:-1]))):
        inner = np.array(ids[: len(ids) - setting.ends], dtype=np.int64)
        words = np.cumsum(begins[inner]) - begins[inner[:1]]
        of_words = np.bincount(words, weights=part[: len(inner)])
        found_lines.append(WordScores(place, np.append(of_words, part[len(inner) :]), len(ids)))
    return found_lines


def _with_context(
    first: Sequence[list[int]], behind: Sequence[list[int]], tokens: NetworkTokens, setting: Setting
) -> tuple[list[_Row], list[list[int]]]:
    """Return a row for each line, and the scored tokens of each line."""
    end = [tokens.boundaries[1]] * setting.ends
    rows, of_lines, place = list[_Row](), list[list[int]](), 0
    for index in range(len(first)):
        begin = max(0, index - setting.context)
        before = [token for at in range(begin, index) for token in (first if at == begin else behind)[at]]
        own = [*(behind if before else first)[index], *end]
        if setting.room:
            spare = setting.room - len(own)
            if spare < 0:
                raise UserError(f"line {index + 1}, empty lines not counted, has {len(own)} tokens, but the language "
                                f"model takes {setting.room}", "split it")  # fmt: skip
            before = before[len(before) - spare :] if spare < len(before) else before
            own = own if before else [*first[index], *end]
        rows.append(_Row([*before, *own], len(before), place))
        of_lines.append(own)
        place += len(own)
    return rows, of_lines


def _blocks(
    first: Sequence[list[int]], behind: Sequence[list[int]], tokens: NetworkTokens, setting: Setting
) -> tuple[list[_Row], list[list[int]]]:
    """Return a row for each block, and the tokens of each line.

    Raises:
        UserError: the network takes no such blocks.
    """
    if 0 < setting.room < setting.block:
        raise UserError(f"blocks of {setting.block} tokens are longer than what the language model takes, "
                        f"{setting.room}", "give a smaller --block")  # fmt: skip
    of_lines = [list(ids) for ids in (first[0], *behind[1:])]
    every = [token for ids in of_lines for token in ids]
    size = setting.block
    return [_Row(every[place : place + size], 0, place) for place in range(0, len(every), size)], of_lines


def _batches(rows: Sequence[_Row], most: int) -> list[list[_Row]]:
    """Return batches of rows of similar length."""
    batches = list[list[_Row]]()
    for row in sorted(rows, key=lambda row: -len(row.tokens)):
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0].tokens) <= most:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


@torch.no_grad()
def _scored(network: ExtendedNetwork, batch: Sequence[_Row], start: int) -> list[np.ndarray]:
    """Return the negative log-likelihood of the scored tokens of each row."""
    longest = len(batch[0].tokens)
    inputs = np.full((len(batch), longest), start, dtype=np.int64)
    for number, row in enumerate(batch):
        inputs[number, 1 : len(row.tokens)] = row.tokens[:-1]
    state = network.start(len(batch))
    hidden, _ = network.extend(torch.from_numpy(inputs).to(state.lengths.device), state)  # (N, U, D)
    nodes = [number * longest + at for number, row in enumerate(batch) for at in range(row.first, len(row.tokens))]
    following = [token for row in batch for token in row.tokens[row.first :]]
    found = -edge_scores(hidden.flatten(0, 1), network.output_weight, nodes, following)
    return np.split(found, np.cumsum([len(row.tokens) - row.first for row in batch])[:-1])
