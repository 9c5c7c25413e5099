"""Runs that end without a best checkpoint: an error for some tasks, which is repeated at each start."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest

from pruning.core.constraint import ConstraintConfig
from pruning.core.gates import GateConfig
from pruning.errors import UserError
from pruning.experiments import directory
from pruning.methods.l0 import Gating, L0Config
from pruning.speech.losses.combined import LossConfig
from pruning.tasks.transducer import TransducerTask
from pruning.training.task import StepInfo
from tests.methods.test_l0 import network
from tests.training.toy import ToyTask, crashing, make

MODULES = ("attention_module", "ffn_module", "conv_module")


class Never(ToyTask):
    """Task that needs a best checkpoint but never allows one."""

    def may_select(self, step: StepInfo) -> bool:
        return False

    def unselected(self, step: StepInfo) -> Optional[UserError]:
        return UserError(f"nothing was reached by step {step.step}", "train longer")


def test_a_run_without_what_its_task_needs_is_not_done_and_says_so_each_time(tmp_path: Path) -> None:
    for again in (False, True):
        trainer = make(tmp_path, task=Never(), **({"train_batches": crashing(0)} if again else {}))
        with pytest.raises(UserError, match=f"{tmp_path} has no best.*: nothing was reached by step 21; train longer"):
            trainer.run()
        assert not directory.is_done(tmp_path)


def test_without_development_set_nothing_is_selected(tmp_path: Path) -> None:
    make(tmp_path, task=Never(), dev_batches=None).run()
    assert directory.is_done(tmp_path)


def test_only_gates_need_a_best_checkpoint() -> None:
    model, end = network(), StepInfo(1, 0, 100, 100, training=False)
    assert TransducerTask(model, LossConfig()).unselected(end) is None
    gating = Gating(model, L0Config(), ConstraintConfig(), 1000)
    error = TransducerTask(model, LossConfig(), pruner=gating).unselected(end)
    assert error is not None and "development set is not finite" in error.what
    before = gating.unselected(StepInfo(1, 0, 20, 100))
    assert "ended at step 20, before the ramp" in before.what


def test_a_target_that_was_missed_is_told_with_what_was_reached() -> None:
    constraint = ConstraintConfig(size=0.03)  # smaller than any module
    gating = Gating(network(), L0Config(GateConfig(kinds=MODULES)), constraint, 1000)
    end = StepInfo(1, 0, 100, 100)
    assert not gating.on_target(end)
    reached = gating.costs.structure_sparsity(gating.structure())["size"]
    error = gating.unselected(end)
    assert error.what == f"the hard sparsity ended at {reached:.3f} in size for 0.03"
    assert "l0.gates.kinds" in error.remedy
