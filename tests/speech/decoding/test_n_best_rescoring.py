"""Rescoring of candidates: weights, contexts, weights chosen on dev."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.speech.decoding.n_best import Candidate, Entry, merged
from pruning.speech.decoding.n_best_rescoring import Rescorer, Weights, at_edge, oracle_errors, reordered, tune
from pruning.speech.decoding.text_scorer import Request, ScoringFacts


class Known:
    """Scores texts from a table, plus 1 for each word that a text shares with its context."""

    takes_context = True

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores, self.facts, self.asked = scores, ScoringFacts(), list[Request]()

    def prepare(self, texts: Iterable[str]) -> None:
        assert all(text in self.scores for text in texts)

    def score(self, requests: Sequence[Request]) -> list[list[float]]:
        self.asked += requests
        return [[self.scores[text] + sum(text in before.split() for before in context) for text in texts]
                for texts, context in requests]  # fmt: skip


def candidates(lists: dict[str, list[Entry]]) -> dict[str, list[Candidate]]:
    return merged(lists).candidates


def same(text: str) -> str:
    return text


def best(rescorer: Rescorer, *weights: Weights) -> list[dict[str, str]]:
    totals = rescorer.totals(weights)
    return [{name: rescorer.candidates[name][of[row].argmax()].text for name, of in totals.items()}
            for row in range(len(weights))]  # fmt: skip


def test_scores_are_added_with_their_weights() -> None:
    lists = {"a": [Entry("a", -1.0, "X X"), Entry("a", -2.0, "Y")], "b": [Entry("b", 0.0, "Y")]}
    rescorer = Rescorer(candidates(lists), Known({"X X": -10.0, "Y": -1.0}), same)
    totals = rescorer.totals([Weights(0.5, 0.25)])
    found = reordered(rescorer.candidates, {name: of[0] for name, of in totals.items()})
    assert found == {"a": [Entry("a", -2.25, "Y"), Entry("a", -5.5, "X X")], "b": [Entry("b", -0.25, "Y")]}
    assert best(rescorer, Weights(0.0), Weights(0.0, -2.0)) == [{"a": "X X", "b": "Y"}, {"a": "Y", "b": "Y"}]
    assert len(rescorer.scorer.asked) == 2, "each list is scored once for all weights"  # type: ignore[attr-defined]


SCORES = st.floats(-100, 0, allow_nan=False)
PROBABILITIES = st.one_of(st.just(-math.inf), SCORES)


@given(st.lists(st.tuples(SCORES, PROBABILITIES), min_size=1, max_size=6), st.sampled_from([0.0, 0.3, 1.0]))
def test_texts_without_probability_come_last_and_a_weight_of_nothing_changes_nothing(
    pairs: list[tuple[float, float]], scale: float
) -> None:
    """Compared with an independent order: possible texts by their sums, then the rest by the recogniser's scores."""
    entries = [Entry("u", score, f"T{index}") for index, (score, _) in enumerate(pairs)]
    known = {f"T{index}": probability for index, (_, probability) in enumerate(pairs)}
    rescorer = Rescorer(candidates({"u": entries}), Known(known), same)
    found = reordered(rescorer.candidates, {"u": rescorer.totals([Weights(scale)])["u"][0]})["u"]
    possible = [entry for entry in entries if scale == 0 or known[entry.text] > -math.inf]
    sums = {entry.text: entry.score + (scale * known[entry.text] if scale else 0) for entry in possible}
    wanted = sorted(possible, key=lambda entry: (-sums[entry.text], -entry.score))
    wanted += sorted((entry for entry in entries if entry not in possible), key=lambda entry: -entry.score)
    assert [entry.text for entry in found] == [entry.text for entry in wanted]
    assert not any(math.isnan(entry.score) for entry in found)


def test_the_context_is_what_was_chosen_before_in_the_recording() -> None:
    """With a scale of 1, X is chosen in a1 and makes X win in a2; with 0 it is Y; b1 is another recording."""
    lists = {name: [Entry(name, -1.0, "Y"), Entry(name, -1.5, "X")] for name in ("a2", "b1", "a1", "a3")}
    lists["a1"][1] = Entry("a1", -0.5, "X")
    chains = [["a1", "a2", "a3"], ["b1"]]
    scorer = Known({"X": -1.0, "Y": -1.0})
    rescorer = Rescorer(candidates(lists), scorer, same, context=1, recordings=chains)
    found = best(rescorer, Weights(1.0), Weights(0.0), Weights(0.1))
    assert found[0] == {"a2": "X", "b1": "Y", "a1": "X", "a3": "X"}
    assert found[1] == found[2] == {"a2": "Y", "b1": "Y", "a1": "X", "a3": "Y"}
    contexts = [request.context for request in scorer.asked]
    assert sorted(contexts) == [(), (), ("X",), ("X",), ("Y",)], "equal contexts of several weights are scored once"
    longer = Rescorer(candidates(lists), Known(scorer.scores), same, context=3, recordings=chains)
    longer.totals([Weights(0.0)])
    assert [request.context for request in longer.scorer.asked][-1] == ("X", "Y")  # type: ignore[attr-defined]


def test_weights_are_chosen_on_dev() -> None:
    """X is right where the language model is needed; a bonus is needed for the longer text; ties: smaller weights."""
    lists = {"a": [Entry("a", -1.0, "Y"), Entry("a", -2.0, "X")], "b": [Entry("b", -1.0, "Y"), Entry("b", -1.4, "Y Y")]}
    rescorer = Rescorer(candidates(lists), Known({"X": -1.0, "Y": -4.0, "Y Y": -4.0}), same)
    references = {"a": ["X"], "b": ["Y", "Y"], "c": ["Z"]}
    tuned = tune(rescorer, references, [0.0, 0.4, 0.5, 1.0], [-1.0, 0.0, 1.0, 2.0])
    assert tuned.best.weights == Weights(0.4, 1.0) and tuned.best.errors == 1 and tuned.best.wer == 25.0
    assert len(tuned.tried) == 16 and tuned.at_edge == []
    assert {one.weights: one.errors for one in tuned.tried}[Weights(0.0, 0.0)] == 3
    assert oracle_errors(rescorer.candidates, references) == {"a": 0, "b": 0, "c": 1}


@pytest.mark.parametrize(("scale", "bonus", "edges"), [
    (0.0, 0.0, []), (1.0, 0.0, ["--lm-scale 1"]), (0.5, 2.0, ["--word-bonus 2"]), (0.5, -1.0, ["--word-bonus -1"]),
])  # fmt: skip
def test_weights_at_the_edge_are_told(scale: float, bonus: float, edges: list[str]) -> None:
    assert at_edge(Weights(scale, bonus), [0.0, 0.5, 1.0], [-1.0, 0.0, 2.0]) == edges
    assert at_edge(Weights(scale, bonus), [scale], [bonus]) == []
