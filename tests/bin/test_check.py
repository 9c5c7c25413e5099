"""Options and settings of all commands of a recipe are checked in one start, without data; the stage is named."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pruning.bin import check
from pruning.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "egs" / "TEMPLATE" / "conf"
DATA = ["--train-cuts", "no", "--dev-cuts", "no", "--lang-dir", "no", "--exp-dir", "no"]
TRAIN = ["train", *DATA, "--config", str(CONF / "teacher.yaml")]
PRUNE = ["prune", *DATA, "--config", str(CONF / "prune.yaml")]
FINETUNE = ["finetune", *DATA, "--config", str(CONF / "finetune.yaml"), "--init", "no"]
DECODE = ["decode", "--exp-dir", "no", "--cuts", "no", "--lang-dir", "no"]
IMPORT = ["import_icefall", "--source", "no", "--exp-dir", "no", "--lang-dir", "no"]
EXTRACT = ["extract", "--pruned", "no", "--exp-dir", "no"]


def checked(*commands: list[str]) -> None:
    check.main([word for number, words in enumerate(commands) for word in (str(number), *words, "---")])


def test_what_is_fine_is_silent(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """Neither data nor experiments exist."""
    with caplog.at_level(logging.INFO):
        checked([*TRAIN, "trainer.seed=3"], [*PRUNE, "--method", "taylor", "constraint.size=0.5"], [*FINETUNE],
                [*DECODE, "--method", "modified_beam_search", "--beam-size", "8", "--epoch", "3", "--avg", "2"],
                [*IMPORT, "--epoch", "30", "--avg", "9"], [*EXTRACT, "--round-to", "4"])  # fmt: skip
        check.main([])
    assert capsys.readouterr() == ("", "") and not caplog.records


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        (TRAIN, ["trainer.max_stpes=3"], r"stage 1 \(train\): .*trainer.max_stpes"),
        (PRUNE, ["--method", "tailor"], r"stage 1 \(prune\): argument --method: invalid choice: 'tailor'"),
        (PRUNE, ["constraint.size=1.5"], r"stage 1 \(prune\): .*'constraint.size' .* below 1, got 1.5"),
        (PRUNE, ["--method", "taylor", "l0.gate_lr=1"], r"stage 1 \(prune\): .*l0"),
        (FINETUNE, ["--confg", "x"], r"stage 1 \(finetune\): unrecognized arguments: --confg"),
        (EXTRACT, ["--round-to", "0"], r"stage 1 \(extract\): argument --round-to: "),
        (DECODE, ["--method", "greedy_serch"], r"stage 1 \(decode\): method must be .* got 'greedy_serch'"),
        (DECODE, ["--avg", "2"], r"stage 1 \(decode\): --avg needs --epoch"),
        (DECODE, ["--nbest", "9", "--method", "modified_beam_search"], r"stage 1 \(decode\): --nbest must be at most"),
        (IMPORT, ["--avg", "0"], r"stage 1 \(import_icefall\): argument --avg: "),
        (["page"], [], r"stage 1 \(page\) cannot be checked"),
    ],
)
def test_what_a_command_would_reject_is_named(command: list[str], options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked(EXTRACT, [*command, *options])
