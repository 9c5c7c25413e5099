"""Error handling of all commands; output files are complete or absent."""

from __future__ import annotations

import errno
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import pytest
import torch

from pruning.bin import arguments, command
from pruning.errors import UserError
from pruning.files import atomic_path, read_json, write_json, write_text


def outcome(error: Optional[BaseException], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    def main(argv: Optional[Sequence[str]]) -> None:
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as leaving:
        command.run(main, [])
    return int(leaving.value.code or 0), capsys.readouterr().err


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = outcome(UserError("a.flac is\ntruncated", "copy it again"), capsys)
    assert (status, text) == (1, "error: a.flac is truncated; copy it again\n")


def test_bad_input_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(UserError("a.flac is truncated", "copy it again")))
    assert (error.what, error.remedy, str(error)) == (
        "a.flac is truncated",
        "copy it again",
        "a.flac is truncated; copy it again",
    )


def test_a_full_disk_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = outcome(OSError(errno.ENOSPC, "No space left on device", "exp/best.safetensors"), capsys)
    assert status == 1
    assert text.startswith("error: no space left on the disk of exp/best.safetensors; free some")
    assert text.count("\n") == 1


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG,
                                    errno.EEXIST])  # fmt: skip
def test_a_path_that_cannot_be_used_is_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = outcome(OSError(number, "Sorry", "exp/config.yaml"), capsys)
    assert (status, text) == (1, "error: exp/config.yaml: Sorry; check the path and its permissions\n")


def test_too_little_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**55)
    cuda = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nMore of it")
    for error in (raised.value, cuda, MemoryError()):
        status, text = outcome(error, capsys)
        assert status == 1 and text.startswith("error: out of memory (") and text.count("\n") == 1
        assert "make batches smaller (data.max_duration" in text and "More of it" not in text


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Sorry"), OSError(errno.ECONNRESET, "Sorry", "exp"),
                                   RuntimeError("shapes differ")])  # fmt: skip
def test_other_faults_keep_their_traceback(error: Exception) -> None:
    def main(argv: Optional[Sequence[str]]) -> None:
        raise error

    with pytest.raises(type(error), match=re.escape(str(error))):
        command.run(main, [])


def test_interruption_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(KeyboardInterrupt(), capsys) == (130, "interrupted; run the same command again to continue\n")


def test_faults_of_ours_keep_their_traceback() -> None:
    def main(argv: Optional[Sequence[str]]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command.run(main, [])


def test_success_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(None, capsys) == (0, "")


def test_nothing_is_left_behind_by_a_failure(tmp_path: Path) -> None:
    write_text(tmp_path / "x.txt", "old")
    with pytest.raises(OSError, match="No space"), atomic_path(tmp_path / "x.txt") as temporary:
        temporary.write_text("new and half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]
    assert (tmp_path / "x.txt").read_text() == "old"


def test_a_directory_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    for content in ("one", "two"):
        with atomic_path(tmp_path / "state") as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["two"]


def test_json_round_trip_and_its_errors(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ä": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"ä": [1, 2.5, None]}
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"b\.json does not exist; run stage 3"):
        read_json(tmp_path / "b.json", "run stage 3")


def test_a_name_is_given_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise a table would show the last one only."""
    parser = arguments.parser("a command")
    parser.add_argument("--systems", nargs="+", type=arguments.system, action=arguments.Named)
    found = parser.parse_args(["--systems", "a=x", "b=y"])
    assert found.systems == [("a", Path("x")), ("b", Path("y"))]
    with pytest.raises(SystemExit):
        parser.parse_args(["--systems", "a=x", "b=y", "a=z"])
    assert "argument --systems: the name a is given twice" in capsys.readouterr().err
