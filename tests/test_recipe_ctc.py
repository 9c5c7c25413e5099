"""The CTC recipes: all stages on artificial speech in AN4's layout, configurations, error messages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pruning import configuration
from pruning.experiments import checkpoint
from pruning.files import read_json
from pruning.kinds import encoder_head
from pruning.methods.choice import new_pruner
from pruning.methods.names import HJ
from pruning.models import facts
from pruning.models.speech_model import SpeechModel, SpeechModelConfig
from pruning.speech.corpora import librispeech
from tests.corpus import MakeCorpus
from tests.models.encoder_decoders import BOTH, save_hf, shape_name
from tests.test_recipe_an4 import make_an4
from tests.test_recipe_an4 import run as run_an4

EGS = Path(__file__).resolve().parents[1] / "egs"
STEPS = ("trainer.max_steps=6 trainer.valid_interval=3 trainer.num_threads=1 trainer.tensorboard=false "
         "data.max_duration=15 data.num_buckets=1 data.drop_last=false")  # fmt: skip
SMALL = ("model.encoder.config.conv_channels=[8,8,8,8,8,8] model.encoder.config.d_model=32 "
         "model.encoder.config.head_dim=8 model.encoder.config.ffn_dim=[64]")  # fmt: skip

TARGETS = {"hj-mac": [], "hj-size": ["constraint.size=0.5"],
           "hj-sepsize": ["constraint.parts={size:frontend: 0.5, size:attention+ffn: 0.5}"]}  # fmt: skip
"""Settings in addition to prune.yaml."""


def run(recipe: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PRUNING_ENV": "current", "OMP_NUM_THREADS": "1",
                   "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # fmt: skip
    return subprocess.run([str(EGS / recipe / "run_ctc.sh"), *options], env=environment, capture_output=True, text=True,
                          check=False, stdin=subprocess.DEVNULL)  # fmt: skip


@pytest.mark.slow
@pytest.mark.processes
def test_from_manifests_to_the_table(tmp_path: Path) -> None:
    corpus = make_an4(tmp_path / "an4")
    done = run_an4(tmp_path, corpus, "--warm-up", "false", "--dev-speakers", "1", "--stop-stage", "1")
    assert done.returncode == 0, done.stderr[-2000:]
    test, dev = (str(tmp_path / "data" / "cuts" / f"an4_cuts_{part}.jsonl.gz") for part in ("test", "dev"))
    places = ["--data-dir", str(tmp_path / "data"), "--exp-dir", str(tmp_path / "exp"), "--lang-dir",
              str(tmp_path / "data/lang_char"), "--methods", "ctc_greedy_search", "--warm-up-cuts", test,
              "--warm-up-dev-cuts", dev]  # fmt: skip
    pruning = f"{STEPS} constraint.ramp_share=0.5 l0.gate_lr=0.5 l0.multiplier_lr=5 trainer.max_steps=12"
    result = run("an4", *places, "--warm-up-args", f"{STEPS} {SMALL}", "--dense-args", STEPS, "--prune-args", pruning,
                 "--finetune-args", STEPS, "--target-macs", "0.3")  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    began = {name: read_json(tmp_path / "exp" / name / "run.json")["inputs"] for name in
             ("warm_up", "dense", "pruned", "finetuned")}  # fmt: skip
    assert began["dense"]["init"], "starts from the warm-up and its head"
    for name, inputs in began.items():
        part = "test" if name == "warm_up" else "train"
        assert inputs["train_cuts"][0].startswith(f"an4_cuts_{part}.jsonl.gz "), "only the warm-up uses other cuts"
    table = (tmp_path / "exp" / "RESULTS_CTC.md").read_text()
    assert "\n| dense " in table and "\n| pruned " in table and "ctc_greedy_search" in table
    small = facts.read_facts(tmp_path / "exp" / "finetuned")
    assert small["macs_10s"] == pytest.approx(0.7 * small["dense"]["macs_10s"], rel=0.05)
    model, _ = checkpoint.load_model(tmp_path / "exp" / "finetuned")
    assert isinstance(model, SpeechModel) and model.config.task == "ctc"


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize(
    "shape", [pytest.param(shape, id=shape_name(shape), marks=[pytest.mark.long] * (shape_name(shape) == "whisper"))
              for shape in BOTH]
)  # fmt: skip
def test_from_a_pretrained_directory(tmp_path: Path, make_corpus: MakeCorpus, shape: dict[str, Any]) -> None:
    """The configurations fit encoders of any family and depth; half of the MACs go."""
    parts = {"train": 16, "dev": 4, "test": 4}
    corpus = make_corpus(tmp_path / "LibriSpeech", parts)
    librispeech.prepare(corpus, list(parts), tmp_path / "data" / "manifests")
    changes = {"max_source_positions": 150} if shape_name(shape) == "whisper" else {}
    save_hf(tmp_path / "hf", shape, **changes)
    of_parts = [word for part in parts for word in (f"--{part}-parts", part)]
    steps = f"{STEPS} trainer.amp=none data.num_workers=0"
    pruning = f"{steps} constraint.ramp_share=0.5 l0.gate_lr=0.5 l0.multiplier_lr=5 trainer.max_steps=12"
    result = run("librispeech", "--data-dir", str(tmp_path / "data"), "--exp-dir", str(tmp_path / "exp"), *of_parts,
                 "--methods", "ctc_greedy_search", "--pretrained", str(tmp_path / "hf"), "--method", "hj-mac",
                 "--target-macs", "0.5", "--dense-args", steps, "--prune-args", pruning, "--finetune-args",
                 steps)  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    table = (tmp_path / "exp" / "RESULTS_CTC.md").read_text()
    assert "\n| dense " in table and "\n| pruned " in table and "was not pre-trained" not in table
    small = facts.read_facts(tmp_path / "exp" / "finetuned")
    assert small["macs_10s"] == pytest.approx(0.5 * small["dense"]["macs_10s"], rel=0.05)


@pytest.mark.parametrize("folder", ["an4/conf/ctc", "librispeech/conf/ctc", "librispeech/conf/mini_ctc"])
@pytest.mark.parametrize("method", HJ)
def test_configurations_fit_each_other(folder: str, method: str) -> None:
    """Each can be read, the encoder can reach its targets, and distilled layers exist."""
    place = EGS / folder
    dense = configuration.load(encoder_head.RunConfig, place / "dense.yaml")
    finetune = configuration.load(encoder_head.RunConfig, place / "finetune.yaml")
    config = configuration.load(encoder_head.PruneConfig, place / "prune.yaml", [f"method={method}", *TARGETS[method]])
    assert dense.model is not None and dense.task == finetune.task == config.task == "ctc" and finetune.model is None
    assert finetune.distillation.layers == config.distillation.layers
    if dense.model.encoder:  # otherwise given by the user
        model = SpeechModel(SpeechModelConfig(dense.model.encoder, task="ctc", outputs=5))
        assert list(new_pruner(model, config, config.trainer.seed).targets)
        assert max(config.distillation.layers) == model.encoder.config.num_layers  # type: ignore[union-attr]
    if (place / "warm_up.yaml").is_file():
        warm_up = configuration.load(encoder_head.RunConfig, place / "warm_up.yaml")
        assert warm_up.model == dense.model


@pytest.mark.parametrize(
    ("recipe", "options", "complaint"),
    [
        ("an4", ["--hears", "features"], "with --hears features give --warm-up-cuts or --warm-up false"),
        ("an4", ["--warm-up", "false", "--warm-up-cuts", "x"], "--warm-up-cuts has no effect with --warm-up false"),
        ("an4", ["--data-dir", "nowhere"], "stage 2 needs nowhere/manifests/an4_supervisions_train.jsonl.gz"),
        ("librispeech", ["--mini", "maybe"], "--mini must be true or false"),
        ("librispeech", ["--target", "0.4"], "--method hj-mac takes only --target-macs"),
        ("librispeech", ["--method", "hj-size", "--target-macs", "0.4"], "--method hj-size takes only --target"),
        ("librispeech", ["--warm-up", "true"], "stage 4 needs conf/ctc/warm_up.yaml, which does not exist"),
        ("librispeech", ["--data-dir", "nowhere", "--stage", "9"], "stage 9 needs exp/ctc/dense/.done"),
    ],
)
def test_complaints_come_first(recipe: str, options: list[str], complaint: str) -> None:
    result = run(recipe, *options)
    assert result.returncode != 0 and complaint in result.stderr and result.stderr.count("\n") == 1
