"""Kind of network x technique x method: each cell works with the commands, or is refused before anything starts.

Cells of language models: `tests.kinds.test_language_model.test_every_cell_prunes_to_its_target`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pruning import registry
from pruning.bin import extract, prune, sweep
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.kinds import kind as kinds
from pruning.kinds.capabilities import Capabilities
from pruning.kinds.encoder_head import EncoderHeadKind
from pruning.methods.config import HJ, L0, METHODS, NO_CELL, TECHNIQUES
from pruning.models.facts import costs_at, read_facts
from pruning.models.names import FAMILY_NAMES
from tests.kinds.test_encoder_decoder import import_small
from tests.kinds.test_encoder_decoder import options as own_options
from tests.kinds.test_encoder_decoder import settings as own_settings
from tests.kinds.test_encoder_head import dense, options
from tests.kinds.test_encoder_head import settings as head_settings
from tests.kinds.test_encoder_head import work as speech
from tests.kinds.test_transducer import inputs
from tests.kinds.test_transducer import work as recogniser
from tests.kinds.test_zipformer import work as zipformer
from tests.sweeps.test_encoder_head_sweep import sweep_file

__all__ = ["recogniser", "speech", "zipformer"]

pytestmark = pytest.mark.slow

ZIPFORMER = "zipformer"
NETWORKS = (
    "transducer",
    ZIPFORMER,
    "conformer ctc",
    "conformer intent",
    "speech_encoder ctc",
    "whisper ctc",
    "moonshine ctc",
    "moonshine intent",
    *(f"{family} text" for family in FAMILY_NAMES),
)
PARTS = {
    **{name: {"size:attention": 0.32, "size:ffn": 0.4} for name in ("transducer", "moonshine ctc")},
    **{f"{family} text": {"size:encoder_attention": 0.37, "size:decoder_ffn": 0.4} for family in FAMILY_NAMES},
}
"""Targets of hj-sepsize other than 0.4 of attention and FFN: only whole heads can be removed, of six or eight."""
ALL = ("transducer", "conformer ctc", "speech_encoder ctc", "moonshine text")
"""Networks that are tested with all methods; the others have the units of one of these."""
FEW = ("l0", "hj-mac", "magnitude", "wanda")
"""Methods that are tested with the other networks."""
OF_ZIPFORMER = ("l0", "taylor")
"""Methods that are tested with a Zipformer, structured: it has many kinds of units, and its cells are slow."""
STEPS = {"criterion": 4, "gates": 16}


@dataclass(frozen=True)
class Teacher:
    """A dense network, and the options and the configuration of its runs."""

    place: Path
    data: list[str]
    config: dict[str, Any]

    @property
    def capabilities(self) -> Capabilities:
        """Capabilities that its kind declares."""
        network, _ = checkpoint.load_model(self.place)
        return kinds.of(network).capabilities(network)


@pytest.fixture(scope="module")
def teachers(
    recogniser: Path,
    speech: Path,
    zipformer: Path,
    data_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Teacher]:
    """A dense network of every kind and variant."""
    data = inputs(data_dir)
    of_transducer = ["--lang-dir", str(data.lang_dir), "--train-cuts", *map(str, data.train), "--dev-cuts",
                     *map(str, data.dev)]  # fmt: skip
    config = yaml.safe_load((recogniser / "train.yaml").read_text())
    config["data"]["max_duration"] = 5
    found = {"transducer": Teacher(recogniser / "teacher", of_transducer, config)}
    found[ZIPFORMER] = Teacher(zipformer / "teacher", of_transducer, config)
    for name in NETWORKS[2:]:
        kind, task = name.split()
        place = tmp_path_factory.mktemp(name.replace(" ", "-"))
        if task == "text":
            teacher = import_small(place, kind)
            config = yaml.safe_load(own_settings(place / "prune.yaml").read_text())
            found[name] = Teacher(teacher, own_options(speech, teacher, place, place)[4:], config)
            continue
        teacher = dense(speech, place, kind, task)
        config = yaml.safe_load(head_settings(speech, place / "prune.yaml", task).read_text())
        found[name] = Teacher(teacher, options(speech, place, place)[4:], config)
    return found


def parts_of(name: str) -> dict[str, float]:
    """Return the targets of hj-sepsize."""
    return PARTS.get(name, {"size:attention": 0.4, "size:ffn": 0.4})


def command(teacher: Teacher, place: Path, name: str, method: str, technique: str) -> list[str]:
    """Return the options of ``prune`` for one cell."""
    gates = method in (L0, *HJ)
    parts = parts_of(name) if method == "hj-sepsize" else {}
    steps = STEPS["gates" if gates else "criterion"]
    config = {
        **teacher.config,
        "constraint": {"size": 0.4, "macs": 0.4 if method == "hj-mac" else 0.0, "seconds": 1.0, "ramp_share": 0.5,
                       "parts": parts},
        "l0": {"gate_lr": 0.5, "multiplier_lr": 5.0},
        "criterion": {"interval": 2},
        "low_rank": {"calibration_batches": 1},
        "trainer": {**teacher.config["trainer"], "max_steps": steps, "valid_interval": steps, "state_interval": steps,
                    "optimiser": {"lr": 1e-3}},
    }  # fmt: skip
    path = place / "matrix.yaml"
    path.write_text(yaml.safe_dump(config))
    return ["--config", str(path), "--teacher", str(teacher.place), "--exp-dir", str(place / "pruned"),
            "--method", method, "--technique", technique, *teacher.data]  # fmt: skip


def refused(arguments: list[str], place: Path, message: str) -> None:
    """Check that ``prune`` refuses its input and writes neither a state nor a checkpoint."""
    with pytest.raises(UserError, match=message):
        prune.main(arguments)
    assert not list((place / "pruned").glob("**/*"))


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_a_cell_works_or_is_refused(
    teachers: dict[str, Teacher], tmp_path: Path, name: str, technique: str, method: str
) -> None:
    """Prune, extract and reload: the outputs agree, and the size or the MACs are as requested."""
    teacher = teachers[name]
    arguments = command(teacher, tmp_path, name, method, technique)
    if (method, technique) in NO_CELL:
        refused(arguments, tmp_path, f"method {method} does not support {technique}: {NO_CELL[method, technique]}")
        return
    if technique not in teacher.capabilities.techniques:
        refused(arguments, tmp_path, f"does not support technique {technique}")
        return
    if name == ZIPFORMER and (method not in OF_ZIPFORMER or technique != "structured"):
        pytest.skip("other cells have the same units")
    if name not in (*ALL, ZIPFORMER) and method not in FEW:
        pytest.skip("another network has the same units")
    prune.main(arguments)
    extract.main(["--pruned", str(tmp_path / "pruned"), "--exp-dir", str(tmp_path / "small")])
    network, header = checkpoint.load_model(tmp_path / "small")
    assert header["exactness"] < 1e-4
    facts = read_facts(tmp_path / "small")
    before, of = facts["dense"], "nonzero_parameters" if technique == "unstructured" else "parameters"
    whole = before["parameters" if name.endswith("text") else "encoder_parameters"]
    removed = (before["parameters"] - facts[of]) / whole
    if method == "hj-mac":
        after, dense_macs = (costs_at(one, registry.of(one).input_length(one, 1.0)).dense["macs"]
                             for one in (network, checkpoint.load_model(teacher.place)[0]))  # fmt: skip
        assert 1 - after / dense_macs == pytest.approx(0.4, abs=0.05)
    elif method == "hj-sepsize":
        for cost, target in parts_of(name).items():
            part = cost.removeprefix("size:")
            sizes = [one["by_kind"][part]["size"] for one in (facts, before)]
            assert 1 - sizes[0] / sizes[1] == pytest.approx(target, abs=0.1), part  # with few heads, one more or fewer
    else:
        assert removed == pytest.approx(0.4, abs=0.05)


def test_a_sweep_names_the_line_that_a_kind_cannot_do(
    speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--dry-run`` finds it before anything starts, for a kind that declares no more than the defaults."""
    monkeypatch.setattr(EncoderHeadKind, "capabilities", classmethod(lambda cls, network: Capabilities()))
    teacher = dense(speech, tmp_path / "conformer", "conformer", "ctc")
    lines = {"random": {"method": "random"},
             "zeros": {"method": "magnitude", "settings": ["technique=unstructured"]}}  # fmt: skip
    path = sweep_file(speech, tmp_path, "ctc", teacher=str(teacher), claims={}, methods=lines)
    with pytest.raises(
        UserError,
        match=r"line \d+, zeros at 40: an encoder with a head does not support technique "
        "unstructured; choose one of structured",
    ):
        sweep.main(["--config", str(path), "--exp-dir", str(tmp_path / "exp"), "--dry-run"])
    assert not (tmp_path / "exp").exists()
