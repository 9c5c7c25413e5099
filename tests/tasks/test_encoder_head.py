"""The task of encoders with a head refuses what it cannot compare."""

from __future__ import annotations

import pytest

from pruning.core.distillation import DistillationConfig
from pruning.errors import UserError
from pruning.tasks.encoder_head import SpeechLossConfig, SpeechTask
from tests.models.test_speech_model import network


def test_layers_that_the_student_lacks_are_refused() -> None:
    model, teacher = network("speech_encoder", task="ctc"), network("speech_encoder", task="ctc")
    with pytest.raises(UserError, match="compares layer 9 of the student with the teacher's, but it has only"):
        SpeechTask(model, SpeechLossConfig(), None, teacher, DistillationConfig(layers=(0, 9)))
