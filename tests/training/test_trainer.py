"""The training loop: what it writes, what it refuses; an interrupted run repeats the uninterrupted one."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning.errors import UserError
from pruning.experiments import checkpoint, directory
from pruning.training.optimiser import OptimiserConfig
from pruning.training.schedule import ScheduleConfig
from pruning.training.seeding import seed_everything
from pruning.training.task import StepInfo
from pruning.training.trainer import Trainer
from tests.training.toy import (
    CONFIG,
    FEATURES,
    Crash,
    ToyBatch,
    ToyTask,
    batch_of,
    batches,
    build,
    crashing,
    development,
    make,
    toy_task,
)


def rows(exp_dir: Path) -> list[dict[str, Any]]:
    lines = (exp_dir / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if "per_second" not in key} for line in lines]


def weights(path: Path) -> dict[str, Tensor]:
    return checkpoint.read_tensors(path, "")


def assert_equal_experiments(left: Path, right: Path) -> None:
    """Check for bit-equal weights in the same files, and for the same metrics."""
    names = sorted(path.name for path in left.glob("*.safetensors"))
    assert names == sorted(path.name for path in right.glob("*.safetensors"))
    for name in names:
        ours, theirs = weights(left / name), weights(right / name)
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert torch.equal(ours[key], theirs[key]), (name, key)
        assert checkpoint.read_header(left / name) == checkpoint.read_header(right / name)
        assert (left / name).read_bytes() == (right / name).read_bytes(), name
    assert rows(left) == rows(right)


def test_the_end_of_a_run_is_said_once_before_it_is_done(tmp_path: Path) -> None:
    """What depends on the trained weights is written with them, and not again with those of a network not loaded."""
    task, seen = toy_task(), []
    before = [parameter.clone() for parameter in task.model.parameters()]

    def at_end() -> None:
        changed = any(not torch.equal(one, two) for one, two in zip(before, task.model.parameters()))
        seen.append((changed, directory.is_done(tmp_path)))

    make(tmp_path, task=task, at_end=at_end).run()
    assert seen == [(True, False)]
    make(tmp_path, at_end=at_end).run()
    assert seen == [(True, False)]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    exp_dir = tmp_path_factory.mktemp("whole")
    make(exp_dir).run()
    return exp_dir


def test_writes_what_it_promises(whole_run: Path) -> None:
    names = {path.name for path in whole_run.iterdir()}
    epochs = {f"epoch-{n}{suffix}.safetensors" for n in (1, 2, 3) for suffix in ("", "-average")}
    batch = {"batch-15.safetensors", "batch-20.safetensors"}  # the last two of 5, 10, 15, 20
    assert names == {
        *epochs,
        *batch,
        "best.safetensors",
        "config.yaml",
        "run.json",
        "metrics.jsonl",
        "state",
        ".done",
        ".lock",
    }
    assert [path.name for path in (whole_run / "state").iterdir()] == ["epoch-0004-batch-000000"]
    header = checkpoint.read_header(whole_run / "epoch-2.safetensors")
    assert (header["epoch"], header["step"], header["average_updates"]) == (2, 14, 7)
    assert yaml.safe_load((whole_run / "config.yaml").read_text())["schedule"]["type"] == "cosine"


def test_training_learns_and_the_best_is_the_best(whole_run: Path) -> None:
    dev = [row for row in rows(whole_run) if row["kind"] == "dev"]
    assert [row["step"] for row in dev] == [6, 7, 12, 14, 18, 21]
    assert dev[-1]["error"] < dev[0]["error"]
    header = checkpoint.read_header(whole_run / "best.safetensors")
    assert header["dev"]["loss"] == min(row["loss"] for row in dev)
    model, _ = checkpoint.load_model(whole_run, build=build)
    task = toy_task()
    task.model = model
    with torch.no_grad():
        errors = [float(task.eval()(batch, StepInfo(1, 0, 0))[1]["error"]) for batch in development()]
    assert sum(errors) / 2 == pytest.approx(header["dev"]["error"], rel=1e-6)


def test_logged_terms_are_means_over_the_interval(whole_run: Path) -> None:
    train = [row for row in rows(whole_run) if row["kind"] == "train"]
    assert [row["step"] for row in train] == list(range(2, 22, 2))
    first = toy_task()
    trainer = make(whole_run.parent / "single", replace(CONFIG, log_interval=1, max_steps=2), first)
    trainer.run()
    single = [row for row in rows(whole_run.parent / "single") if row["kind"] == "train"]
    # equal schedules and losses for the first two steps, because max_steps affects only the steps after the warm-up
    assert train[0]["error"] == pytest.approx(sum(row["error"] for row in single) / 2)
    assert train[0]["lr/weights"] == pytest.approx(CONFIG.optimiser.lr * 2 / 3)
    assert train[0]["lr/multiplier"] == 1e-2 and train[0]["seen"] == 2


@settings(max_examples=12, deadline=None)
@given(
    crashes=st.lists(st.integers(0, 20), min_size=1, max_size=3, unique=True).map(sorted),
    interval=st.sampled_from([0, 1, 4]),
)
def test_interrupted_runs_repeat_the_uninterrupted_one(
    whole_run: Path, tmp_path_factory: pytest.TempPathFactory, crashes: list[int], interval: int
) -> None:
    exp_dir = tmp_path_factory.mktemp("crashed")
    config = replace(CONFIG, state_interval=interval)  # the interval of states must not matter
    for at in crashes:
        with pytest.raises(Crash):
            make(exp_dir, config, train_batches=crashing(at)).run()
    make(exp_dir, config).run()
    assert_equal_experiments(whole_run, exp_dir)


@pytest.mark.parametrize("moment", ["best", "epoch-2", "epoch-2-average", "state", "batch-10", ".done"])
def test_failing_to_write_leaves_a_run_that_resumes(
    whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """After a full disk, or a kill between any two files, the run ends as if nothing had happened."""
    real = os.replace
    failed: list[Any] = []

    def failing(source: Any, target: Any) -> Any:
        place = Path(target)
        if not failed and (place.name.startswith(f"{moment}.") or place.name == moment or place.parent.name == moment):
            failed.append(target)
            raise OSError(28, "No space left on device", str(target))
        return real(source, target)

    monkeypatch.setattr("pruning.files.os.replace", failing)
    with pytest.raises(OSError, match="No space left"):
        make(tmp_path).run()
    assert failed and not list(tmp_path.rglob(".tmp-*"))
    make(tmp_path).run()
    assert_equal_experiments(whole_run, tmp_path)


def test_a_done_run_returns_at_once(whole_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole_run.rglob("*")}
    make(whole_run, train_batches=crashing(0)).run()
    assert {path: path.stat().st_mtime_ns for path in whole_run.rglob("*")} == before


def test_changed_configuration_is_refused_by_key(tmp_path: Path) -> None:
    with pytest.raises(Crash):
        make(tmp_path, train_batches=crashing(9)).run()
    changed = replace(CONFIG, optimiser=OptimiserConfig(lr=0.5))
    with pytest.raises(UserError, match=r"started with optimiser\.lr=0\.001, not optimiser\.lr=0\.5"):
        make(tmp_path, changed)
    with pytest.raises(UserError, match="started with data.max_duration=10, not data.max_duration=None"):
        whole = tmp_path / "config.yaml"
        whole.write_text(whole.read_text() + "data:\n  max_duration: 10\n")
        make(tmp_path)


def test_what_does_not_change_the_weights_may_change(whole_run: Path, tmp_path: Path) -> None:
    with pytest.raises(Crash):
        make(tmp_path, train_batches=crashing(9)).run()
    make(tmp_path, replace(CONFIG, log_interval=3, state_interval=5)).run()
    for key, tensor in weights(whole_run / "epoch-3.safetensors").items():
        assert torch.equal(tensor, weights(tmp_path / "epoch-3.safetensors")[key])


def test_max_steps_ends_within_an_epoch(tmp_path: Path) -> None:
    make(tmp_path, replace(CONFIG, num_epochs=None, max_steps=10), steps_per_epoch=None).run()
    assert checkpoint.read_header(tmp_path / "epoch-2.safetensors")["step"] == 10
    done = json.loads((tmp_path / ".done").read_text())
    assert done.pop("seconds") >= 0 and done == {"epoch": 2, "step": 10}


def test_seconds_of_training_go_on_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock gains 100 s with each look at it; the time before the saved state counts, that after it does not."""
    clock = itertools.count(0, 100)
    monkeypatch.setattr("pruning.training.trainer.time.monotonic", lambda: float(next(clock)))
    config = replace(CONFIG, num_epochs=None, max_steps=10)
    trainer = make(tmp_path, config, steps_per_epoch=None)
    step = trainer._after_step
    trainer._after_step = lambda: (_ for _ in ()).throw(Crash()) if trainer.step == 9 else step()
    with pytest.raises(Crash):
        trainer.run()
    (state,) = (tmp_path / "state").glob("*/*.json")
    before = json.loads(state.read_text())["seconds"]
    make(tmp_path, config, steps_per_epoch=None).run()
    after = json.loads((tmp_path / ".done").read_text())["seconds"]
    assert 0 < before < after < 2 * before + 100 * 50


