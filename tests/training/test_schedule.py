"""Learning-rate schedules against their formulas."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.errors import UserError
from pruning.training.schedule import ScheduleConfig, learning_rate_scale


def scales(config: ScheduleConfig, total: int) -> list[float]:
    return [learning_rate_scale(config, step, 1, total) for step in range(total)]


def test_constant_after_warm_up() -> None:
    assert scales(ScheduleConfig("constant", warmup_steps=4), 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@settings(deadline=None)
@given(dim=st.integers(16, 1024), warmup=st.integers(1, 40000), step=st.integers(0, 10**6))
def test_noam_is_the_published_formula(dim: int, warmup: int, step: int) -> None:
    published = dim**-0.5 * min((step + 1) ** -0.5, (step + 1) * warmup**-1.5)
    ours = (dim * warmup) ** -0.5 * learning_rate_scale(ScheduleConfig("noam", warmup), step, 1, None)
    assert ours == pytest.approx(published)


def test_linear_and_cosine_end_where_they_should() -> None:
    for kind in ("linear", "cosine"):
        config = ScheduleConfig(kind, warmup_steps=10, final_scale=0.1)  # type: ignore[arg-type]
        values = scales(config, 110)
        assert values[9] == 1.0 and values[10] == 1.0
        assert all(later < earlier for earlier, later in zip(values[10:], values[11:]))
        assert learning_rate_scale(config, 60, 1, 110) == pytest.approx(0.55)  # halfway, half of the decay
        assert learning_rate_scale(config, 110, 1, 110) == pytest.approx(0.1)
        assert learning_rate_scale(config, 500, 1, 110) == pytest.approx(0.1)
    assert learning_rate_scale(ScheduleConfig("cosine"), 25, 1, 100) == pytest.approx(0.5 + math.sqrt(0.5) / 2)


@settings(deadline=None)
@given(step=st.integers(0, 10**6), epoch=st.integers(1, 100))
def test_eden_is_icefalls_formula(step: int, epoch: int) -> None:
    """As in icefall's Eden, whose epochs count from 0."""
    config = ScheduleConfig("eden", warmup_steps=500, eden_steps=7500, eden_epochs=3.5, eden_warmup_start=0.5)
    factor = ((step**2 + 7500**2) / 7500**2) ** -0.25 * (((epoch - 1) ** 2 + 3.5**2) / 3.5**2) ** -0.25
    warmup = 1.0 if step >= 500 else 0.5 + 0.5 * (step / 500)
    assert learning_rate_scale(config, step, epoch, None) == pytest.approx(factor * warmup)


@settings(deadline=None)
@given(
    kind=st.sampled_from(["constant", "noam", "linear", "cosine", "eden"]),
    warmup=st.integers(0, 200),
    step=st.integers(0, 300),
    total=st.integers(1, 250),
)
def test_factors_stay_between_0_and_1(kind: str, warmup: int, step: int, total: int) -> None:
    config = ScheduleConfig(kind, warmup_steps=warmup)  # type: ignore[arg-type]
    config.check(total)
    assert 0.0 <= learning_rate_scale(config, step, 1, total) <= 1.0


def test_what_cannot_be_followed_is_refused() -> None:
    with pytest.raises(UserError, match="warmup_steps must be at least 0, got -1"):
        ScheduleConfig(warmup_steps=-1).check(None)
    with pytest.raises(UserError, match="cosine schedule needs the number of training steps"):
        ScheduleConfig("cosine").check(None)
    ScheduleConfig("noam", warmup_steps=5).check(None)
