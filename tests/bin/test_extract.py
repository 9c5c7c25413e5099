"""Repeated extraction into the same directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pruning import registry
from pruning.bin import extract
from pruning.core.structure import Structure
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.files import write_json
from pruning.models.conformer import ConformerConfig
from pruning.models.transducer import Transducer, TransducerConfig


def make_pruned(directory: Path, seed: int = 0) -> dict[str, Any]:
    """Write a network in the form of a pruning run with nothing closed; return the structure."""
    torch.manual_seed(seed)
    encoder = ConformerConfig(24, 1, 12, (2,), (32,), (32,), (24,), conv_kernel=5, subsampling_channels=(4, 4, 8))
    model = Transducer(TransducerConfig(encoder, 20, 16, 2, 16))
    structure = Structure.dense(model.unit_groups()).to_dict()
    header = {"model": registry.describe(model), "tokenizer": {}, "found_structure": structure}
    checkpoint.save_model(checkpoint.best_path(directory), model, header)
    return structure


def test_an_extraction_is_taken_only_for_what_it_was_made_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    structure = make_pruned(tmp_path / "pruned")
    write_json(tmp_path / "structure.json", structure)
    arguments = ["--pruned", str(tmp_path / "pruned"), "--exp-dir", str(tmp_path / "small")]
    extract.main(arguments)
    for again in (arguments, ["--pruned", str(tmp_path / "pruned/best.safetensors"), *arguments[2:]]):
        capsys.readouterr()
        extract.main(again)
        assert capsys.readouterr().out.endswith("small is already extracted\n")
    with pytest.raises(UserError, match="small contains an extraction with another --round-to; remove it"):
        extract.main([*arguments, "--round-to", "4"])
    with pytest.raises(UserError, match="another --structure; "):
        extract.main([*arguments, "--structure", str(tmp_path / "structure.json")])
    make_pruned(tmp_path / "pruned", seed=1)
    with pytest.raises(UserError, match="another --pruned; "):
        extract.main(arguments)


def test_an_extraction_that_does_not_say_what_of_is_not_taken(tmp_path: Path) -> None:
    make_pruned(tmp_path / "pruned")
    make_pruned(tmp_path / "small")
    with pytest.raises(UserError, match="another --pruned, --round-to; "):
        extract.main(["--pruned", str(tmp_path / "pruned"), "--exp-dir", str(tmp_path / "small")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--teacher", "dense"], "--teacher has no effect without --repair"),
        (["--repair", "3", "--reinitialise", "1"], "--repair has no effect with --reinitialise"),
        (["--train-text", "a.txt", "--train-cuts", "a.jsonl.gz"], "--train-cuts has no effect with --train-text"),
        (["--batch-norm-batches", "50"], "--batch-norm-batches has no effect without --train-cuts"),
        (["--train-text", "a.txt", "--max-duration", "100"], "--max-duration has no effect without --train-cuts"),
    ],
)
def test_options_without_effect_are_refused(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        extract.check(["--pruned", "a", "--exp-dir", "b", *options])
    extract.check(["--pruned", "a", "--exp-dir", "b", "--train-cuts", "a.jsonl.gz", "--max-duration", "9"])
