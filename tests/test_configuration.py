"""Configurations are read strictly, and every error names file, key and remedy."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Optional

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pruning import configuration
from pruning.errors import UserError


class Kind(Enum):
    size = "parameters"
    macs = "computation"


@dataclass(frozen=True)
class Layer:
    dim: int = 144
    heads: tuple[int, ...] = (4, 4)
    rates: list[float] = field(default_factory=lambda: [0.1])


@dataclass(frozen=True)
class Optimiser:
    lr: float = 1e-3
    weight_decay: float = 0.0
    clip: Optional[float] = 5.0


@dataclass(frozen=True)
class Config:
    optimiser: Optimiser = Optimiser()
    layer: Layer = Layer()
    teacher: Optional[Layer] = None
    more: list[Layer] = field(default_factory=list)
    targets: dict[str, float] = field(default_factory=dict)
    kind: Kind = Kind.size
    amp: Literal["none", "bf16"] = "none"
    name: str = "teacher"
    shuffle: bool = True


@dataclass(frozen=True)
class Required:
    path: str
    size: int = 1


@dataclass(frozen=True)
class Checked:
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}, not in [0, 1]")


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_file_then_overrides_over_defaults(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "optimiser: {lr: 1e-2, clip: null}\nlayer: {heads: [1, 2, 3]}\nkind: macs\n")
    config = configuration.load(
        Config,
        path,
        [
            "optimiser.lr=3e-4",
            "layer.rates=[1,2]",
            "teacher.dim=8",
            "amp=bf16",
            "targets.size=0.5",
            "more=[{dim: 5}]",
            "name=a=b",
        ],
    )
    assert config == Config(
        optimiser=Optimiser(lr=3e-4, clip=None),
        layer=Layer(heads=(1, 2, 3), rates=[1.0, 2.0]),
        teacher=Layer(dim=8),
        more=[Layer(dim=5)],
        targets={"size": 0.5},
        kind=Kind.macs,
        amp="bf16",
        name="a=b",
    )
    assert isinstance(config.layer.heads, tuple) and isinstance(config.layer.rates, list)
    assert isinstance(config.layer.rates[0], float) and hash(config.optimiser) is not None


def test_defaults_alone_and_empty_file(tmp_path: Path) -> None:
    assert configuration.load(Config) == Config() == configuration.load(Config, write(tmp_path / "e.yaml", "# none\n"))


@pytest.mark.parametrize(
    ("text", "what", "remedy"),
    [
        ("optimizer: {lr: 1}", "unknown key 'optimizer'", "did you mean 'optimiser'"),
        ("optimiser: {learning_rate: 1}", "unknown key 'optimiser.learning_rate'", "'optimiser.lr'"),
        ("optimiser: {weight_dcay: 1}", "unknown key 'optimiser.weight_dcay'", "did you mean 'optimiser.weight_decay'"),
        ("lr: 1", "unknown key 'lr'", "did you mean 'optimiser.lr'"),
        ("teacher: {dims: 1}", "unknown key 'teacher.dims'", "'teacher.dim'"),
        ("zzz: 1", "unknown key 'zzz'", "known keys are optimiser, layer"),
        ("optimiser: {lr: fast}", "key 'optimiser.lr'", "correct the value"),
        ("layer: {dim: 1.5}", "key 'layer.dim'", "correct the value"),
        ("layer: {heads: 4}", "key 'layer.heads'", "correct the value"),
        ("layer: {heads: [a]}", "key 'layer.heads'", "correct the value"),
        ("layer: 3", "key 'layer'", "correct the value"),
        ("layer: null", "key 'layer'", "correct the value"),
        ("kind: speed", "key 'kind'", "correct the value"),
        ("amp: fp8", "key 'amp'", "correct the value"),
        ("shuffle: perhaps", "key 'shuffle'", "correct the value"),
        ("a: [1", "is not valid YAML", "correct the file"),
        ("a: b: c", "is not valid YAML", "correct the file"),
        ("- 1\n- 2\n", "is a list", "key: value"),
        ("5", "contains no keys", "key: value"),
        ("word", "unknown key 'word'", "known keys"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path: Path, text: str, what: str, remedy: str) -> None:
    path = write(tmp_path / "c.yaml", text)
    with pytest.raises(UserError) as caught:
        configuration.load(Config, path)
    assert what in caught.value.what and str(path) in caught.value.what and remedy in caught.value.remedy
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.lrr=1", "unknown key 'optimiser.lrr' in the command line; did you mean 'optimiser.lr'"),
        ("optimiser.lr", "'optimiser.lr' is not a setting"),
        ("=3", "'=3' is not a setting"),
        ("optimiser.lr=high", "key 'optimiser.lr' in the command line is not valid"),
        ("layer.heads=[1,", "cannot be read"),
    ],
)
def test_mistakes_in_overrides_are_named(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        configuration.load(Config, None, [override])
    assert message in str(caught.value)


def test_missing_file_directory_and_key_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none.yaml does not exist"):
        configuration.load(Config, tmp_path / "none.yaml")
    with pytest.raises(UserError, match="is a directory"):
        configuration.load(Config, tmp_path)
    with pytest.raises(UserError, match="key 'path' is missing"):
        configuration.load(Required, None, ["size=2"])
    assert configuration.load(Required, None, ["path=x"]) == Required("x")


def test_binary_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match="b.yaml is not valid YAML"):
        configuration.load(Config, tmp_path / "b.yaml")


def test_values_that_the_dataclass_refuses_are_named() -> None:
    with pytest.raises(UserError, match=r"command line is not valid: share is 2\.0"):
        configuration.load(Checked, None, ["share=2"])


configs = st.builds(
    Config,
    optimiser=st.builds(
        Optimiser, lr=st.floats(1e-9, 1e3), weight_decay=st.floats(0, 1), clip=st.none() | st.floats(0.1, 10)
    ),
    layer=st.builds(
        Layer,
        dim=st.integers(1, 9),
        heads=st.lists(st.integers(), max_size=3).map(tuple),
        rates=st.lists(st.floats(0, 1), max_size=3),
    ),
    teacher=st.none() | st.builds(Layer, dim=st.integers(1, 9)),
    more=st.lists(st.builds(Layer, dim=st.integers(1, 9)), max_size=2),
    targets=st.dictionaries(st.sampled_from(["size", "macs"]), st.floats(0, 1)),
    kind=st.sampled_from(Kind),
    amp=st.sampled_from(["none", "bf16"]),
    name=st.text("ab: #'\"=é1.", min_size=1),
    shuffle=st.booleans(),
)


@settings(max_examples=60, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])  # fmt: skip
@given(config=configs)
def test_saved_and_loaded_is_the_same(tmp_path: Path, config: Config) -> None:
    configuration.save(config, tmp_path / "c.yaml")
    assert configuration.load(Config, tmp_path / "c.yaml") == config
    values = json.loads(json.dumps(configuration.to_dict(config)))
    assert configuration.from_dict(Config, values, "a header") == config
    assert values == yaml.safe_load((tmp_path / "c.yaml").read_text())


def test_from_dict_names_the_origin() -> None:
    with pytest.raises(UserError, match="unknown key 'dim' in best.safetensors; did you mean 'layer.dim'"):
        configuration.from_dict(Config, {"dim": 3}, "best.safetensors")


@pytest.mark.parametrize(
    ("before", "now", "changes"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 1}}, {}),
        ({"a": {"b": 1, "c": [1, 2]}}, {"a": {"b": 2, "c": (1, 2)}}, {"a.b": (1, 2)}),
        ({"a": 1}, {"b": 1}, {"a": (1, None), "b": (None, 1)}),
        ({"a": {}}, {"a": {"x": 1}}, {"a": ({}, None), "a.x": (None, 1)}),
    ],
)
def test_changed_keys(before: dict[str, Any], now: dict[str, Any], changes: dict[str, Any]) -> None:
    assert configuration.changed_keys(before, now) == changes


def test_a_mapping_of_the_command_line_stands_in_the_place_of_the_files(tmp_path: Path) -> None:
    """A whole mapping replaces that of the file; single keys are set one by one."""
    path = tmp_path / "a.yaml"
    path.write_text("targets: {a: 1.0, b: 2.0}\noptimiser: {lr: 0.5}\n")
    cases = {
        (): {"a": 1.0, "b": 2.0},
        ("targets={}",): {},
        ("targets={c: 3.0}",): {"c": 3.0},
        ("targets={c: 3.0}", "targets={}"): {},
        ("targets={c: 3.0}", "targets={d: 4.0}"): {"d": 4.0},
        ("targets={c: 3.0}", "targets.d=4.0"): {"c": 3.0, "d": 4.0},
        ("targets.c=3.0",): {"a": 1.0, "b": 2.0, "c": 3.0},
    }
    for overrides, wanted in cases.items():
        assert configuration.load(Config, path, list(overrides)).targets == wanted, overrides
    loaded = configuration.load(Config, path, ["optimiser={weight_decay: 0.1}"])
    assert loaded.optimiser == Optimiser(0.5, 0.1)
