"""Cuts of another form than a network takes are refused by every command that reads them, not only by training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pruning import registry
from pruning.bin import export, extract
from pruning.core.structure import Structure
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.models.conformer import ConformerConfig
from pruning.models.transducer import Transducer, TransducerConfig
from pruning.speech.text.bpe import Tokenizer

SMALL = ConformerConfig(24, 1, 12, (2,), (32,), (32,), (24,), conv_kernel=5, subsampling_channels=(4, 4, 8))


def network(place: Path, lang_dir: Path, bins: int, rate: int) -> dict[str, str]:
    """Write a network for features of some form, dense and as one that was pruned; return their directories."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(lang_dir)
    model = Transducer(TransducerConfig(replace(SMALL, feature_dim=bins), tokenizer.vocab_size, 16, 2, 16))
    header = {"model": registry.describe(model), "tokenizer": tokenizer.describe(),
              "features": {"sampling_rate": rate, "frame_shift": 0.01}}  # fmt: skip
    structure = Structure.dense(model.unit_groups()).to_dict()
    checkpoint.save_model(checkpoint.best_path(place / "dense"), model, header)
    checkpoint.save_model(checkpoint.best_path(place / "pruned"), model, {**header, "found_structure": structure})
    return {name: str(place / name) for name in ("dense", "pruned")}


@pytest.mark.parametrize(
    ("bins", "rate", "message"),
    [
        (80, 8000, "has features of sampling rate 16000, but those of the training of .* have 8000"),
        (40, 16000, "has features of dimension 80, but the network takes 40"),
    ],
)
def test_extraction_and_exports_refuse_features_of_another_form(
    data_dir: Path, tmp_path: Path, bins: int, rate: int, message: str
) -> None:
    lang_dir, cuts = data_dir / "lang_bpe_30", str(data_dir / "fbank" / "librispeech_cuts_dev.jsonl.gz")
    places = network(tmp_path, lang_dir, bins, rate)
    with pytest.raises(UserError, match=message):
        extract.main(["--pruned", places["pruned"], "--exp-dir", str(tmp_path / "small"), "--train-cuts", cuts,
                      "--lang-dir", str(lang_dir)])  # fmt: skip
    assert not (tmp_path / "small").exists()
    with pytest.raises(UserError, match=message):
        export.main(["--exp-dir", places["dense"], "--lang-dir", str(lang_dir), "--output", str(tmp_path / "out"),
                     "--cuts", cuts])  # fmt: skip
    assert not (tmp_path / "out").exists()
