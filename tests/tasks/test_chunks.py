"""Test the contexts of causal encoders: drawn for each batch of training, stated in validation."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch

from pruning.core.distillation import DistillationConfig
from pruning.errors import UserError
from pruning.limits import OutOfRange
from pruning.models.chunk import WHOLE, Chunk
from pruning.models.speech_model import SpeechModel, SpeechModelConfig
from pruning.models.transducer import Transducer, TransducerConfig
from pruning.tasks.chunks import ChunkConfig, chunks_for
from pruning.tasks.encoder_head import SpeechLossConfig, SpeechTask
from pruning.tasks.transducer import Guidance, TransducerTask
from pruning.training.seeding import seed_everything
from pruning.training.task import StepInfo
from tests.models.zipformers import small
from tests.tasks.test_transducer import LOSS, batch

CHUNKS = ChunkConfig((8, 16, 0), (8, 16), valid_size=8, valid_left_context=16)


def step(index: int = 0, training: bool = True) -> StepInfo:
    return StepInfo(1, index, index, 10, training)


def network(causal: bool = True) -> Transducer:
    encoder = small(feature_dim=80, causal=causal)
    config = TransducerConfig(zipformer=encoder.config, vocab_size=9, decoder_dim=8, joiner_dim=8)
    model = Transducer(config)
    model.encoder.load_state_dict(encoder.state_dict())
    return model


def test_each_batch_draws_by_the_seed_of_its_step() -> None:
    drawn = []
    for index in range(60):
        seed_everything(1, 1, index, 0)
        drawn.append(CHUNKS.of(step(index)))
        seed_everything(1, 1, index, 0)
        assert CHUNKS.of(step(index)) == drawn[-1]
    drawable = (Chunk(8, 8), Chunk(8, 16), Chunk(16, 16), Chunk(0, 8), Chunk(0, 16))
    assert set(drawn) == set(drawable), "16 frames stand for the 8 that are less than a chunk of 16"
    assert CHUNKS.of(step(training=False)) == Chunk(8, 16)


def test_the_loss_is_that_of_the_context_and_the_encoder_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """For student and teacher, of transducers and of encoders with a head."""
    described = {"type": "zipformer", "config": vars(small(feature_dim=80, causal=True).config)}
    head = SpeechModel(SpeechModelConfig(described, outputs=9, mix=False, dropout=0.0))
    distillation = DistillationConfig(layers=(), layer_weight=0.0, output_weight=0.5)
    tasks = []
    for model in (network(), head):
        teacher = copy.deepcopy(model)
        tasks.append(
            TransducerTask(model, LOSS, None, Guidance(teacher, distillation), chunks=CHUNKS)
            if isinstance(model, Transducer)
            else SpeechTask(model, SpeechLossConfig(), None, teacher, distillation, chunks=CHUNKS)
        )
    for task in tasks:
        losses = {}
        for chunk in (Chunk(8, 16), Chunk(8, 8), WHOLE):
            monkeypatch.setattr(ChunkConfig, "of", lambda config, info, chunk=chunk: chunk)
            _, found = task(batch(), step())
            losses[chunk] = found["task"].item()
            assert found["distil_output"].abs() < 1e-5, "the teacher sees what the student sees"
            assert task.model.encoder.chunk == task.teacher.encoder.chunk == WHOLE  # type: ignore[union-attr]
        assert len(set(losses.values())) == 3
        monkeypatch.undo()
        with torch.no_grad():
            assert task(batch(), step(training=False))[1]["task"].item() == pytest.approx(losses[Chunk(8, 16)])


def test_training_rounds_left_contexts_to_whole_chunks_as_icefall_does() -> None:
    for size, left in product((8, 16, 24, 0), (4, 8, 20, 24, 100, 0)):
        chunks = max(1, left // size) if size and left else 0  # icefall's left_context_chunks; 0: all
        (drawn,) = {ChunkConfig((size,), (left,)).of(step(index)) for index in range(3)}
        assert drawn == (Chunk(size, chunks * size) if chunks else Chunk(size, left))
    mixed = ChunkConfig((8, 24), (4, 20, 100), valid_size=8, valid_left_context=16)
    assert chunks_for(network().encoder, mixed) == mixed


def test_what_an_encoder_cannot_compute_is_refused() -> None:
    assert chunks_for(network(causal=False).encoder, None) is None
    assert chunks_for(network().encoder, None) == ChunkConfig()
    with pytest.raises(UserError, match="not causal, but the configuration has chunks; leave out chunks"):
        chunks_for(network(causal=False).encoder, CHUNKS)
    with pytest.raises(UserError, match="a chunk of 6 frames is not a multiple"):
        chunks_for(network().encoder, ChunkConfig((8, 6), (8,)))
    with pytest.raises(UserError, match="20 frames is not a multiple of the chunk of 8 frames; give 16 or 24"):
        chunks_for(network().encoder, ChunkConfig((8,), (8,), valid_size=8, valid_left_context=20))
    with pytest.raises(UserError, match="a chunk of 6 frames"):
        TransducerTask(network(), LOSS, chunks=ChunkConfig((8,), (8,), valid_size=6))
    with pytest.raises(ValueError, match="must not be empty"):
        ChunkConfig(sizes=())
    with pytest.raises(OutOfRange, match="left_contexts must be at least 0"):
        ChunkConfig(left_contexts=(-1,))


def test_an_encoder_that_is_not_causal_sees_everything() -> None:
    encoder = network(causal=False).encoder
    with encoder.seeing(WHOLE):
        assert encoder.chunk == WHOLE
    with pytest.raises(UserError, match="not causal"):
        encoder.see(Chunk(8, 8))
