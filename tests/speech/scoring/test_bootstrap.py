"""Bootstrap by speaker and utterance, p-values and Holm's correction, compared with known answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pruning.errors import UserError
from pruning.speech.scoring.bootstrap import REPLICATIONS, Design, Sample, holm


def of_one_set(speakers: Sequence[str], replications: int = REPLICATIONS) -> Design:
    return Design.of([("test", speaker) for speaker in speakers], replications)


def test_a_replication_draws_speakers_and_then_their_utterances() -> None:
    speakers = ["a"] * 4 + ["b"] * 2 + ["c"] * 2
    weights = of_one_set(speakers, replications=500).weights
    per_speaker = [weights[:, :4].sum(axis=1) / 4, weights[:, 4:6].sum(axis=1) / 2, weights[:, 6:].sum(axis=1) / 2]
    assert all(np.array_equal(drawn, np.round(drawn)) for drawn in per_speaker), "speakers are drawn as a whole"
    assert np.array_equal(sum(per_speaker), np.full(500, 3.0)), "as many speakers as there are"
    assert weights.mean() == pytest.approx(1.0, abs=0.05)


def test_sets_are_drawn_apart() -> None:
    """Every replication has as many speakers of each set as the set has; their names may be the same."""
    speakers = [("clean", "a"), ("clean", "b"), ("other", "a"), ("other", "b"), ("other", "c"), ("alone", "d")]
    weights = Design.of(speakers, replications=500).weights
    assert np.array_equal(weights[:, :2].sum(axis=1), np.full(500, 2.0))
    assert np.array_equal(weights[:, 2:5].sum(axis=1), np.full(500, 3.0))
    assert np.array_equal(weights[:, 5], np.ones(500)), "the only utterance of the only speaker of its set"
    assert abs(np.corrcoef(weights[:, 0], weights[:, 2])[0, 1]) < 0.15, "sets are drawn independently"


def test_an_easy_and_a_hard_set_do_not_widen_the_interval_of_both() -> None:
    """Compared with the interval of a mean over strata: the variance of each set, and nothing between sets."""
    generator = np.random.default_rng(6)
    words = np.full(400, 10.0)
    errors = generator.binomial(10, np.repeat([0.02, 0.4], 200)).astype(float)
    sets = [("clean" if i < 200 else "other", str(i), "") for i in range(400)]
    found = Design.of_sets(sets).rate(errors, words).interval
    deviation = 100 * np.sqrt(errors[:200].var() / 200 + errors[200:].var() / 200) / 2 / 10
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.06)
    constant = np.repeat([0.0, 5.0], 200)
    assert Design.of_sets(sets).rate(constant, words).interval == (25.0, 25.0, 25.0)


def test_of_a_set_with_one_speaker_utterances_are_drawn() -> None:
    errors, words = np.arange(20.0), np.full(20, 20.0)
    found = Design.of_sets(("test", str(i), "a") for i in range(20)).rate(errors, words).interval
    assert found.high - found.low == pytest.approx(2 * 1.96 * 100 * errors.std() / 20 / np.sqrt(20), rel=0.06)


def test_one_utterance_a_speaker_is_the_plain_bootstrap() -> None:
    generator = np.random.default_rng(1)
    words, errors = np.full(400, 10.0), generator.binomial(10, 0.1, size=400).astype(float)
    found = of_one_set([str(i) for i in range(400)]).rate(errors, words).interval
    assert found.value == pytest.approx(100 * errors.sum() / 4000)
    spread = 100 * errors.std() / 10 / np.sqrt(400)
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.06)


def test_speakers_that_err_alike_widen_the_interval() -> None:
    generator = np.random.default_rng(2)
    rates = np.repeat(generator.uniform(0, 0.4, size=10), 40)
    words, errors = np.full(400, 10.0), generator.binomial(10, rates).astype(float)
    by_utterance = of_one_set([str(i) for i in range(400)]).rate(errors, words).interval
    by_speaker = of_one_set([str(i // 40) for i in range(400)]).rate(errors, words).interval
    assert by_speaker.high - by_speaker.low > 2 * (by_utterance.high - by_utterance.low)


def test_p_values() -> None:
    generator = np.random.default_rng(3)
    design, words = of_one_set([str(i // 4) for i in range(400)], replications=2000), np.full(400, 10.0)
    nothing = generator.normal(size=400)
    nothing -= nothing.mean()
    base = design.rate(np.full(400, 3.0), words)
    assert (design.rate(nothing + 3, words) - base).p_value > 0.8
    assert (design.rate(nothing + 3.5, words) - base).p_value < 0.01
    assert (design.rate(nothing + 2.5, words) - base).p_value == pytest.approx(2 / 2001)
    assert (base - base).p_value == 1.0


def test_the_rate_of_several_seeds_is_their_mean() -> None:
    generator = np.random.default_rng(5)
    design, words = of_one_set([str(i) for i in range(50)], replications=100), np.full(50, 10.0)
    errors = generator.poisson(2.0, size=(5, 50)).astype(float)
    found, mean = design.rate(errors, words), design.rate(errors.mean(axis=0), words)
    assert found.value == pytest.approx(10 * errors.mean()) and np.array_equal(found.drawn, mean.drawn)


@pytest.mark.parametrize("freedom", [2, 6, 30])
def test_noise_between_trainings_has_the_quantiles_of_t(freedom: int) -> None:
    """One system, and the difference of two with 1 and 4 trainings, against scipy."""
    still = Sample(1.0, np.full(200_000, 1.0))
    one, four = still.spread(0.5, freedom, "a"), still.spread(0.25, freedom, "b")
    quantile = float(stats.t.ppf(0.975, freedom))
    for found, deviation, value in ((one, 0.5, 1.0), (one - four, np.sqrt(0.5**2 + 0.25**2), 0.0)):
        assert found.interval.high - value == pytest.approx(quantile * deviation, rel=0.04)
        assert value - found.interval.low == pytest.approx(quantile * deviation, rel=0.04)
    assert one.drawn.tolist() == still.spread(0.5, freedom, "a").drawn.tolist(), "the same for the same name"


def test_difference_of_samples() -> None:
    first, second = Sample(3.0, np.array([1.0, 2.0, 6.0])), Sample(1.0, np.array([1.0, 1.0, 1.0]))
    assert (first - second).value == 2.0 and (first - second).drawn.tolist() == [0.0, 1.0, 5.0]


def test_p_values_do_not_claim_too_much() -> None:
    """Resampling speakers and then utterances is conservative if speakers do not differ."""
    generator, words = np.random.default_rng(4), np.full(120, 8.0)
    design = of_one_set([str(i // 4) for i in range(120)], replications=400)
    found = [design.rate(generator.normal(size=120), words).p_value for _ in range(200)]
    assert np.mean(np.array(found) < 0.1) <= 0.1 + 0.04


def test_holm_by_hand() -> None:
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert corrected == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({}) == {} and holm({"a": 0.7}) == {"a": 0.7}


@settings(max_examples=50)
@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1), max_size=8))
def test_holm_is_between_no_correction_and_bonferroni(values: dict[str, float]) -> None:
    corrected = holm(values)
    for name, value in values.items():
        assert value <= corrected[name] <= min(1.0, len(values) * value) or corrected[name] == pytest.approx(value)
    order = sorted(values, key=lambda name: values[name])
    assert all(corrected[a] <= corrected[b] for a, b in zip(order, order[1:]))


def test_nothing_to_compare_on() -> None:
    with pytest.raises(UserError, match="no utterances"):
        Design.of([])
