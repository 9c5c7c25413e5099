"""The plan reports sizes, steps and epochs, and trains nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from pruning import configuration, registry
from pruning.bin import plan
from pruning.core.distillation import DistillationConfig
from pruning.core.low_rank import FactoredLinear
from pruning.errors import UserError
from pruning.experiments import checkpoint
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


def test_the_networks_stay_where_and_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are timed on a device, to which the networks of the next run must not have moved."""
    model, teacher = network(), network()
    own = {id(tensor) for one in (model, teacher) for tensor in (*one.parameters(), *one.buffers())}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moved: list[int] = []
    move = TransducerTask.to

    def to(task: TransducerTask, device: torch.device) -> TransducerTask:
        assert task.teacher is not None
        moved.extend(id(tensor) for tensor in (*task.parameters(), *task.buffers(), *task.teacher.parameters()))
        return move(task, device)

    monkeypatch.setattr(TransducerTask, "to", to)
    config = RunConfig(loss=LossConfig(backend="torch"), trainer=TrainerConfig(max_steps=3, num_threads=1),
                       distillation=DistillationConfig(layers=(0, 1)))  # fmt: skip
    plan_run("fine-tuning", model, config, Corpus(10, 3600), timed_seconds=4, timed_steps=1, teacher=teacher)
    assert moved and not own & set(moved)
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert all(one.requires_grad for one in teacher.parameters())


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


def rows(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, list[str]]:
    """Return the cells of each row of a plan for a tiny network."""
    given = ["--teacher-config", str(CONF / "d512/teacher.yaml"), "--timed-seconds", "12", *options, "--parts",
             "train-clean-5", *TINY, "model.encoder.ffn_dim=[2048]", "trainer.max_steps=10",
             "trainer.num_threads=1"]  # fmt: skip
    plan.main(given)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    return {cells[0]: cells for cells in lines if cells and cells[0] in plan.RUNS}


def configured(place: Path, name: str, further: str = "") -> list[str]:
    """Write a small configuration of a run and return its option."""
    path = place / f"{name}.yaml"
    path.write_text(f"loss: {{backend: torch}}\ntrainer: {{max_steps: 10, num_threads: 1}}\n{further}")
    return [f"--{name}-config", str(path)]


def test_settings_of_each_run_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of one run leave the others as they are; a target decides the size of the networks behind pruning."""
    given = [*configured(tmp_path, "prune", "constraint: {size: 0.5}\nmethod: magnitude\n"),
             *configured(tmp_path, "finetune"), *configured(tmp_path, "uniform")]  # fmt: skip
    half = rows(capsys, *given)
    changed = rows(capsys, *given, "--prune-args=--method taylor constraint.size=0.1 trainer.max_steps=7",
                   "--finetune-args=trainer.max_steps=8", "--uniform-args=trainer.max_steps=9")  # fmt: skip
    assert list(half) == list(changed) == ["teacher", "pruning", "fine-tuning", "uniform"]

    def steps(found: dict[str, list[str]]) -> list[int]:
        return [int(cells[-8]) for cells in found.values()]

    assert steps(half) == [10, 10, 10, 10] and steps(changed) == [10, 7, 8, 9]
    for name in ("fine-tuning", "uniform"):
        assert float(changed[name][1]) > float(half[name][1]), "less is removed"
    assert changed["teacher"][1] == half["teacher"][1]
    some = rows(capsys, *given, "--runs", "pruning", "uniform-further", "--prune-args=trainer.max_steps=3")
    assert list(some) == ["pruning", "uniform-further"] and steps(some) == [3, 13]


def test_a_network_that_exists_is_planned_in_its_own_dimensions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = network()
    checkpoint.save_model(tmp_path / "teacher.safetensors", model, {"model": registry.describe(model)})
    plan.main(["--teacher", str(tmp_path / "teacher.safetensors"), "--parts", "train-clean-5", "--timed-seconds", "4",
               *configured(tmp_path, "prune", "constraint: {size: 0.1}\n")])  # fmt: skip
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("pruning ")]
    assert float(row[3]) == pytest.approx(sum(one.numel() for one in model.parameters()) / 1e6, abs=0.005)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prune-args=--method tailor"], "--prune-args has no effect without --prune-config"),
        (["--runs", "uniform"], "the run uniform has no configuration; give --uniform-config"),
        (["--teacher", "no"], "no dense network given, or two"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan.main(["--teacher-config", str(CONF / "d512/teacher.yaml"), "--parts", "train-clean-5", *options])


def test_a_part_of_unknown_size_is_refused() -> None:
    with pytest.raises(UserError, match="the size of train-clean-7 is unknown"):
        plan.main(["--teacher-config", str(CONF / "d512/teacher.yaml"), "--parts", "train-clean-7"])
    with pytest.raises(UserError, match="do not exist; run the feature stage, or give --parts"):
        plan.main(["--teacher-config", str(CONF / "d512/teacher.yaml"), "--train-cuts", "nothing.jsonl.gz"])
