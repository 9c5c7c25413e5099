"""`average` writes the weights that `load_model` averages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pruning import registry
from pruning.bin import average
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.models.conformer import ConformerConfig
from pruning.models.transducer import Transducer, TransducerConfig

CONFIG = TransducerConfig(
    encoder=ConformerConfig(
        8, 1, 4, (2,), (8,), (8,), (8,), conv_kernel=3, subsampling_channels=(2, 2), subsampling_strides=(2, 2)
    ),
    vocab_size=5,
    decoder_dim=8,
    joiner_dim=8,
)


@pytest.fixture
def exp_dir(tmp_path: Path) -> Path:
    for epoch in (1, 2):
        torch.manual_seed(epoch)
        model = Transducer(CONFIG)
        header = {"model": registry.describe(model), "averaging_key": "", "epoch": epoch}
        checkpoint.save_model(checkpoint.epoch_path(tmp_path, epoch), model, header)
    return tmp_path


def test_the_file_is_the_average_and_a_checkpoint(exp_dir: Path) -> None:
    output = exp_dir / "average.safetensors"
    arguments = ["--exp-dir", str(exp_dir), "--epoch", "2", "--avg", "2", "--output", str(output)]
    average.main([*arguments, "--use-averaged-model", "false"])
    model, header = checkpoint.load_model(output)
    assert header["averaged_epochs"] == [1, 2]
    ends = [checkpoint.load_model(exp_dir, epoch=epoch)[0].state_dict() for epoch in (1, 2)]
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, (ends[0][name] + ends[1][name]) / 2, atol=1e-6), name


def test_a_running_average_that_is_not_there_is_named(exp_dir: Path) -> None:
    with pytest.raises(
        UserError, match=r"epoch-2-average\.safetensors does not exist; give --use-averaged-model false"
    ):
        average.main(["--exp-dir", str(exp_dir), "--epoch", "2", "--avg", "1", "--output", f"{exp_dir}/a.safetensors"])
    assert not (exp_dir / "a.safetensors").exists()
