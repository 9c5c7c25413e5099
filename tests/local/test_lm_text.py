"""Text for language models: the part of every sentence, and the vocabulary."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def program(name: str):  # type: ignore[no-untyped-def]
    spec = importlib.util.spec_from_file_location(name, ROOT / "local" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


prepare = program("prepare_lm_text")


@given(st.integers(1, 50), st.sampled_from([0.01, 0.02, 0.05, 0.1]), st.sampled_from([0.0, 0.02, 0.05, 0.1]))
def test_blocks_stay_together_and_shares_are_met(block: int, dev: float, test: float) -> None:
    blocks = 2000
    parts = [prepare.part_of(number * block, block, dev, test) for number in range(blocks)]
    last = [prepare.part_of(number * block + block - 1, block, dev, test) for number in range(blocks)]
    assert last == parts
    assert parts.count("test") == pytest.approx(test * blocks, abs=1)
    assert parts.count("dev") == pytest.approx(dev * blocks, abs=1 + 0.5 * dev * blocks)
    for part, share in (("dev", dev), ("test", test)):  # evenly distributed over the file
        places = [number for number, of_block in enumerate(parts) if of_block == part]
        assert all(later - earlier <= 2 / share + 2 for earlier, later in zip(places, places[1:]))


def test_files_are_divided(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"A  B{number % 7}\n\n" for number in range(1000)))
    prepare.main(["--text", str(text), "--output-dir", str(tmp_path / "lm"), "--block", "20", "--dev-share", "0.05",
                  "--test-share", "0.1"])  # fmt: skip
    counts = {part: len((tmp_path / "lm" / f"{part}.txt").read_text().splitlines()) for part in prepare.PARTS}
    assert sum(counts.values()) == 1000 and counts["test"] == 100 and counts["dev"] == 50
    words = [line.split() for line in (tmp_path / "lm" / "words.txt").read_text().splitlines()]
    assert words[0] == ["A", str(counts["train"])] and len(words) == 8
    none = ["--dev-share", "0", "--test-share", "0"]
    prepare.main(["--text", str(text), "--output-dir", str(tmp_path / "whole"), *none])
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == ["train.txt", "words.txt"]


def test_what_leaves_nothing_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A\n" * 10)
    with pytest.raises(UserError, match="no sentences left for dev and test; lower --block"):
        prepare.main(["--text", str(text), "--output-dir", str(tmp_path / "lm")])
    assert not list((tmp_path / "lm").iterdir())
    with pytest.raises(UserError, match="no text given; give --text or --cuts"):
        prepare.main(["--output-dir", str(tmp_path / "lm")])
    with pytest.raises(UserError, match="--dev-share and --test-share leave nothing"):
        prepare.main(["--text", str(text), "--output-dir", str(tmp_path / "lm"), "--dev-share", "0.6", "--test-share",
                      "0.4"])  # fmt: skip
