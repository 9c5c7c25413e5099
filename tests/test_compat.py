"""Differences between torch versions, as far as they can be tested without special hardware."""

from __future__ import annotations

from typing import Optional

import pytest
import torch

from pruning import compat


@pytest.mark.parametrize(
    ("capability", "hip", "answer"),
    [((7, 5), None, False), ((8, 0), None, True), ((9, 0), None, True), ((9, 0), "6.0", True)],
)
def test_emulated_bf16_does_not_count(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], hip: Optional[str], answer: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)  # as torch 2.x returns for every device
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert compat.supports_bf16(torch.device("cuda")) == answer


def test_a_cpu_takes_bf16() -> None:
    assert compat.supports_bf16(torch.device("cpu"))
