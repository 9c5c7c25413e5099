"""The console command: lists the commands, runs one, and refuses unknown ones."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from pruning.bin import __main__ as console
from pruning.errors import UserError


def test_every_command_is_listed_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    console.dispatch([])
    listing = capsys.readouterr().out
    assert {"train", "prune", "extract", "finetune", "decode", "score", "report"} <= console.available().keys()
    for name, says in console.available().items():
        assert says.endswith((".", ":")) or len(says) > 20, name
        assert f"  {name} " in listing


def test_helpers_are_no_commands() -> None:
    assert not {"__init__", "__main__", "command", "arguments"} & console.available().keys()


def test_a_command_gets_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    received = []
    module = importlib.import_module("pruning.bin.score")
    monkeypatch.setattr(module, "main", lambda argv: received.append((sys.argv[0], argv)))
    monkeypatch.setattr(sys, "argv", ["pruning", "score", "a", "--b"])
    console.dispatch()
    assert received == [("pruning score", ["a", "--b"])]


def test_an_unknown_command_is_refused() -> None:
    with pytest.raises(UserError, match="unknown command paint; use one of: .*train"):
        console.dispatch(["paint"])
