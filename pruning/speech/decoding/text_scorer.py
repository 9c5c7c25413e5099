"""What scores texts with a language model, and the n-gram that does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pruning.speech.ngrams.ngram import NgramModel


class Request(NamedTuple):
    """Hypotheses of one utterance to score.

    Attributes:
        texts: the hypotheses, as they are written for the language model.
        context: the texts before them, the nearest last.
    """

    texts: tuple[str, ...]
    context: tuple[str, ...] = ()


@dataclass
class ScoringFacts:
    """What was counted while texts were scored.

    Attributes:
        asked: number of tokens that separate passes over all hypotheses would have computed.
        computed: number of tokens that were computed.
        contexts: number of contexts.
        shortened: number of contexts that were cut to what the network takes.
        changed: texts that their tokens spell otherwise.
    """

    asked: int = 0
    computed: int = 0
    contexts: int = 0
    shortened: int = 0
    changed: list[str] = field(default_factory=list)

    def described(self, context: int) -> dict[str, int]:
        """Return the counts that a result keeps, of contexts if there were any."""
        found = {"tokens": self.computed, "tokens_without_sharing": self.asked, "changed_by_tokens": len(self.changed)}
        return {**found, "contexts": self.contexts, "contexts_shortened": self.shortened} if context else found


class TextScorer(Protocol):
    """A language model that scores texts."""

    facts: ScoringFacts

    @property
    def takes_context(self) -> bool:
        """Whether texts may follow others."""

    def prepare(self, texts: Iterable[str]) -> None:
        """Check texts before any is scored.

        Raises:
            UserError: the language model cannot score one of them.
        """

    def score(self, requests: Sequence[Request]) -> list[list[float]]:
        """Return the natural log-probability of each text of each request.

        Minus infinity: the text is impossible, or it is empty and its end is not scored.
        """


@dataclass
class NgramScorer:
    """Score texts with a word n-gram, each alone.

    Attributes:
        model: the n-gram.
        score_end: whether the end of a text is scored.
        facts: see `ScoringFacts`; nothing is counted.
    """

    model: NgramModel
    score_end: bool = True
    facts: ScoringFacts = field(default_factory=ScoringFacts)
    takes_context = False

    def prepare(self, texts: Iterable[str]) -> None:
        """See `TextScorer`: every text can be scored."""

    def score(self, requests: Sequence[Request]) -> list[list[float]]:
        """See `TextScorer`."""
        return [[self._of(text) for text in request.texts] for request in requests]

    def _of(self, text: str) -> float:
        of_words = self.model.score(text.split())
        if self.score_end:
            return float(sum(of_words))
        return float(sum(of_words[:-1])) if len(of_words) > 1 else -math.inf


@dataclass
class NoScorer:
    """Score every text with 0: no language model.

    Attributes:
        facts: see `ScoringFacts`; nothing is counted.
    """

    facts: ScoringFacts = field(default_factory=ScoringFacts)
    takes_context = False

    def prepare(self, texts: Iterable[str]) -> None:
        """See `TextScorer`: every text can be scored."""

    def score(self, requests: Sequence[Request]) -> list[list[float]]:
        """See `TextScorer`."""
        return [[0.0] * len(request.texts) for request in requests]
