"""The SLURP recipe from speech to its table on seconds of data, for samples and features; its error messages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pruning import configuration
from pruning.experiments import checkpoint
from pruning.kinds import encoder_head
from pruning.methods.choice import new_pruner
from pruning.methods.names import HJ
from pruning.models import facts
from pruning.models.speech_model import SpeechModel, SpeechModelConfig
from pruning.reports import terminal
from pruning.speech.corpora.synthetic import slurp_corpus

RECIPE = Path(__file__).resolve().parents[1] / "egs" / "slurp"
STEPS = ("trainer.max_steps=8 trainer.valid_interval=4 trainer.num_threads=1 trainer.tensorboard=false "
         "data.max_duration=10 data.num_buckets=1 data.drop_last=false")  # fmt: skip
SMALL = {
    "samples": "model.encoder.config.conv_channels=[8,8,8,8,8,8] model.encoder.config.d_model=32 "
    "model.encoder.config.head_dim=8 model.encoder.config.ffn_dim=[64]",
    "features": "model.encoder.config.d_model=32 model.encoder.config.head_dim=8 model.encoder.config.ffn_dim=[64] "
    "model.encoder.config.macaron_dim=[64] model.encoder.config.conv_channels=[32]",
}

TARGETS = {"hj-mac": [], "hj-size": ["constraint.size=0.5"],
           "hj-sepsize": ["constraint.parts={size:frontend: 0.5, size:attention+ffn: 0.5}"]}  # fmt: skip
"""Settings in addition to prune.yaml."""


def run(*options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PRUNING_ENV": "current", "OMP_NUM_THREADS": "1",
                   "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # fmt: skip
    return subprocess.run([str(RECIPE / "run.sh"), *options], env=environment, capture_output=True, text=True,
                          check=False, stdin=subprocess.DEVNULL)  # fmt: skip


@pytest.mark.processes
@pytest.mark.parametrize(
    "hears", [pytest.param("samples", marks=pytest.mark.slow), pytest.param("features", marks=pytest.mark.long)]
)
def test_from_speech_to_the_table(tmp_path: Path, hears: str) -> None:
    pytest.importorskip("espeakng_loader", reason="needed for the synthetic corpus")
    config = slurp_corpus.SlurpCorpusConfig(train_sentences=30, devel_sentences=4, test_sentences=6)
    slurp_corpus.make_corpus(config, tmp_path / "slurp", 1)
    places = ["--mini", "true", "--corpus-dir", str(tmp_path / "slurp"), "--data-dir", str(tmp_path / "data"),
              "--exp-dir", str(tmp_path / "exp"), "--hears", hears, "--nj", "1"]  # fmt: skip
    pruning = f"{STEPS} constraint.ramp_share=0.5 l0.gate_lr=0.5 l0.multiplier_lr=5 trainer.max_steps=12"
    result = run(*places, "--warm-up-args", f"{STEPS} {SMALL[hears]}", "--dense-args", STEPS, "--prune-args", pruning,
                 "--finetune-args", STEPS, "--target-macs", "0.3")  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    table = (tmp_path / "exp" / "RESULTS.md").read_text()
    assert "| dense " in table and "| pruned " in table and "The encoder of dense, pruned was not pre-trained" in table
    assert terminal.shown(table).strip() in result.stdout
    small = facts.read_facts(tmp_path / "exp" / "finetuned")
    assert small["macs_10s"] == pytest.approx(0.7 * small["dense"]["macs_10s"], rel=0.05)
    model, _ = checkpoint.load_model(tmp_path / "exp" / "finetuned")
    assert isinstance(model, SpeechModel) and model.config.task == "intent"
    again = run(*places, "--stage", "9")
    assert again.returncode == 0 and (tmp_path / "exp" / "RESULTS.md").read_text() == table, again.stderr[-2000:]


@pytest.mark.parametrize("folder", ["conf", "conf/mini", "conf/mini_features"])
@pytest.mark.parametrize("method", HJ)
def test_configurations_fit_each_other(folder: str, method: str) -> None:
    """Each can be read, the encoder can reach its targets, and distilled layers exist."""
    place = RECIPE / folder
    start = place if (place / "warm_up.yaml").is_file() else RECIPE / "conf" / "mini"
    warm_up = configuration.load(encoder_head.RunConfig, start / "warm_up.yaml")
    assert warm_up.model is not None and warm_up.task == "ctc"
    dense = configuration.load(encoder_head.RunConfig, place / "dense.yaml")
    assert dense.model is not None and not dense.model.encoder and dense.task == "intent"
    model = SpeechModel(SpeechModelConfig(warm_up.model.encoder, task="intent", outputs=5))
    part = "subsampling" if folder.endswith("features") else "frontend"
    targets = [setting.replace("frontend", part) for setting in TARGETS[method]]
    config = configuration.load(encoder_head.PruneConfig, place / "prune.yaml", [f"method={method}", *targets])
    assert list(new_pruner(model, config, config.trainer.seed).targets)
    if folder != "conf":  # there the encoder is given by the user
        assert max(config.distillation.layers) == model.encoder.config.num_layers  # type: ignore[union-attr]
    finetune = configuration.load(encoder_head.RunConfig, place / "finetune.yaml")
    assert finetune.model is None and finetune.distillation.layers == config.distillation.layers


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--hears", "pictures"], "--hears must be samples or features, got 'pictures'"),
        (["--annotations", "x"], "--annotations and --corpus-args need --mini true"),
        (["--corpus-args", "x"], "--annotations and --corpus-args need --mini true"),
        (["--pretrained", "x", "--warm-up", "true"], "--pretrained and a warm-up exclude each other"),
        (["--corpus-dir", "/nowhere", "--stop-stage", "0"], "the corpus directory /nowhere does not exist"),
        (["--conf", "nowhere", "--stage", "5"], "stage 5 needs nowhere/dense.yaml, which does not exist"),
        (["--speed"], "--speed"),
    ],
)
def test_complaints_come_first(options: list[str], complaint: str) -> None:
    result = run(*options)
    assert result.returncode != 0 and complaint in result.stderr and result.stderr.count("\n") == 1


def test_the_default_warm_up_finds_cuts_in_a_path_with_spaces(tmp_path: Path) -> None:
    data = tmp_path / "my data"
    (data / "cuts").mkdir(parents=True)
    options = ["--mini", "true", "--data-dir", str(data), "--exp-dir", str(tmp_path / "exp"), "--train-parts", "a b",
               "--stage", "4"]  # fmt: skip
    for part in ("a", "b", "devel"):
        missing = data / f"cuts/slurp_cuts_{part}.jsonl.gz"
        assert run(*options).stderr.startswith(f"error: stage 4 needs {missing}, which does not exist; run stage 2")
        missing.touch()
