"""The sweep files of the recipes: each line at each target gives a readable configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pruning import configuration
from pruning.methods.config import check_settings
from pruning.sweeps import definition, sweep
from pruning.sweeps.lines import MethodConfig

EGS = Path(__file__).resolve().parents[2] / "egs"
FILES = sorted(path for path in EGS.glob("*/conf/**/*.yaml") if "targets" in (yaml.safe_load(path.read_text()) or {}))


def test_there_are_some() -> None:
    assert {path.parts[-4] for path in FILES} >= {"slurp", "librispeech"}
    assert any(path.parts[-3] == "lm" for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(EGS)))
def test_every_line_can_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EGS / path.relative_to(EGS).parts[0])
    config = definition.load(path, thorough=False)  # without the data and the teacher
    assert sweep.levels(sweep.expand(config))
    for name, line in config.methods.items():
        base = config.scratch if line.uniform else config.finetune
        configuration.load(config.kind.training, base, [*config.settings, *line.finetune_settings])
        for target in line.targets or config.targets:
            if line.method is None:
                continue
            settings = [*config.settings, *config.targets[target], f"method={line.method}", *line.settings]
            loaded = configuration.load(config.kind.pruning, config.prune, settings)
            check_settings(loaded, settings)
            assert loaded.method == line.method and loaded.asked().goals(), (name, target)


def test_words_of_a_legend_tell_uniform_networks_from_narrowed_ones() -> None:
    assert MethodConfig(uniform="width").words == "uniform network, narrow in its width, from scratch"
    narrowed = MethodConfig(method="magnitude", settings=("criterion.ranking=group",))
    assert narrowed.words.startswith("every group narrowed alike, trained weights kept: magnitude, ")
    slow = MethodConfig("taylor", settings=("distillation.layers=[2]",),
                        finetune_settings=("distillation.layers=[2]", "trainer.optimiser.lr=0.02"))  # fmt: skip
    assert slow.words == "taylor, distillation.layers=[2], trainer.optimiser.lr=0.02 (fine-tuning)"
