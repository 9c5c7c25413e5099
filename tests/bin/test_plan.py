"""The plan reports sizes, steps and epochs, and trains nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pruning import configuration
from pruning.bin import plan
from pruning.core.low_rank import FactoredLinear
from pruning.errors import UserError
from pruning.kinds.transducer import PruneConfig, RunConfig
from pruning.measure.plan import Corpus, make_task, plan_run, saved_bytes, synthetic_batch
from pruning.models.transducer import Transducer
from pruning.speech.losses.combined import LossConfig
from pruning.tasks.transducer import TransducerTask
from pruning.training.task import StepInfo
from pruning.training.trainer_config import TrainerConfig
from tests.methods.test_l0 import network

CONF = Path(__file__).resolve().parents[2] / "egs" / "librispeech" / "conf"
TINY = [
    "model.encoder.num_layers=1", "model.encoder.d_model=32", "model.encoder.head_dim=16",
    "model.encoder.num_heads=[2]", "model.encoder.macaron_dim=[32]", "model.encoder.ffn_dim=[32]",
    "model.encoder.conv_channels=[32]", "model.decoder_dim=16", "model.joiner_dim=16", "loss.backend=torch",
]  # fmt: skip


def test_steps_epochs_and_scaling() -> None:
    config = RunConfig(loss=LossConfig(backend="torch"), trainer=TrainerConfig(num_epochs=3, num_threads=1))
    corpus = Corpus(hours=10, utterances=3600)
    result = plan_run("teacher", network(), config, corpus, processes=2, timed_seconds=10, timed_steps=1)
    per_epoch = math.ceil(36000 / config.data.max_duration / 2)
    assert result.steps == 3 * per_epoch
    assert result.epochs == pytest.approx(3.0)
    assert result.step_seconds > 0
    parameters = sum(parameter.numel() for parameter in network().parameters())
    assert result.state_bytes == 4 * 5 * parameters, "weights, gradients, two moments, average"


def test_saved_activations_grow_with_the_batch() -> None:
    def measured(model: Transducer, seconds: float) -> int:
        task = TransducerTask(model, LossConfig(backend="torch")).train()
        return saved_bytes(task, synthetic_batch(seconds, 2.0, 9), StepInfo(1, 0, 50, 100))

    small, large = measured(network(), 4.0), measured(network(), 8.0)
    assert small > 4.0 * 100 / 4 * 32 * 4, "at least one layer's output"
    assert large == pytest.approx(2 * small, rel=0.15)


def test_low_rank_is_planned_with_its_factors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training keeps factors of full rank, which have more parameters than the dense network."""
    path = tmp_path / "prune.yaml"
    path.write_text("method: magnitude\ntechnique: low_rank\nloss: {backend: torch}\nconstraint: {size: 0.05}\n"
                    "trainer: {max_steps: 10, num_threads: 1}\n")  # fmt: skip
    task = make_task(network(), configuration.load(PruneConfig, path))
    assert any(isinstance(module, FactoredLinear) for module in task.model.modules())
    plan.main(
        ["--teacher-config", str(CONF / "d512/teacher.yaml"), "--prune-config", str(path), "--parts", "train-clean-100",
         "--timed-seconds", "12", *TINY, "trainer.max_steps=10", "trainer.num_threads=1"]
    )  # fmt: skip
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    sizes = {line[0]: float(line[3]) for line in lines if line and line[0] in ("teacher", "pruning")}
    assert sizes["pruning"] > sizes["teacher"]


def test_the_printed_plan(capsys: pytest.CaptureFixture[str]) -> None:
    plan.main(
        ["--teacher-config", str(CONF / "d512/teacher.yaml"), "--parts", "train-clean-100", "train-other-500",
         "--copies", "3", "--timed-seconds", "12", *TINY, "trainer.max_steps=1000", "trainer.num_threads=1"]
    )  # fmt: skip
    printed, told = capsys.readouterr()
    assert told.splitlines()[0].endswith("timing some steps of teacher")
    assert "training data: 1791.9 h, 531681 utterances (published sizes, 3 speeds)" in printed
    assert "1000" in next(line for line in printed.splitlines() if line.startswith("teacher"))


def test_a_part_of_unknown_size_is_refused() -> None:
    with pytest.raises(UserError, match="the size of train-clean-7 is unknown"):
        plan.main(["--teacher-config", str(CONF / "d512/teacher.yaml"), "--parts", "train-clean-7"])
    with pytest.raises(UserError, match="do not exist; run the feature stage, or give --parts"):
        plan.main(["--teacher-config", str(CONF / "d512/teacher.yaml"), "--train-cuts", "nothing.jsonl.gz"])
