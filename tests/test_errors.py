"""Numbers of configurations that cannot be are refused before anything is made of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from pruning import configuration
from pruning.errors import UserError, check_numbers
from pruning.kinds import encoder_head, language_model, transducer
from pruning.models import encoder_types as encoders
from pruning.speech.decoding.config import DecodingConfig

_ENCODER = "model.encoder={d_model: 8, num_layers: 1, head_dim: 4, num_heads: [2], macaron_dim: [8], ffn_dim: [8], "
_TRANSDUCER = [_ENCODER + "conv_channels: [8]}", "model.vocab_size=5"]
_LM = ["model={d_model: 8, num_layers: 1, head_dim: 4, num_heads: [2], ffn_dim: [8]}"]


class Numbers:
    """Stands for a configuration."""

    def __init__(self, value: Any) -> None:
        self.value = value


@pytest.mark.parametrize("value", [1, 2.5, None, [1, 2], (2.9,), []])
def test_numbers_within_the_range_pass(value: Any) -> None:
    check_numbers(Numbers(value), "value", least=1, below=3)


@pytest.mark.parametrize("value", [0, 3, -1.0, float("nan"), float("inf"), [1, 0], (4,)])
def test_others_are_named(value: Any) -> None:
    with pytest.raises(ValueError, match="value must be at least 1 and below 3, got "):
        check_numbers(Numbers(value), "value", least=1, below=3)


@pytest.mark.parametrize(
    ("cls", "settings", "wrong"),
    [
        (transducer.RunConfig, _TRANSDUCER, "model.encoder.d_model=0"),
        (transducer.RunConfig, _TRANSDUCER, "model.encoder.num_heads=[-1]"),
        (transducer.RunConfig, _TRANSDUCER, "model.encoder.dropout=1.5"),
        (transducer.RunConfig, _TRANSDUCER, "model.encoder.subsampling_channels=[0,8,8]"),
        (transducer.RunConfig, _TRANSDUCER, "model.context_size=0"),
        (transducer.RunConfig, _TRANSDUCER, "model.joiner_dim=0"),
        (transducer.RunConfig, [], "loss.prune_range=1"),
        (transducer.RunConfig, [], "loss.ctc_weight=nan"),
        (transducer.RunConfig, [], "loss.backend=kaldi"),
        (encoder_head.RunConfig, ["task=ctc"], "model.dropout=2"),
        (language_model.RunConfig, _LM, "model.head_dim=0"),
        (language_model.RunConfig, _LM, "model.num_layers=-1"),
        (language_model.RunConfig, _LM, "model.dropout=nan"),
        (language_model.RunConfig, [], "trainer.optimiser.lr=nan"),
        (language_model.RunConfig, [], "trainer.optimiser.lr=-1"),
        (language_model.RunConfig, [], "trainer.optimiser.betas=[0.9,1]"),
        (language_model.RunConfig, [], "trainer.seed=-1"),
        (language_model.RunConfig, [], f"trainer.seed={2**63}"),
        (language_model.PruneConfig, [], "calibration_batches=0"),
        (transducer.RunConfig, [], "data.musan_snr=[20,10]"),
        (transducer.RunConfig, [], "data.musan_probability=1.5"),
        (transducer.RunConfig, [], "data.musan_probability=-0.1"),
        (transducer.RunConfig, [], "data.buffer_size=-1"),
        (transducer.RunConfig, [], "data.num_workers=-1"),
        (transducer.RunConfig, [], "data.spec_augment.max_frames_mask_fraction=2"),
        (transducer.RunConfig, [], "trainer.schedule.eden_steps=0"),
        (transducer.RunConfig, [], "trainer.schedule.eden_epochs=-1"),
    ],
)
def test_configurations_check_theirs(cls: Any, settings: list[str], wrong: str) -> None:
    configuration.load(cls, None, settings)
    name = wrong.partition("=")[0].rpartition(".")[2]
    with pytest.raises(UserError, match=rf"{name}\b.* (is|must) "):
        configuration.load(cls, None, [*settings, wrong])


CONFIGURATIONS = (transducer.RunConfig, transducer.PruneConfig, encoder_head.RunConfig, language_model.RunConfig,
                  language_model.PruneConfig, DecodingConfig)  # fmt: skip


def fractions(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of floating-point numbers, and of lists of them."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from fractions(value, f"{prefix}{key}.")
        elif isinstance(value, float) or (isinstance(value, list) and value and isinstance(value[0], float)):
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("cls", CONFIGURATIONS)
@pytest.mark.parametrize("number", ["nan", "inf", "-inf", ".nan", "-.inf"])
def test_no_setting_is_a_number_that_is_not_finite(cls: type, number: str) -> None:
    """Every key of every configuration."""
    found = dict(fractions(configuration.defaults(cls)))
    assert len(found) > 3
    for key, value in found.items():
        text = f"[{', '.join([number] * len(value))}]" if isinstance(value, list) else number
        with pytest.raises(UserError, match=rf"key '{re.escape(key)}' in the command line is"):
            configuration.load(cls, None, [f"{key}={text}"])


@pytest.mark.parametrize("values", [{"d_model": -8}, {"conv_strides": [0, 2]}, {"pos_groups": 0}, {"head_dim": "4"}])
def test_networks_of_a_checkpoint_check_theirs(values: dict[str, Any]) -> None:
    config = {"kind": "wav2vec2", "conv_channels": [4, 4], "conv_kernels": [3, 3], "conv_strides": [2, 2],
              "frontend_norm": "group", "d_model": 8, "num_layers": 1, "head_dim": 4, "original_heads": 2,
              "heads": [[0, 1]], "ffn_dim": [8], "pos_kernel": 3, "pos_groups": 2}  # fmt: skip
    encoders.build({"type": "speech_encoder", "config": config})
    with pytest.raises(UserError, match="does not build"):
        encoders.build({"type": "speech_encoder", "config": {**config, **values}})
