"""Options and settings of all commands of a recipe are checked in one start, without data; the stage is named."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from torch import nn

from pruning import registry
from pruning.bin import check
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.models.transducer import Transducer, TransducerConfig
from pruning.models.zipformer_config import ZipformerConfig
from tests.methods.test_l0 import network
from tests.models import zipformers

CONF = Path(__file__).resolve().parents[2] / "egs" / "TEMPLATE" / "conf"
DATA = ["--train-cuts", "no", "--dev-cuts", "no", "--lang-dir", "no", "--exp-dir", "no"]
SMALL = ["model.encoder.num_layers=1", "model.encoder.d_model=32", "model.encoder.head_dim=16",
         "model.encoder.num_heads=[2]", "model.encoder.macaron_dim=[32]", "model.encoder.ffn_dim=[32]",
         "model.encoder.conv_channels=[32]"]  # fmt: skip
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


def saved(place: Path, model: nn.Module) -> str:
    checkpoint.save_model(checkpoint.best_path(place), model, {"model": registry.describe(model)})
    return str(place)


def training(exp_dir: str, *words: str) -> list[str]:
    """Return the words that train the teacher of the template in a directory."""
    return ["train", *DATA[:-1], exp_dir, "--config", str(CONF / "teacher.yaml"), *SMALL, *words]


def pruning(teacher: str, *words: str) -> list[str]:
    return [*PRUNE, "--teacher", teacher, "constraint.size=0", *words]


def test_a_target_beyond_reach_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    """The network exists, or a command before will train it, in dimensions of its own or from another network."""
    beyond = ["constraint.parts={size:subsampling: 0.9999}"]
    exists = saved(tmp_path / "exists", network())
    for before, teacher in (([], exists), ([training("new")], "./new"),
                            ([training("new", "--init", exists, "model=null")], "new")):  # fmt: skip
        checked(*before, pruning(teacher, "constraint.size=0.3"))
        with pytest.raises(UserError, match=r"stage . \(prune\): a sparsity of 0.9999 in .* is beyond reach"):
            checked(*before, pruning(teacher, *beyond))
    checked(pruning("unknown", *beyond))
    checked(training("new", "--init", "unknown", "model=null"), pruning("new", *beyond))


def test_chunks_that_a_network_cannot_compute_are_told_before_it_is_trained(tmp_path: Path) -> None:
    def decoding(exp_dir: str, *words: str) -> list[str]:
        return ["decode", "--exp-dir", exp_dir, *DECODE[3:], *words]

    encoder = ZipformerConfig(**{**zipformers.SMALL, "causal": True})
    causal = saved(tmp_path / "causal", Transducer(TransducerConfig(zipformer=encoder, vocab_size=9)))
    for before, exp_dir in (([], saved(tmp_path / "whole", network())), ([training("new")], "new")):
        checked(*before, decoding(exp_dir))
        with pytest.raises(UserError, match=r"\(decode\): the network is not causal"):
            checked(*before, decoding(exp_dir, "--chunk-size", "16"))
    checked(decoding(causal, "--chunk-size", "16"), decoding("unknown", "--chunk-size", "16"))
    with pytest.raises(UserError, match="a chunk of 3 frames is not a multiple of the downsampling factors"):
        checked(decoding(causal, "--chunk-size", "3"))
