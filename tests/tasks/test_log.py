"""What tasks log: every key is explained in docs/training-log.md, and the formula of the loss is the one computed."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning import configuration
from pruning.core.constraint import ConstraintConfig
from pruning.core.distillation import DistillationConfig
from pruning.kinds import encoder_decoder, encoder_head, language_model, transducer
from pruning.kinds.kind import Kind
from pruning.methods.base import Pruner
from pruning.methods.criterion import CriterionConfig, CriterionPruning
from pruning.methods.l0 import SHIFT, Gating, L0Config
from pruning.reports.pictures import read_metrics
from pruning.speech.data.batches import Batch
from pruning.speech.losses.combined import LossConfig
from pruning.speech.text.sentences import SentenceBatch
from pruning.tasks.encoder_head import SpeechLossConfig, SpeechTask
from pruning.tasks.language_model import LmDistillationConfig, LmTask
from pruning.tasks.pruned import PrunedTask
from pruning.tasks.transducer import Guidance, TransducerTask
from pruning.training.trainer import Trainer
from pruning.training.trainer_config import TrainerConfig
from tests.methods.test_l0 import network as small_transducer
from tests.models.encoder_decoders import MOONSHINE
from tests.models.encoder_decoders import network as small_encoder_decoder
from tests.models.test_speech_model import inputs
from tests.models.test_speech_model import network as small_encoder
from tests.models.test_transformer_lm import network as small_lm
from tests.models.test_transformer_lm import sentences
from tests.tasks import test_encoder_decoder, test_transducer

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "training-log.md"
POSITION = {"kind", "epoch", "batch", "step"}
DISTILLATION = DistillationConfig(layers=(0, 1), layer_weight=0.3, output_weight=0.7)
TRAINER = TrainerConfig(max_steps=1, log_interval=1, valid_interval=1, tensorboard=False, num_threads=1, device="cpu",
                        average_period=0)  # fmt: skip
Pruning = Callable[[Any], Pruner]


@dataclass(frozen=True)
class Case:
    """A task with a teacher and everything that it can log, its data, and the configuration that it came from."""

    kind: type[Kind[Any]]
    config: Any
    task: PrunedTask
    batch: Any


def disturbed(model: Any) -> Any:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return other


def of_transducer(pruning: Pruning) -> Case:
    loss = LossConfig(backend="torch", ctc_weight=0.3, simple_loss_scale=0.25)
    config = transducer.RunConfig(loss=loss, distillation=replace(DISTILLATION, ctc_weight=0.2))
    model = small_transducer()
    task = TransducerTask(model, loss, None, Guidance(disturbed(model), config.distillation), pruning(model))
    return Case(transducer.TransducerKind, config, task, test_transducer.batch())


def of_head(pruning: Pruning, head: str = "ctc") -> Case:
    loss = SpeechLossConfig(spectrum_weight=0.4)
    config = encoder_head.RunConfig(head, loss=loss, distillation=DISTILLATION)
    model = small_encoder("speech_encoder", task=head)
    features, lengths = inputs(model)
    tokens = [[1, 2], [3], [2, 4]]
    batch = Batch(features, lengths, tokens, ["a", "b", "c"], ["A", "B", "C"], 1.0)
    task = SpeechTask(model, loss, None, disturbed(model), DISTILLATION, pruning(model))
    return Case(encoder_head.EncoderHeadKind, config, task, batch)


def of_encoder_decoder(pruning: Pruning) -> Case:
    config = encoder_decoder.RunConfig(distillation=DISTILLATION)
    model = small_encoder_decoder(MOONSHINE)
    task = test_encoder_decoder.task_of(model, teacher=disturbed(model), distillation=DISTILLATION,
                                        pruner=pruning(model))  # fmt: skip
    return Case(encoder_decoder.EncoderDecoderKind, config, task, test_encoder_decoder.batch(model))


def of_lm(pruning: Pruning) -> Case:
    distillation = LmDistillationConfig(weight=0.6)
    config = language_model.RunConfig(distillation=distillation)
    model, tokens = small_lm(), sentences()
    task = LmTask(model, distillation, disturbed(model), pruning(model))
    batch = SentenceBatch(tokens, tokens.roll(-1, dims=1), torch.arange(len(tokens)))
    return Case(language_model.LanguageModelKind, config, task, batch)


def l0(model: Any) -> Pruner:
    return Gating(model, L0Config(), ConstraintConfig(size=0.3), 1600)


def matched(model: Any) -> Pruner:
    return Gating(model, L0Config(), ConstraintConfig(size=0.3, match={"macs": 0.3}), 1600)


def shifted(model: Any) -> Pruner:
    return Gating(model, L0Config(control=SHIFT), ConstraintConfig(size=0.3), 1600)


def taylor(model: Any) -> Pruner:
    return CriterionPruning(model, "taylor", CriterionConfig(), ConstraintConfig(size=0.3), 1600)


CASES: dict[str, Callable[[], Case]] = {
    "transducer": lambda: of_transducer(l0), "transducer, matched": lambda: of_transducer(matched),
    "transducer, shifted": lambda: of_transducer(shifted), "ctc": lambda: of_head(l0),
    "intents": lambda: of_head(taylor, "intent"), "encoder-decoder": lambda: of_encoder_decoder(l0),
    "language model": lambda: of_lm(taylor),
}  # fmt: skip


Logged = tuple[Case, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Logged]:
    """Train each task for a step; return it with the lines of its log."""
    found = {}
    for name, make in CASES.items():
        case, place = make(), tmp_path_factory.mktemp("run")
        batches = [case.batch]
        Trainer(TRAINER, task=case.task, train_batches=lambda epoch, skip, batches=batches: batches,
                dev_batches=lambda batches=batches: batches, exp_dir=place,
                header={"model": {"type": case.kind.name}}).run()  # type: ignore[misc]  # fmt: skip
        found[name] = case, read_metrics(place)
    return found


def documented() -> list[str]:
    """The keys of the table."""
    rows = re.findall(r"^\| (`.+?`) \|", DOCUMENT.read_text(), re.MULTILINE)
    return [key for row in rows for key in re.findall(r"`([^`]+)`", row)]


def pattern(key: str) -> re.Pattern[str]:
    """What a key of the table stands for: capitals are names."""
    return re.compile(re.sub(r"[A-Z]{2,}", "[^/]+", key))


def test_every_key_of_the_log_is_explained(runs: dict[str, Logged]) -> None:
    explained = [pattern(key) for key in documented()]
    keys = {key for _, rows in runs.values() for row in rows for key in row} - POSITION
    assert {key for key in keys if not any(one.fullmatch(key) for one in explained)} == set()


def test_every_explained_key_is_logged(runs: dict[str, Logged]) -> None:
    only_on_a_gpu = {"loss_scale"}
    keys = only_on_a_gpu | {key for _, rows in runs.values() for row in rows for key in row}
    assert [key for key in documented() if not any(pattern(key).fullmatch(each) for each in keys)] == []


@pytest.mark.parametrize("name", CASES)
def test_the_formula_is_that_of_the_loss(name: str, runs: dict[str, Logged]) -> None:
    """On dev, from the values that are logged."""
    case, rows = runs[name]
    (dev,) = (row for row in rows if row["kind"] == "dev")
    formula = case.kind.loss_formula(case.config)
    assert formula is not None
    added = sum(weight * dev[term] for term, weight in formula.added.items())
    assert dev["loss"] == pytest.approx(dev["task"] + added, rel=1e-4)
    if formula.task:
        assert dev["task"] == pytest.approx(sum(weight * dev[term] for term, weight in formula.task.items()), rel=1e-4)


def test_the_configuration_of_a_run_is_read_again(tmp_path: Path) -> None:
    for config in (transducer.RunConfig(), transducer.PruneConfig(trainer=replace(TRAINER, max_steps=10))):
        configuration.save(config, tmp_path / "config.yaml")
        assert transducer.TransducerKind.config_of(tmp_path / "config.yaml") == config
