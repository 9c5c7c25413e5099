"""The break-even multiple between a pruned network and one from scratch."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.sweeps.break_even import BreakEven, break_even


@given(st.floats(0.05, 30), st.floats(20, 60), st.floats(1, 10), st.floats(1.1, 8))
def test_a_log_linear_curve_gives_its_crossing(multiple: float, start: float, slope: float, ratio: float) -> None:
    """Rate = start - slope x log(steps): the crossing is known wherever it lies between the budgets."""
    budgets = [2000 * ratio**power for power in range(-4, 5)]
    scratch = [(steps, start - slope * math.log(steps)) for steps in budgets]
    found = break_even(2000, start - slope * math.log(2000 * multiple), scratch)
    if budgets[0] < 2000 * multiple < budgets[-1]:
        assert found.bound == "" and found.multiple == pytest.approx(multiple, rel=1e-6)
    else:
        assert found.bound == ("<" if multiple < 1 else ">")


def test_beyond_the_budgets_only_a_bound_is_known() -> None:
    scratch = [(6000, 25.0), (2000, 57.0), (11000, 16.0)]
    assert str(break_even(2000, 15.0, scratch)) == "> 5.5"
    assert str(break_even(2000, 60.0, scratch)) == "< 1.0"
    assert break_even(2000, 57.0, scratch) == BreakEven(1.0, "<")
    assert str(break_even(2000, 16.0, scratch)) == "5.5"


def test_the_first_crossing_counts() -> None:
    assert break_even(100, 20.0, [(100, 30.0), (200, 20.0), (400, 22.0), (800, 10.0)]).multiple == pytest.approx(2)


@pytest.mark.parametrize("scratch", [[(1, 3.0), (2, 2.0)], [(1, 3.0), (2, 2.0), (2, 1.0)]])
def test_two_budgets_are_not_enough(scratch: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="at least 3 budgets"):
        break_even(1, 1.0, scratch)
