"""Choice of the k2 wheel that fits the installed torch."""

from __future__ import annotations

from typing import Optional

import pytest

from find_k2 import newest

BASE = "https://example.org/resolve/main/"
NAMES = [
    "k2-1.24.3.dev20230718%2Bcuda11.7.torch1.13.1-cp311-cp311-linux_x86_64.whl",
    "k2-1.24.4.dev20240606+cuda12.1.torch2.3.1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "k2-1.24.4.dev20250115+cuda12.1.torch2.3.1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "k2-1.24.4.dev20250115+cuda12.1.torch2.3.1-cp310-cp310-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "k2-1.24.4.dev20250115+cuda12.1.torch2.3.1-cp311-cp311-macosx_11_0_arm64.whl",
    "k2-1.24.4.dev20250115+cpu.torch2.3.1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "other-1.0+cpu.torch2.3.1-cp311-cp311-linux_x86_64.whl",
]
PAGE = "<html>" + "".join(f'<a href="{BASE}{name}">{name}</a><br/>' for name in NAMES)


@pytest.mark.parametrize(
    ("torch", "cuda", "expected"),
    [("1.13.1", "11.7", 0), ("2.3.1", "12.1", 2), ("2.3.1", None, 5), ("2.3.1", "11.8", None), ("2.3", "12.1", None)],
)
def test_the_newest_that_fits(torch: str, cuda: Optional[str], expected: Optional[int]) -> None:
    found = newest(PAGE, torch, cuda, "cp311", "x86_64")
    assert found == (None if expected is None else BASE + NAMES[expected])
