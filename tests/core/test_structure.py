"""Test structures: JSON, resolution, rounding, and rejected input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruning.core.structure import KeptUnits, Structure
from pruning.core.units import COMPONENTS, UnitGroup
from pruning.errors import UserError

GROUPS = [
    UnitGroup("m", "module", 1, ()),
    UnitGroup("m.h", "ffn", 32, (), parent="m"),
    UnitGroup("c", "conv", 6, (), minimum=1),
]


@given(
    masks=st.tuples(
        st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=32, max_size=32),
        st.lists(st.sampled_from([0.0, 1.0]), min_size=6, max_size=6),
    )
)
def test_json_round_trip_and_masks(masks: tuple[list[float], list[float]]) -> None:
    given_masks = {"m.h": torch.tensor(masks[0]), "c": torch.tensor(masks[1])}
    structure = Structure.from_masks(GROUPS, given_masks)
    assert Structure.from_dict(structure.to_dict()) == structure
    for name, mask in structure.masks().items():
        if name in given_masks:
            assert torch.equal(mask, given_masks[name])
    assert structure.count("m") == (1 if any(masks[0]) else 0)


def test_a_closed_module_closes_its_units_and_an_emptied_one_closes() -> None:
    closed = Structure.from_masks(GROUPS, {"m": torch.zeros(1)})
    assert closed.count("m.h") == 0
    emptied = Structure.from_masks(GROUPS, {"m.h": torch.zeros(32)})
    assert emptied.count("m") == 0


def test_rounding_takes_the_best_and_drops_the_worst() -> None:
    scores = tuple(float(i) for i in range(32))
    for kept, count in [(range(13), 16), (range(11), 8), (range(2), 8), (range(32), 32)]:
        units = KeptUnits("ffn", 32, tuple(kept), None, scores)
        whole = Structure.dense(GROUPS).groups
        rounded = Structure({**whole, "m.h": units}).rounded(8, GROUPS)
        assert rounded.count("m.h") == count
        new = set(rounded.groups["m.h"].kept)
        if count >= len(kept):
            assert set(kept) <= new, "kept units stay"
            assert new - set(kept) <= set(range(32 - (count - len(kept)), 32)), "the added units have the best scores"
        else:
            assert new == set(list(kept)[-count:])
        assert rounded.count("c") == 6, "small groups are not rounded"


def test_rounding_without_scores_is_refused() -> None:
    structure = Structure.from_masks(GROUPS, {"m.h": torch.tensor([1.0] * 13 + [0.0] * 19)})
    with pytest.raises(UserError, match=r"no scores for m\.h"):
        structure.rounded(8, GROUPS)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"groups": {"m": {"kind": "x", "size": 2, "kept": [0, 2]}}},
        {"groups": {"m": {"kind": "x", "size": 2, "kept": [1, 0]}}},
        {"groups": {"m": {"kind": "x", "size": 2, "kept": [0], "scale": [1, 1]}}},
        {"groups": {"m": {"kind": "x", "kept": [0]}}},
        {"groups": {"m": {"kind": "x", "size": 2, "kept": [0], "scale": [float("nan")]}}},
        {"groups": {"m": {"kind": "x", "size": 2, "kept": [0], "scale": [0.0]}}},
        {"groups": {"m": {"kind": "x", "size": 2, "kept": [0], "scores": [1.0, float("nan")]}}},
    ],
)
def test_malformed_structures_are_refused(value: dict) -> None:
    with pytest.raises(UserError):
        Structure.from_dict(value, "s.json")


def test_a_structure_of_another_network_is_refused() -> None:
    structure = Structure.dense(GROUPS)
    structure.check_fits(GROUPS)
    with pytest.raises(UserError, match=r"unit group c\b"):
        structure.check_fits(GROUPS[:2])
    with pytest.raises(UserError, match="6 units in c, the network has 7"):
        structure.check_fits([*GROUPS[:2], UnitGroup("c", "conv", 7, ())])


def test_units_that_must_stay_are_kept() -> None:
    dense = Structure.dense(GROUPS)
    emptied = Structure({**dense.groups, "c": dense.groups["c"].with_kept(())})
    with pytest.raises(UserError, match="keeps 0 units in group c, but at least 1 must stay"):
        emptied.check_fits(GROUPS)
    inside = [GROUPS[0], UnitGroup("m.h", "conv", 32, (), parent="m", minimum=2)]
    Structure.from_masks(inside, {"m": torch.zeros(1)}).check_fits(inside)  # below the minimum, but in a closed module


def test_lines_are_for_people() -> None:
    assert Structure.dense(GROUPS).lines()[1].split() == ["m.h", "ffn", "32/32"]


def test_components_are_rounded_down() -> None:
    """Removed components are zero and cannot be added back; a whole layer is one matrix and is not rounded."""
    groups = [UnitGroup("w", COMPONENTS, 30, (), minimum=1)]
    scores = tuple(float(-i) for i in range(30))
    for kept, count in [(15, 8), (8, 8), (23, 16), (29, 24), (30, 30), (5, 5)]:
        structure = Structure({"w": KeptUnits(COMPONENTS, 30, tuple(range(kept)), None, scores)})
        assert structure.rounded(8, groups).groups["w"].kept == tuple(range(count))
