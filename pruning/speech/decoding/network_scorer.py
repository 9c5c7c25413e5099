"""Score texts with a network: batches of trees, in which what hypotheses share is computed once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pruning.errors import UserError
from pruning.speech.decoding.text_scorer import Request, ScoringFacts
from pruning.speech.decoding.token_tree import TokenTree, ancestors
from pruning.speech.interfaces import ExtendedNetwork
from pruning.speech.text.lm_tokens import TextTokens

_SHOWN = 60
"""Number of characters of a text that error messages show."""
_MOST_CHANGED = 0.01
"""Largest share of texts that their tokens may spell otherwise."""
_LOGITS = 2**24
"""Number of logits that are computed at once."""


@dataclass
class NetworkScorer:
    """Score texts with a network; what the hypotheses of an utterance share is computed once.

    A request is a tree of tokens: start and context are its trunk, and hypotheses part where they differ. All its
    nodes are computed in one pass, in which each attends to its ancestors.

    Attributes:
        network: language model in evaluation mode.
        tokens: its tokens.
        score_end: whether the end of a text is scored.
        room: largest number of tokens that the network takes; 0: any number.
        max_tokens: maximum number of nodes in a batch, padding included; a larger tree is a batch of its own.
        facts: see `ScoringFacts`.
    """

    network: ExtendedNetwork
    tokens: TextTokens
    score_end: bool = True
    room: int = 0
    max_tokens: int = 2048
    facts: ScoringFacts = field(default_factory=ScoringFacts)
    _known: dict[str, list[int]] = field(default_factory=dict)

    @property
    def takes_context(self) -> bool:
        """See `TextScorer`."""
        return self.tokens.takes_context

    def prepare(self, texts: Iterable[str]) -> None:
        """See `TextScorer`.

        Raises:
            UserError: tokens cannot spell a text or spell too many of them otherwise, or a text is longer than the
                network takes.
        """
        every = sorted(set(texts))
        for text in every:
            tokens = self._continuation(text)
            if self.tokens.decode(self._encoded(text)) != " ".join(text.split()):
                self.facts.changed.append(text)
            size = len(self.tokens.start) + len(tokens) - 1
            if 0 < self.room < size:
                raise UserError(f"the hypothesis {text[:_SHOWN]!r} has {size} tokens, but the language model takes "
                                f"{self.room}", "split the utterance, or remove it from the list")  # fmt: skip
        changed = self.facts.changed
        if len(changed) > _MOST_CHANGED * len(every):
            what = (
                f"the tokens spell {len(changed)} of {len(every)} hypotheses otherwise (first: {changed[0][:_SHOWN]!r})"
            )
            raise UserError(what, "write the list in a form that the tokens can spell, see --form")

    def score(self, requests: Sequence[Request]) -> list[list[float]]:
        """See `TextScorer`."""
        trees = [self._tree(request) for request in requests]
        found: list[list[float]] = [[] for _ in requests]
        for index in self._batches(trees):
            of_edges = self._of_edges([trees[row] for row in index])
            for row, of_tree in zip(index, of_edges):
                found[row] = [float(of_tree[path].sum()) if path else -math.inf for path in trees[row].paths]
        return found

    def _encoded(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = self.tokens.encode(text)
        return self._known[text]

    def _continuation(self, text: str) -> list[int]:
        """Return the tokens of a text with its end, if it is scored."""
        return [*self._encoded(text), self.tokens.end] if self.score_end else self._encoded(text)

    def _tree(self, request: Request) -> TokenTree:
        start, before = list(self.tokens.start), " ".join(text for text in request.context if text)
        joint = self.tokens.joint if before else ""
        texts = [f"{joint}{text}" if text else text for text in request.texts]
        every = [self._continuation(text) for text in texts]
        context = self._encoded(before) if before else []
        if context:
            self.facts.contexts += 1
            most = self.room - len(start) - max(map(len, every)) + 1 if self.room else len(context)
            if most < len(context):
                self.facts.shortened += 1
                context = context[-most:] if most > 0 else []
                every = every if context else [self._continuation(text) for text in request.texts]
        tree = TokenTree.of([*start, *context], every)
        self.facts.asked += sum(len(start) + len(context) + max(0, len(tokens) - 1) for tokens in every)
        self.facts.computed += len(tree.tokens)
        return tree

    def _batches(self, trees: Sequence[TokenTree]) -> Iterator[list[int]]:
        """Yield indices of trees of similar size whose nodes fit into a batch."""
        order = sorted(range(len(trees)), key=lambda index: -len(trees[index].tokens))
        while order:
            count = max(1, self.max_tokens // len(trees[order[0]].tokens))
            yield order[:count]
            order = order[count:]

    @torch.no_grad()
    def _of_edges(self, trees: Sequence[TokenTree]) -> list[np.ndarray]:
        """Return the log-probabilities of the edges of each tree."""
        state = self.network.start(len(trees))
        device = state.lengths.device
        tokens, sees = (torch.from_numpy(values).to(device) for values in ancestors(trees))
        hidden, _ = self.network.extend(tokens, state, sees)  # (N, U, D)
        longest = hidden.shape[1]
        nodes = [row * longest + node for row, tree in enumerate(trees) for node, _ in tree.edges]
        following = [token for tree in trees for _, token in tree.edges]
        found = edge_scores(hidden.flatten(0, 1), self.network.output_weight, nodes, following)
        ends = np.cumsum([len(tree.edges) for tree in trees])
        return np.split(found, ends[:-1])


def edge_scores(hidden: Tensor, weight: Tensor, nodes: Sequence[int], following: Sequence[int]) -> np.ndarray:
    """Return log-probabilities of tokens after nodes, without holding the logits of all nodes in memory.

    Args:
        hidden: input of the output layer at each node, ``(U, D)``.
        weight: weight of the output layer, ``(V, D)``.
        nodes: node of each of the E edges.
        following: token of each edge.

    Returns:
        ``(E,)`` float64.
    """
    used, row = np.unique(np.array(nodes, dtype=np.int64), return_inverse=True)
    order = np.argsort(row, kind="stable")
    sorted_rows, tokens = row[order], np.array(following, dtype=np.int64)[order]
    size, parts = max(1, _LOGITS // len(weight)), []
    for first in range(0, len(used), size):
        begin, end = np.searchsorted(sorted_rows, (first, first + size))
        part = hidden[torch.from_numpy(used[first : first + size]).to(hidden.device)]
        logits = torch.nn.functional.linear(part, weight)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        at = torch.from_numpy(sorted_rows[begin:end] - first).to(logits.device)
        chosen = logits[at, torch.from_numpy(tokens[begin:end]).to(logits.device)] - logits.logsumexp(dim=1)[at]
        parts.append(chosen.double().cpu().numpy())
    found = np.empty(len(order))
    found[order] = np.concatenate(parts) if parts else []
    return found
