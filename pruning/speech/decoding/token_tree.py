"""Trees of tokens: sequences that share their beginnings, with each different beginning once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class TokenTree(NamedTuple):
    """Continuations of one trunk. A node is a token that others follow; an edge is a token after a node.

    Attributes:
        tokens: token of each of the U nodes, those of the trunk first.
        parents: node before each node; that of the first node is -1.
        edges: node and following token of each edge, which is what a language model predicts.
        paths: edges of each continuation, in order.
    """

    tokens: list[int]
    parents: list[int]
    edges: list[tuple[int, int]]
    paths: list[list[int]]

    @classmethod
    def of(cls, trunk: Sequence[int], continuations: Iterable[Sequence[int]]) -> TokenTree:
        """Build the tree; ``trunk`` has at least one token. The last token of a continuation is no node."""
        tokens, parents = list(trunk), list(range(-1, len(trunk) - 1))
        nodes: dict[tuple[int, int], int] = {}
        edges: dict[tuple[int, int], int] = {}
        paths = []
        for sequence in continuations:
            node, path = len(trunk) - 1, []
            for place, token in enumerate(sequence):
                edge = (node, token)
                path.append(edges.setdefault(edge, len(edges)))
                if place + 1 < len(sequence):
                    if edge not in nodes:
                        nodes[edge] = len(tokens)
                        tokens.append(token)
                        parents.append(node)
                    node = nodes[edge]
            paths.append(path)
        return cls(tokens, parents, list(edges), paths)


def ancestors(trees: Sequence[TokenTree]) -> tuple[np.ndarray, np.ndarray]:
    """Arrange trees as a batch.

    Returns:
        Tokens ``(N, U)`` int64, padded with 0, and ``(N, U, U)`` bool: whether node v is node u or before it on its
        path. Padding is before no node.
    """
    longest = max(len(tree.tokens) for tree in trees)
    tokens = np.zeros((len(trees), longest), dtype=np.int64)
    sees = np.tile(np.eye(longest, dtype=bool), (len(trees), 1, 1))
    for row, tree in enumerate(trees):
        tokens[row, : len(tree.tokens)] = tree.tokens
        for node, parent in enumerate(tree.parents):
            if parent >= 0:
                sees[row, node] |= sees[row, parent]
    return tokens, sees
