"""Budgets of a sweep: the steps of every command, from scratch in several ways, chains of cuts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pruning.errors import UserError
from pruning.files import write_json
from pruning.sweeps import comparison, sweep
from pruning.sweeps.definition import SweepConfig
from pruning.sweeps.lines import BudgetConfig, MethodConfig

EGS = Path(__file__).resolve().parents[2] / "egs/librispeech"


def config_of(tmp_path: Path, lines: Mapping[str, Mapping[str, Any]]) -> SweepConfig:
    return SweepConfig(
        teacher=str(tmp_path / "teacher"), lang_dir="lang", prune=str(EGS / "conf/mini/prune.yaml"),
        finetune=str(EGS / "conf/mini/finetune.yaml"), scratch=str(EGS / "conf/mini/uniform.yaml"),
        targets={"half": ["constraint.size=0.5"], "quarter": ["constraint.size=0.75"]}, reference=next(iter(lines)),
        methods={name: MethodConfig(**line) for name, line in lines.items()}, train_cuts=("train",), dev_cuts=("dev",),
        test_cuts=("test",), budget=BudgetConfig(steps=2000, prune_share=0.25),
    )  # fmt: skip


def commands(config: SweepConfig, line: str, target: str = "quarter") -> list[list[str]]:
    """Return program and arguments of the training commands of a line."""
    (run,) = (run for run in sweep.expand(config) if (run.method, run.target) == (line, target))
    return [words[2:] for words in sweep._training(config, run, "exp")]


def steps(words: list[str]) -> int:
    """Return the steps of a command: its last setting counts."""
    return int([word for word in words if word.startswith("trainer.max_steps=")][-1].split("=")[1])


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_further_steps_are_those_of_pruning_and_fine_tuning_together(tmp_path: Path) -> None:
    lines = {"once": {"method": "taylor"}, "thrice": {"method": "taylor", "times": 3, "prune_share": 0.5}}
    config = config_of(tmp_path, lines)
    prune, extract, finetune = commands(config, "once")
    assert (steps(prune), steps(finetune)) == (500, 1500)
    assert not any("max_steps" in word for word in extract)
    prune, _, finetune = commands(config, "thrice")
    assert (steps(prune), steps(finetune)) == (3000, 3000)


def test_a_line_that_is_not_fine_tuned_prunes_for_all_steps(tmp_path: Path) -> None:
    lines = {"cut": {"method": "taylor", "finetune": False},
             "part": {"method": "taylor", "finetune": False, "prune_share": 0.25},
             "repaired": {"structure_from": "cut", "repair": 30, "finetune": False},
             "tuned": {"structure_from": "part"}, "late": {"structure_from": "cut"}}  # fmt: skip
    config = config_of(tmp_path, lines)
    assert [words[0] for words in commands(config, "cut")] == ["pruning.bin.prune", "pruning.bin.extract"]
    assert steps(commands(config, "cut")[0]) == 2000 and steps(commands(config, "part")[0]) == 500
    assert [words[0] for words in commands(config, "repaired")] == ["pruning.bin.extract"]
    assert steps(commands(config, "tuned")[-1]) == 1500
    taken = {name: sweep.steps_of(config, line) for name, line in config.methods.items()}
    assert taken["cut"] == sweep.Steps(2000, 0) and taken["repaired"] == sweep.Steps(None, 0)
    assert taken["part"] == sweep.Steps(500, 0), "what fine-tuning does not take is not counted"
    with pytest.raises(UserError, match="the pruning of cut takes all the steps of late"):
        sweep._check_budgets(config, "sweep.yaml")


def test_from_scratch_gets_the_further_steps_or_the_teachers_as_well(tmp_path: Path) -> None:
    lines = {
        "scratch": {"uniform": "width"},
        "shallow-total": {"uniform": "depth", "budget": "total"},
        "inherited": {"uniform": "width", "inherit": True, "distil": True,
                      "finetune_settings": ["distillation.layers=[2,4,6]"]},
    }  # fmt: skip
    config = config_of(tmp_path, lines)
    uniform, train = commands(config, "scratch")
    assert option(uniform, "--narrow") == "width" and option(uniform, "--share") == "0.25"
    assert steps(train) == 2000 and "--inherit" not in train and "--teacher" not in train
    with pytest.raises(
        UserError, match=r"teacher is not a finished training, so its steps are not known; set budget.teacher_steps"
    ):
        commands(config, "shallow-total")
    write_json(tmp_path / "teacher/.done", {"epoch": 3, "step": 9000})
    uniform, train = commands(config, "shallow-total")
    assert option(uniform, "--narrow") == "depth" and steps(train) == 11000
    known = replace(config, budget=BudgetConfig(steps=2000, teacher_steps=7000))
    assert steps(commands(known, "shallow-total")[1]) == 9000
    (_, train) = commands(config, "inherited")
    assert option(train, "--inherit") == option(train, "--teacher") == config.teacher


def test_a_chain_cuts_extracts_and_fine_tunes_twice(tmp_path: Path) -> None:
    config = config_of(
        tmp_path, {"chain": {"method": "taylor", "chain": ("constraint.size=0.5",), "targets": ("quarter",)}}
    )
    found = commands(config, "chain")
    assert [words[0].split(".")[-1] for words in found] == ["prune", "extract", "finetune"] * 2
    assert [steps(words) for words in found if words[0] != "pruning.bin.extract"] == [250, 750, 250, 750]
    first, second = found[0], found[3]
    sizes = [[word for word in words if word.startswith("constraint.size")][-1] for words in (first, second)]
    assert sizes == ["constraint.size=0.5", "constraint.size=0.75"] and "--init" not in first
    assert option(second, "--init") == option(found[2], "--exp-dir")
    assert option(found[5], "--exp-dir") == "exp/quarter/chain/seed1/finetuned"
    assert len({option(words, "--exp-dir") for words in found}) == 6
    (run,) = sweep.expand(config)
    assert [path.parent.name for path in sweep.trainings(run, "exp")] == ["cut1", "cut1", "seed1", "seed1"]


def test_each_cut_of_a_chain_is_repaired_towards_the_network_that_it_began_from(tmp_path: Path) -> None:
    chain = {"method": "taylor", "chain": ("constraint.size=0.25", "constraint.size=0.5"), "repair": 30}
    config = config_of(tmp_path, {"chain": chain})
    _, first, tuned, *_ = found = commands(config, "chain")
    extractions = [words for words in found if words[0] == "pruning.bin.extract"]
    began = [config.teacher, option(tuned, "--exp-dir"), option(found[5], "--exp-dir")]
    assert first is extractions[0] and [option(words, "--teacher") for words in extractions] == began
    assert [option(words, "--init") for words in found if words[0] == "pruning.bin.prune" and "--init" in words] == (
        began[1:]
    )
    others = [option(words, "--teacher") for words in found if words not in extractions]
    assert set(others) == {config.teacher}, "pruning and fine-tuning have the dense teacher at every cut"


def test_fresh_weights_in_a_found_structure_train_for_all_steps(tmp_path: Path) -> None:
    lines = {"taylor": {"method": "taylor"}, "fresh": {"structure_from": "taylor", "reinitialise": True},
             "again": {"structure_from": "taylor"}}  # fmt: skip
    config = config_of(tmp_path, lines)
    assert steps(commands(config, "fresh")[-1]) == 2000
    assert steps(commands(config, "again")[-1]) == 1500


def test_taken_weights_leave_what_their_pruning_did_not_take(tmp_path: Path) -> None:
    lines = {"long": {"method": "taylor", "prune_share": 0.6}, "again": {"structure_from": "long"}}
    config = config_of(tmp_path, lines)
    assert steps(commands(config, "long")[0]) == 1200 and steps(commands(config, "again")[-1]) == 800
    longer = config_of(tmp_path, {"long": {"method": "taylor", "times": 4}, "again": {"structure_from": "long"}})
    with pytest.raises(UserError, match=r"the pruning of long takes all the steps of again; give it a larger times"):
        sweep._check_budgets(longer, "sweep.yaml")


def test_the_legend_tells_fresh_and_dense_lines_from_pruned_ones(tmp_path: Path) -> None:
    lines = {"taylor": {"method": "taylor"}, "scratch": {"uniform": "width"}, "longer": {"dense": True},
             "fresh": {"structure_from": "taylor", "reinitialise": True}}  # fmt: skip
    legend = comparison.legend_of(config_of(tmp_path, lines), {"teacher": "x"})
    assert legend["fresh"] == ["scratch", "fresh"] and legend["dense"] == ["longer"]


def test_points_of_a_curve_have_different_steps(tmp_path: Path) -> None:
    lines = {"thrice": {"uniform": "width", "times": 3, "curve": "scratch"},
             "total": {"uniform": "width", "budget": "total", "curve": "scratch"}}  # fmt: skip
    config = config_of(tmp_path, lines)
    config = replace(config, budget=BudgetConfig(steps=2000, teacher_steps=4000))
    with pytest.raises(UserError, match=r"thrice and total are points of one curve and have 6000 steps each"):
        sweep._check_budgets(config, "sweep.yaml")
    sweep._check_budgets(replace(config, budget=BudgetConfig(steps=2000, teacher_steps=5000)), "sweep.yaml")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"method": "taylor", "budget": "total"}, "budget: total is for weights from scratch"),
        ({"uniform": "width", "prune_share": 0.5}, "prune_share has no effect on this line"),
        ({"method": "taylor", "inherit": True}, "inherit has no effect on this line"),
        ({"uniform": "width", "chain": ("half",)}, "chain has no effect on this line"),
        ({"method": "taylor", "chain": ("half",), "finetune": False}, "chain has no effect on this line"),
        ({"method": "taylor", "times": 0}, "times must be greater than 0|times must be above 0"),
    ],
)
def test_lines_that_cannot_be_are_refused(line: Mapping[str, Any], message: str) -> None:
    with pytest.raises((ValueError, UserError), match=message):
        MethodConfig(**line)