@pytest.mark.parametrize("settings_", [{"max_steps": 8}, {"max_steps": 7, "valid_interval": 7, "state_interval": 7}])
def test_stopped_after_its_last_step_it_still_ends_the_epoch(tmp_path: Path, settings_: dict[str, Any]) -> None:
    """No step is validated twice if an interval ends with the epoch."""
    config = replace(CONFIG, num_epochs=None, **settings_)
    trainer = make(tmp_path, config)
    last, end = config.max_steps, Trainer._end_epoch
    trainer._end_epoch = lambda: (_ for _ in ()).throw(Crash()) if trainer.step == last else end(trainer)
    with pytest.raises(Crash):
        trainer.run()
    make(tmp_path, config).run()
    assert list(tmp_path.glob("epoch-*.safetensors")) and directory.is_done(tmp_path)
    validated = [row["step"] for row in rows(tmp_path) if row["kind"] == "dev"]
    assert validated == sorted(set(validated)) and validated[-1] == config.max_steps


class Plain(ToyTask):
    """A linear model without dropout and batch norm: the gradients of batches add up exactly."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(FEATURES, 1))


def plain(seed: int = 3) -> Plain:
    torch.manual_seed(seed)
    return Plain()


def test_accumulation_is_the_mean_of_gradients(tmp_path: Path) -> None:
    """Two batches of 8 per step equal one of 16; the odd last batch of the epoch makes a whole step."""
    config = replace(CONFIG, num_epochs=1, schedule=ScheduleConfig())

    def joined(epoch: int, skip: int) -> Iterator[ToyBatch]:
        parts = list(batches(epoch, 0))
        for pair in (parts[0:2], parts[2:4], parts[4:6], parts[6:7])[skip:]:
            yield ToyBatch(torch.cat([part.inputs for part in pair]), torch.cat([part.targets for part in pair]))

    make(tmp_path / "accumulated", replace(config, accumulate=2), plain()).run()
    make(tmp_path / "joined", config, plain(), train_batches=joined).run()
    for key, tensor in weights(tmp_path / "joined/epoch-1.safetensors").items():
        assert torch.allclose(tensor, weights(tmp_path / "accumulated/epoch-1.safetensors")[key], atol=1e-6)
    assert checkpoint.read_header(tmp_path / "accumulated/epoch-1.safetensors")["step"] == 4


class Poisoned(Plain):
    """Task for which the gradient of some batches is not finite."""

    def __init__(self, poisoned: set[int]) -> None:
        super().__init__()
        self.poisoned = poisoned

    def forward(self, batch: ToyBatch, step: StepInfo) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = super().forward(batch, step)
        return (loss * float("nan"), terms) if step.training and step.batch in self.poisoned else (loss, terms)


def test_steps_without_finite_gradient_are_skipped_and_counted(tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = replace(CONFIG, num_epochs=1, schedule=ScheduleConfig(), log_interval=7)
    make(tmp_path / "poisoned", config, Poisoned({2, 3}), dev_batches=None).run()

    def without(epoch: int, skip: int) -> Iterator[ToyBatch]:
        return (batch for index, batch in enumerate(batches(epoch, 0)) if index not in (2, 3))

    make(tmp_path / "without", config, plain(), train_batches=without, dev_batches=None).run()
    for key, tensor in weights(tmp_path / "without/epoch-1.safetensors").items():
        assert torch.equal(tensor, weights(tmp_path / "poisoned/epoch-1.safetensors")[key])
    (row,) = rows(tmp_path / "poisoned")
    assert row["skipped"] == 2 and row["error"] == row["error"]


class Deaf(ToyTask):
    """Task for which dev batches have no finite loss; inputs of some training batches are not finite."""

    def __init__(self, counted: bool, poisoned: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.counted, self.poisoned = counted, poisoned

    def forward(self, batch: ToyBatch, step: StepInfo) -> tuple[Tensor, dict[str, Tensor]]:
        if step.training and step.batch in self.poisoned:
            batch = replace(batch, inputs=torch.full_like(batch.inputs, float("nan")))
        loss, terms = super().forward(batch, step)
        return loss, terms if self.counted else {**terms, "weight": torch.zeros(())}


def test_a_skipped_step_leaves_no_running_statistics_behind(tmp_path: Path) -> None:
    """Batch norm updates its statistics before the gradient is known."""
    seed_everything(3)
    trainer = make(tmp_path, replace(CONFIG, num_epochs=1, valid_interval=2), Deaf(True, frozenset({1, 4})))
    trainer.run()
    assert trainer.skipped == 2
    buffers = dict(trainer.task.model.named_buffers())
    assert buffers and all(value.isfinite().all() for value in buffers.values())
    assert buffers["1.num_batches_tracked"] == 5
    assert checkpoint.read_header(checkpoint.best_path(tmp_path))["dev"]["error"] > 0


def test_a_validation_that_counts_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no utterance of the dev set has a finite loss at step 6; check the"):
        make(tmp_path, CONFIG, Deaf(False)).run()
    assert not (tmp_path / ".done").exists() and not checkpoint.best_path(tmp_path).exists()


def test_too_many_skipped_steps_stop_with_one_line(tmp_path: Path) -> None:
    config = replace(CONFIG, max_skipped_steps=3)
    with pytest.raises(UserError, match="not finite for 3 steps in a row, the last in epoch 1, batch 4"):
        make(tmp_path, config, Poisoned(set(range(2, 7)))).run()
    assert not directory.is_done(tmp_path)


class Late(ToyTask):
    """Task that may be selected, and averaged, only from step 14 on."""

    def may_select(self, step: StepInfo) -> bool:
        return step.step >= 14

    def averaging_key(self, step: StepInfo) -> Optional[str]:
        return "reached" if step.step >= 7 else None

    def extra_metadata(self) -> dict[str, Any]:
        return {"structure": {"kept": 3}}


def test_only_selectable_moments_become_the_best(tmp_path: Path) -> None:
    make(tmp_path, task=Late()).run()
    header = checkpoint.read_header(tmp_path / "best.safetensors")
    assert header["step"] >= 14 and header["structure"] == {"kept": 3}
    checkpoint.load_model(tmp_path, epoch=3, avg=2, build=build)
    with pytest.raises(UserError, match="was pruned during them"):
        checkpoint.load_model(tmp_path, epoch=3, avg=3, build=build)


def test_never_selectable_leaves_no_best_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = Late()
    task.may_select = lambda step: False  # type: ignore[method-assign]
    make(tmp_path, task=task).run()
    assert not (tmp_path / "best.safetensors").exists() and "no best checkpoint" in caplog.text
    with pytest.raises(UserError, match="choose one of the epochs 1, 2, 3"):
        checkpoint.load_model(tmp_path, build=build)


def test_frozen_modules_are_not_in_the_state(tmp_path: Path) -> None:
    task = toy_task()
    task.teacher = nn.Linear(FEATURES, 1).requires_grad_(False)
    task.frozen_modules = ("teacher",)
    before = task.teacher.weight.clone()
    with pytest.raises(Crash):
        make(tmp_path, task=task, train_batches=crashing(10)).run()
    state = directory.resumable_state(tmp_path)
    assert state is not None
    assert not [name for name in weights(state / "tensors.safetensors") if "teacher" in name]
    again = toy_task()
    again.teacher = nn.Linear(FEATURES, 1).requires_grad_(False)
    again.frozen_modules = ("teacher",)
    again.teacher.weight.data.copy_(before)
    make(tmp_path, task=again).run()
    assert torch.equal(again.teacher.weight, before)


def test_bf16_autocast_reaches_the_task(tmp_path: Path) -> None:
    seen: set[torch.dtype] = set()

    class Watching(ToyTask):
        def forward(self, batch: ToyBatch, step: StepInfo) -> tuple[Tensor, dict[str, Tensor]]:
            seen.add(self.model[0](batch.inputs).dtype)
            return super().forward(batch, step)

    make(tmp_path, replace(CONFIG, amp="bf16", num_epochs=1), Watching()).run()
    assert seen == {torch.bfloat16}
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights(tmp_path / "epoch-1.safetensors").values())


def test_logs_are_plain_lines_with_the_time_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO):
        make(tmp_path).run()
    lines = [record.getMessage() for record in caplog.records]
    train = [line for line in lines if line.startswith("train epoch")]
    assert len(train) == 10 and "step 4/21, 0:00:0" in train[1] and " left: " in train[1]
    assert "audio_seconds_per_second" in train[0] and "lr/weights" in train[0]
    written = "".join(capsys.readouterr())
    assert "\r" not in written and "it/s" not in written


def test_tensorboard_gets_the_same_values(tmp_path: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    make(tmp_path, replace(CONFIG, tensorboard=True)).run()
    events = reading.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for kind in ("train", "dev"):
        ours = {row["step"]: row["loss"] for row in rows(tmp_path) if row["kind"] == kind}
        theirs = {event.step: event.value for event in events.Scalars(f"{kind}/loss")}
        assert theirs == pytest.approx(ours)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"num_epochs": None}, "neither num_epochs nor max_steps is set"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"average_period": -1}, "average_period must be at least 0, got -1"),
        ({"amp": "fp16"}, "amp=fp16 needs a GPU"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(tmp_path: Path, settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(tmp_path / "exp", replace(CONFIG, **settings_))
    assert not (tmp_path / "exp").exists()


def test_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="epoch 1 has no training batches"):
        make(tmp_path / "a", train_batches=lambda epoch, skip: iter(())).run()
    with pytest.raises(UserError, match="dev set has no batches"):
        make(tmp_path / "b", dev_batches=lambda: iter(())).run()
    with pytest.raises(UserError, match="needs the number of training steps"):
        make(tmp_path / "c", steps_per_epoch=None)


def test_average_of_the_epochs_is_the_mean_of_the_weights_seen(tmp_path: Path) -> None:
    seen: list[tuple[int, Tensor]] = []

    class Recording(ToyTask):
        def after_step(self, step: StepInfo) -> None:
            super().after_step(step)
            seen.append((step.step + 1, self.model[0].weight.detach().clone()))

    make(tmp_path, task=Recording()).run()
    model, header = checkpoint.load_model(tmp_path, epoch=3, avg=2, build=build)
    wanted = torch.stack([tensor for step, tensor in seen if step > 7 and step % 2 == 0]).mean(0)
    assert torch.allclose(model[0].weight, wanted, atol=1e-6) and header["averaged_epochs"] == [2, 3]
    plain_mean, _ = checkpoint.load_model(tmp_path, epoch=3, avg=2, use_average=False, build=build)
    wanted = torch.stack([tensor for step, tensor in seen if step in (14, 21)]).mean(0)
    assert torch.allclose(plain_mean[0].weight, wanted, atol=1e-7)


def test_batches_get_to_the_task_unchanged_by_position(tmp_path: Path) -> None:
    """Epoch, batch and step of each forward pass are as documented."""
    seen: list[StepInfo] = []

    class Watching(ToyTask):
        def forward(self, batch: ToyBatch, step: StepInfo) -> tuple[Tensor, dict[str, Tensor]]:
            if step.training:
                assert torch.equal(batch.inputs, batch_of(1000 * step.epoch + step.batch).inputs)
                seen.append(step)
            return super().forward(batch, step)

    make(tmp_path, replace(CONFIG, num_epochs=2, accumulate=2, schedule=ScheduleConfig()), Watching()).run()
    assert [(info.epoch, info.batch) for info in seen] == [(e, b) for e in (1, 2) for b in range(7)]
    assert [info.step for info in seen] == [0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 5, 6, 6, 7]
    assert {info.total_steps for info in seen} == {8}
