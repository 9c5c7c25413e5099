"""Fields and options reject values outside their limits by name, before the values are used."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import math
import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Optional, get_args, get_type_hints

import pytest
from hypothesis import given, strategies

import pruning
from pruning import configuration
from pruning.errors import UserError
from pruning.kinds import encoder_decoder, encoder_head, language_model, transducer
from pruning.limits import (
    COUNT,
    POSITIVE,
    Count,
    Fraction,
    Natural,
    OneOf,
    OutOfRange,
    Range,
    Share,
    check_fields,
    limits,
)
from pruning.models import encoder_types as encoders
from pruning.speech.decoding.config import DecodingConfig

_ENCODER = "model.encoder={d_model: 8, num_layers: 1, head_dim: 4, num_heads: [2], macaron_dim: [8], ffn_dim: [8], "
_TRANSDUCER = [_ENCODER + "conv_channels: [8]}", "model.vocab_size=5"]
_LM = ["model={d_model: 8, num_layers: 1, head_dim: 4, num_heads: [2], ffn_dim: [8]}"]


@dataclass(frozen=True)
class Numbers:
    """All forms of declaring the limit of a field."""

    one: Count = 1
    maybe: Optional[Fraction] = None
    several: tuple[Annotated[float, Range(least=1, below=3)], ...] = ()
    named: dict[str, Share] = field(default_factory=dict)
    nested: tuple[tuple[Natural, ...], ...] = ()
    word: Annotated[str, OneOf(("a", "b"))] = "a"
    free: str = ""

    def __post_init__(self) -> None:
        check_fields(self)


@pytest.mark.parametrize(
    "values",
    [{"one": 7}, {"maybe": 0}, {"maybe": 0.5}, {"several": (1, 2.9)}, {"several": [2]}, {"named": {"x": 1, "y": 0.0}},
     {"nested": ((0, 1), ())}, {"word": "b"}, {"free": "anything"}],
)  # fmt: skip
def test_values_within_their_limits_pass(values: dict[str, Any]) -> None:
    Numbers(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"one": 0}, "one must be at least 1, got 0"),
        ({"one": 1.5}, "one must be a whole number, got 1.5"),
        ({"one": True}, "one must be a whole number, got True"),
        ({"one": "4"}, "one must be a whole number, got '4'"),
        ({"maybe": 1}, "maybe must be at least 0 and below 1, got 1"),
        ({"maybe": float("nan")}, "maybe must be at least 0 and below 1, got nan"),
        ({"several": (1, 3.0)}, "several must be at least 1 and below 3, got 3.0"),
        ({"named": {"x": 0.5, "y": 1.5}}, "named must be at least 0 and at most 1, got 1.5"),
        ({"nested": ((0,), (1, -1))}, "nested must be at least 0, got -1"),
        ({"word": "c"}, "word must be one of a, b, got 'c'"),
    ],
)
def test_others_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OutOfRange, match=f"^{re.escape(message)}; "):
        Numbers(**values)


@given(number=strategies.floats(), bounds=strategies.tuples(*[strategies.floats(-10, 10)] * 2).map(sorted))
def test_a_range_holds_what_comparisons_say(number: float, bounds: list[float]) -> None:
    low, high = bounds
    assert (not Range(least=low, most=high).problem(number)) == (low <= number <= high)
    assert (not Range(above=low, below=high).problem(number)) == (low < number < high)
    assert (not Range().problem(number)) == math.isfinite(number)


@given(
    text=strategies.one_of(strategies.text(max_size=5), strategies.floats().map(str), strategies.integers().map(str))
)
def test_options_take_what_their_range_holds(text: str) -> None:
    for limit in (COUNT, POSITIVE):
        parser = argparse.ArgumentParser(exit_on_error=False)
        parser.add_argument("--option", type=limit.parse)
        try:
            value = limit.of(text)
        except ValueError:
            value = None
        if value is not None and not limit.problem(value):
            assert parser.parse_args([f"--option={text}"]).option == value
        else:
            with pytest.raises(argparse.ArgumentError, match="argument --option: must be "):
                parser.parse_args([f"--option={text}"])


def configurations() -> dict[str, type]:
    """Return every dataclass of the package whose name says that it is a configuration."""
    found = {}
    for module in pkgutil.walk_packages(pruning.__path__, "pruning."):
        if ".bin." not in module.name:
            for name, cls in vars(importlib.import_module(module.name)).items():
                if isinstance(cls, type) and dataclasses.is_dataclass(cls) and name.endswith("Config"):
                    found[f"{cls.__module__}.{name}"] = cls
    return found


def holds_numbers(hint: Any) -> bool:
    """Return whether values of a type are numbers or contain numbers."""
    return hint in (int, float) or any(map(holds_numbers, get_args(hint)))


def test_every_number_of_every_configuration_has_a_range() -> None:
    found = configurations()
    assert len(found) > 20
    without = [
        f"{name}.{key}"
        for name, cls in found.items()
        for key, hint in get_type_hints(cls).items()
        if key in {field.name for field in dataclasses.fields(cls)} and holds_numbers(hint)
        if key not in limits(cls)
    ]
    assert without == []


def test_every_number_on_a_command_line_has_a_range() -> None:
    root = Path(__file__).resolve().parents[1]
    sources = [*root.glob("pruning/bin/*.py"), *root.glob("local/*.py"), *root.glob("egs/*/local/*.py")]
    assert len(sources) > 30
    without = [
        f"{path.relative_to(root)}:{node.value.lineno}"
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.keyword) and node.arg == "type" and ast.unparse(node.value) in ("int", "float")
    ]
    assert without == []


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
        (encoder_decoder.RunConfig, [], "loss.label_smoothing=1"),
        (language_model.RunConfig, _LM, "model.head_dim=0"),
        (language_model.RunConfig, _LM, "model.num_layers=-1"),
        (language_model.RunConfig, _LM, "model.dropout=nan"),
        (language_model.RunConfig, [], "trainer.optimiser.lr=nan"),
        (language_model.RunConfig, [], "trainer.optimiser.lr=-1"),
        (language_model.RunConfig, [], "trainer.optimiser.betas=[0.9,1]"),
        (language_model.RunConfig, [], "trainer.seed=-1"),
        (language_model.RunConfig, [], f"trainer.seed={2**63}"),
        (language_model.PruneConfig, [], "low_rank.calibration_batches=0"),
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
    key = wrong.partition("=")[0]
    with pytest.raises(
        UserError, match=rf"key '{re.escape(key)}' in the command line must |{key.rpartition('.')[2]} must "
    ):
        configuration.load(cls, None, [*settings, wrong])


CONFIGURATIONS = (transducer.RunConfig, transducer.PruneConfig, encoder_head.RunConfig, language_model.RunConfig,
                  language_model.PruneConfig, DecodingConfig)  # fmt: skip


def fractions(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of floating-point numbers and of lists of them."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from fractions(value, f"{prefix}{key}.")
        elif isinstance(value, float) or (isinstance(value, list) and value and isinstance(value[0], float)):
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("cls", CONFIGURATIONS)
@pytest.mark.parametrize("number", ["nan", "inf", "-inf", ".nan", "-.inf"])
def test_no_setting_is_a_number_that_is_not_finite(cls: type, number: str) -> None:
    """Check every key of every configuration."""
    found = dict(fractions(configuration.defaults(cls)))
    assert len(found) > 3
    for key, value in found.items():
        text = f"[{', '.join([number] * len(value))}]" if isinstance(value, list) else number
        with pytest.raises(UserError, match=rf"key '{re.escape(key)}' in the command line must be"):
            configuration.load(cls, None, [f"{key}={text}"])


@pytest.mark.parametrize("values", [{"d_model": -8}, {"conv_strides": [0, 2]}, {"pos_groups": 0}, {"head_dim": "4"}])
def test_networks_of_a_checkpoint_check_theirs(values: dict[str, Any]) -> None:
    config = {"kind": "wav2vec2", "conv_channels": [4, 4], "conv_kernels": [3, 3], "conv_strides": [2, 2],
              "frontend_norm": "group", "d_model": 8, "num_layers": 1, "head_dim": 4, "original_heads": 2,
              "heads": [[0, 1]], "ffn_dim": [8], "pos_kernel": 3, "pos_groups": 2}  # fmt: skip
    encoders.build({"type": "speech_encoder", "config": config})
    with pytest.raises(UserError, match="cannot build a speech_encoder encoder"):
        encoders.build({"type": "speech_encoder", "config": {**config, **values}})


@pytest.mark.parametrize(
    ("command", "option", "value", "message"),
    [
        ("decode", "--num-threads", "0", "must be at least 1, got 0"),
        ("decode", "--lm-scale", "nan", "must be at least 0, got nan"),
        ("decode", "--beam-size", "2.5", "must be a whole number, got '2.5'"),
        ("rescore", "--lm-scales", "-0.1", "must be at least 0, got -0.1"),
        ("benchmark", "--repeats", "0", "must be at least 1, got 0"),
        ("benchmark_lm", "--history-tokens", "0", "must be at least 1, got 0"),
        ("extract", "--reinitialise", str(2**63), f"must be at least 0 and below {2**63}, got {2**63}"),
        ("uniform", "--share", "1.5", "must be above 0 and at most 1, got 1.5"),
        ("latency", "--seconds", "inf", "must be above 0, got inf"),
    ],
)
def test_a_command_names_the_option(
    capsys: pytest.CaptureFixture[str], command: str, option: str, value: str, message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"pruning.bin.{command}").main([f"{option}={value}"])
    assert ended.value.code == 2
    assert f"error: argument {option}: {message}\n" in capsys.readouterr().err
