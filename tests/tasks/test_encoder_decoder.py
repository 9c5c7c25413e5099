"""The task of encoder-decoders: teacher forcing against a computation token by token, distillation, and settings."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from pruning.core.constraint import ConstraintConfig
from pruning.core.distillation import DistillationConfig, standardised
from pruning.core.structure import KeptUnits, Structure
from pruning.core.units import WIDTH
from pruning.errors import UserError
from pruning.methods.l0 import Gating, L0Config
from pruning.models.encoder_decoder import EncoderDecoder
from pruning.speech.data.batches import Batch
from pruning.speech.text.transcript_form import TranscriptForm
from pruning.tasks.encoder_decoder import EncoderDecoderTask, TokenLossConfig, forced
from pruning.training.task import StepInfo
from tests.models.encoder_decoders import BOTH, MOONSHINE, network, shape_name, utterances

TEXTS = [[5, 6, 7], [8], [9, 10]]
EVERYTHING = DistillationConfig(layers=(0, 2, 3, 4, 6), layer_weight=0.5, output_weight=2.0, temperature=2.0)


def form_of(model: EncoderDecoder) -> TranscriptForm:
    decoder = model.config.decoder
    return TranscriptForm(decoder.vocab_size, (decoder.start, 3), decoder.end)


def batch(model: EncoderDecoder) -> Batch:
    inputs, lengths = utterances(model)
    return Batch(inputs, lengths, TEXTS, ["a", "b", "c"], ["A", "B", "C"], 1.0)


def step(training: bool = True) -> StepInfo:
    return StepInfo(1, 50, 50, 100, training)


def disturbed(model: EncoderDecoder, by: float = 0.05) -> EncoderDecoder:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return other


def task_of(model: EncoderDecoder, **options: Any) -> EncoderDecoderTask:
    return EncoderDecoderTask(model, form_of(model), options.pop("loss", TokenLossConfig()), **options)


def test_transcripts_for_teacher_forcing() -> None:
    said = forced(TEXTS, TranscriptForm(20, (1, 3), 2), torch.device("cpu"))
    assert said.tokens.tolist() == [[1, 3, 5, 6, 7], [1, 3, 8, 2, 2], [1, 3, 9, 10, 2]]
    assert said.lengths.tolist() == [5, 3, 4]
    wanted = [row[kept].tolist() for row, kept in zip(said.targets, said.counted)]
    assert wanted == [[5, 6, 7, 2], [8, 2], [9, 10, 2]], "the text and the end, neither the start nor padding"


def scored(model: EncoderDecoder, data: Batch) -> list[Tensor]:
    """Log-probabilities after each prefix of each transcript, utterance by utterance and step by step."""
    form, found = form_of(model), []
    for place, text in enumerate(data.tokens):
        length = data.lengths[place : place + 1]
        encoded = model.encoder(data.features[place : place + 1, : int(length)], length)
        state = model.decoder.start(model.decoder.memory(encoded))
        for index, token in enumerate([*form.start, *text]):
            scores, state = model.decoder.step(torch.tensor([token]), state)
            if index >= len(form.start) - 1:
                found.append(scores[0])
    return found


@pytest.mark.parametrize("shape", BOTH, ids=shape_name)
@torch.no_grad()
def test_the_loss_is_that_of_every_token(shape: dict[str, Any]) -> None:
    model = network(shape)
    data, end = batch(model), model.config.decoder.end
    wanted = torch.tensor([token for text in TEXTS for token in (*text, end)])
    scores = torch.stack(scored(model, data))
    expected = -scores.gather(1, wanted[:, None]).mean()
    _, terms = task_of(model).eval()(data, step(training=False))
    assert terms["task"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert terms["weight"] == len(wanted) and 0 <= terms["accuracy"] <= 1
    smoothed = 0.8 * expected - 0.2 * scores.mean()
    loss, _ = task_of(model, loss=TokenLossConfig(label_smoothing=0.2))(data, step())
    assert loss.item() == pytest.approx(smoothed.item(), rel=1e-4), "label smoothing, in training only"


@pytest.mark.parametrize("shape", BOTH, ids=shape_name)
def test_distillation_of_layers_and_of_the_next_token(shape: dict[str, Any]) -> None:
    model = network(shape)
    teacher, data = disturbed(model), batch(model)
    task = task_of(model, teacher=teacher, distillation=EVERYTHING).eval()
    loss, terms = task(data, step(training=False))
    theirs, ours = (torch.stack(scored(one, data)) for one in (teacher, model))
    theirs, ours = ((one / 2).log_softmax(dim=1) for one in (theirs, ours))
    divergence = 4 * (theirs.exp() * (theirs - ours)).sum(dim=1).mean()
    assert terms["distil_output"].item() == pytest.approx(divergence.item(), rel=1e-3)
    said = forced(TEXTS, form_of(model), torch.device("cpu"))
    hidden, goal = (one.hidden(data.features, data.lengths, said.tokens) for one in (model, teacher))
    pairs = [(hidden.encoded.layers[i], goal.encoded.layers[i], hidden.encoded.lengths) for i in (0, 2, 3)]
    pairs += [(hidden.states[i], goal.states[i], said.lengths) for i in (1, 3)]
    distances = []
    for mine, other, lengths in pairs:
        mask = torch.arange(mine.shape[1]) < lengths[:, None]
        a, b = (one[mask] for one in standardised(mine, other, mask))
        distances.append((a - b).abs().mean() - torch.nn.functional.cosine_similarity(a, b, dim=1).mean())
    assert terms["distil_layers"].item() == pytest.approx(torch.stack(distances).mean().item(), rel=1e-3)
    expected = terms["task"] + 0.5 * terms["distil_layers"] + 2 * terms["distil_output"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    same = task_of(model, teacher=copy.deepcopy(model), distillation=EVERYTHING).eval()
    _, terms = same(data, step(training=False))
    assert terms["distil_layers"].item() == pytest.approx(-1, abs=1e-4)
    assert terms["distil_output"].item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("layers", [(1,), (5,), ()])
def test_only_what_is_asked_for_is_compared(layers: tuple[int, ...]) -> None:
    model = network(MOONSHINE)
    config = DistillationConfig(layers=layers, output_weight=1.0)
    task = task_of(model, teacher=disturbed(model), distillation=config)
    groups = [group.name for group in task.parameter_groups()]
    assert ("distillation_weights" in groups) == bool(layers)
    _, terms = task(batch(model), step())
    assert ("distil_layers" in terms) == bool(layers) and "distil_output" in terms


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_layers_that_the_student_lacks_are_refused(part: str) -> None:
    model, teacher = network(MOONSHINE), network(MOONSHINE)
    model.config = copy.deepcopy(model.config)
    object.__setattr__(getattr(model.config, part), "num_layers", 1)  # the other fields have a value for each layer
    with pytest.raises(UserError, match=f"layer 2 of the student's {part} with the teacher's, but it has only 1"):
        task_of(model, teacher=teacher, distillation=DistillationConfig(layers=(2, 5)))


def test_every_weight_is_trained_once_and_gates_are_penalised() -> None:
    model = network(MOONSHINE)
    gating = Gating(model, L0Config(), ConstraintConfig(parts={"macs:encoder": 0.5}, size=0.0), 1000)
    task = task_of(model, teacher=disturbed(model), distillation=EVERYTHING, pruner=gating).train()
    parameters = [id(one) for group in task.parameter_groups() for one in group.parameters]
    needed = [id(one) for one in task.parameters() if one.requires_grad]
    assert sorted(parameters) == sorted(needed)
    loss, terms = task(batch(model), step())
    loss.backward()
    assert "penalty" in terms and all(one.grad is not None for one in task.parameters() if one.requires_grad)


def test_frozen_parameters_are_not_trained() -> None:
    model = network(MOONSHINE)
    task = task_of(model, loss=TokenLossConfig(freeze=("encoder.",)))
    names = {id(one): name for name, one in model.named_parameters()}
    trained = {names[id(one)] for group in task.parameter_groups() for one in group.parameters}
    assert trained == {name for name in names.values() if not name.startswith("encoder.")}
    with pytest.raises(UserError, match="loss.freeze has 'head', but no parameter name starts with it; choose from"):
        task_of(model, loss=TokenLossConfig(freeze=("head",)))


def test_projections_select_the_channels_of_their_part() -> None:
    """Both parts lose as many channels, but not the same."""
    teacher = network(MOONSHINE)
    kept = {"encoder.": tuple(range(0, 24, 2)), "decoder.": tuple(range(12))}
    groups = {group.name: group for group in teacher.unit_groups(width=True)}
    units = {name: kept[name[:8]] if group.kind == WIDTH else range(group.size) for name, group in groups.items()}
    structure = Structure({name: KeptUnits(group.kind, group.size, tuple(units[name]))
                           for name, group in groups.items()})  # fmt: skip
    task = task_of(teacher.shrink(structure), teacher=teacher, distillation=EVERYTHING)
    task.inherit(structure)
    for part, distillation in (("encoder.", task.layer_distillation), ("decoder.", task.decoder_distillation)):
        assert distillation is not None
        for projection in distillation.projections:
            chosen = projection.get_parameter("weight").nonzero()
            assert chosen.tolist() == [[channel, place] for place, channel in enumerate(kept[part])]
