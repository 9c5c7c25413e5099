"""Sections of a pruning configuration that the chosen method does not use."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from pruning.bin import prune
from pruning.errors import UserError
from pruning.methods.config import PruningConfig, check_settings
from pruning.methods.names import HJ, L0, METHODS, NO_CELL, TECHNIQUES

FILE = "kind: transformer_lm\nl0: {gate_lr: 0.5}\ncriterion: {interval: 5}\nlow_rank: {calibration_batches: 3}\n"
DENSE = "low_rank: are not used by technique structured"


def command(place: Path, *more: str) -> None:
    """Prune with a configuration of three sections, up to the lang dir, which does not exist."""
    (place / "prune.yaml").write_text(FILE)
    prune.main(["--config", str(place / "prune.yaml"), "--exp-dir", str(place / "exp"), "--teacher", str(place),
                "--lang-dir", str(place / "nowhere"), "--train-text", "x", "--dev-text", "x", *more])  # fmt: skip


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("method", METHODS)
def test_each_method_uses_its_own_section(method: str, technique: str) -> None:
    if (method, technique) in NO_CELL:
        return
    used = {"l0" if method in (L0, *HJ) else "criterion", *(["low_rank"] if technique == "low_rank" else [])}
    config = PruningConfig(method, technique)
    assert config.unused().keys() == {"l0", "criterion", "low_rank"} - used
    check_settings(config, [f"{section}.x=1" for section in used] + ["constraint.size=0.5", f"method={method}"])


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (["--method", "taylor"], {"l0: are not used by method taylor", DENSE}),
        (["--method", "taylor", "--technique", "low_rank"], {"l0: are not used by method taylor"}),
        ([], {"criterion: are not used by method l0", DENSE}),
    ],
)
def test_sections_that_are_not_used_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, options: list[str], lines: set[str]
) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(UserError, match="nowhere"):
        command(tmp_path, *options)
    assert {one for one in caplog.messages if "not used" in one} == {f"settings under {line}" for line in lines}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "taylor", "l0.gate_lr=0.1"], "setting l0.gate_lr=0.1 has no effect: method taylor does not use "
         "settings under l0:; leave it out, or choose method l0, hj-size, hj-mac, hj-sepsize"),
        (["--method", "taylor", "gating.gate_lr=0.1"], "setting l0.gate_lr=0.1 has no effect"),
        (["--method", "taylor", "l0={gate_lr: 0.1}"], "setting l0={gate_lr: 0.1} has no effect"),
        (["criterion.interval=3"], "method l0 does not use settings under criterion:; leave it out, or choose another"),
        (["method=hj-mac", "constraint.macs=0.5", "criterion.interval=3"], "method hj-mac does not use"),
        (["--method", "wanda", "low_rank.calibration_batches=3"], "technique structured does not use settings under "
         "low_rank:; leave it out, or choose technique low_rank"),
    ],
)  # fmt: skip
def test_settings_without_effect_are_refused(tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        command(tmp_path, *options)
