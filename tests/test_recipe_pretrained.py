"""The recipe for pre-trained encoder-decoders: all stages on seconds of noise, configurations, error messages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pruning import configuration
from pruning.experiments import checkpoint
from pruning.files import read_json
from pruning.importers import small_network
from pruning.importers.small_network import SmallConfig
from pruning.kinds import encoder_decoder
from pruning.methods.choice import new_pruner
from pruning.methods.names import HJ
from pruning.models import facts
from pruning.speech.corpora import librispeech
from tests.corpus import MakeCorpus

pytest.importorskip("tokenizers", reason="the extra 'hf' is not installed")
RECIPE = Path(__file__).resolve().parents[1] / "egs" / "librispeech"
STEPS = ("trainer.max_steps=4 trainer.valid_interval=4 trainer.num_threads=1 trainer.tensorboard=false "
         "data.max_duration=15 data.num_buckets=1 data.drop_last=false")  # fmt: skip


def run(*options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PRUNING_ENV": "current", "OMP_NUM_THREADS": "1",
                   "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # fmt: skip
    return subprocess.run([str(RECIPE / "run_pretrained.sh"), *options], env=environment, capture_output=True,
                          text=True, check=False, stdin=subprocess.DEVNULL)  # fmt: skip


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("tune", ["true", pytest.param("false", marks=pytest.mark.long)])
def test_from_manifests_to_the_table(make_corpus: MakeCorpus, tmp_path: Path, tune: str) -> None:
    pytest.importorskip("whisper_normalizer", reason="the extra 'hf' is not installed")
    parts = {"train-a": 12, "dev-a": 4, "test-a": 3}
    corpus = make_corpus(tmp_path / "LibriSpeech", parts)
    librispeech.prepare(corpus, list(parts), tmp_path / "data" / "manifests")
    small_network.write(tmp_path / "network", ["One two.", "Three."], SmallConfig(width=32, vocab_size=270))
    given = [] if tune == "true" else ["--pretrained", str(tmp_path / "network"), "--labels", "equal"]
    pruning = f"{STEPS} constraint.ramp_share=0.5 l0.gate_lr=0.5 l0.multiplier_lr=5 trainer.max_steps=12"
    result = run("--mini", "true", "--tune", tune, *given, "--data-dir", str(tmp_path / "data"), "--exp-dir",
                 str(tmp_path / "exp"), "--train-parts", "train-a", "--dev-parts", "dev-a", "--test-parts", "test-a",
                 "--dense-args", STEPS, "--prune-args", pruning, "--finetune-args", STEPS, "--target-macs", "0.3",
                 *(["--exports", "onnx"] if tune == "true" else []))  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    began = {name: read_json(tmp_path / "exp" / name / "run.json")["inputs"] for name in ("pruned", "finetuned")}
    labels = read_json(tmp_path / "exp" / "labels" / "librispeech_cuts_train-a.jsonl.gz.labels.json")
    assert labels["kept"] == 12 and labels["parameters"]["labels"] == ("transcript" if tune == "true" else "equal")
    assert began["pruned"]["train_cuts"][0].startswith("librispeech_cuts_train-a.jsonl.gz ")
    table = (tmp_path / "exp" / "RESULTS_PRETRAINED.md").read_text()
    assert ("\n| original " in table) == (tune == "true")
    assert "\n| dense " in table and "\n| pruned " in table and "after the normaliser" in table
    small = facts.read_facts(tmp_path / "exp" / "finetuned")
    before, after = ({key: of[key] for key in ("macs_10s", "decoder_macs_10s", "output_macs_10s")}
                     for of in (small["dense"], small))  # fmt: skip
    assert sum(after.values()) == pytest.approx(0.7 * sum(before.values()), rel=0.05)
    network, header = checkpoint.load_model(tmp_path / "exp" / "finetuned")
    assert network.kind == "encoder_decoder" and header["pretrained"] == "network"
    assert (tmp_path / "exp" / "RESULTS_PRETRAINED.html").is_file()
    if tune == "true":
        card = (tmp_path / "exp" / "export" / "onnx" / "README.md").read_text()
        commands = [card.index(f"pruning.bin.{name} ") for name in ("train", "prune", "extract", "finetune", "export")]
        assert commands == sorted(commands) and "| test-a " in card


@pytest.mark.parametrize("folder", ["pretrained", "mini_pretrained"])
@pytest.mark.parametrize("method", HJ)
def test_configurations_fit_each_other(tmp_path: Path, folder: str, method: str) -> None:
    """Each can be read, and the small network of the recipe can reach the targets."""
    place = RECIPE / "conf" / folder
    for name in ("dense", "finetune"):
        assert configuration.load(encoder_decoder.RunConfig, place / f"{name}.yaml").model is None
    targets = {
        "hj-mac": [],
        "hj-size": ["constraint.size=0.3"],
        "hj-sepsize": ["constraint.parts={size:encoder_frontend: 0.5, size:encoder_attention+encoder_ffn: 0.5}"],
    }
    settings = [f"method={method}", *targets[method]]
    config = configuration.load(encoder_decoder.PruneConfig, place / "prune.yaml", settings)
    small_network.write(tmp_path, ["One two."], SmallConfig())
    from pruning.importers.encoder_decoder import load_encoder_decoder

    assert list(new_pruner(load_encoder_decoder(tmp_path), config, config.trainer.seed).targets)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "no network given; give --pretrained DIRECTORY"),
        (["--mini", "maybe"], "--mini must be true or false"),
        (["--mini", "true", "--labels", "guess"], "--labels must be transcript, equal or teacher, got 'guess'"),
        (["--mini", "true", "--tune", "maybe"], "--tune must be true or false"),
        (["--mini", "true", "--exports", "onnx tflite"], "--exports must be onnx, hugging_face or both, got 'tflite'"),
        (["--mini", "true", "--hears", "features"], "--hears is not for this recipe"),
        (["--mini", "true", "--warm-up", "true"], "--warm-up is not for this recipe"),
        (["--mini", "true", "--target", "0.4"], "--method hj-mac takes only --target-macs"),
        (["--mini", "true", "--data-dir", "nowhere"], "stage 2 needs nowhere/manifests/librispeech_supervisions_train"),
        (["--pretrained", "x", "--data-dir", "nowhere", "--stage", "4"], "stage 4 needs nowhere/cuts/librispeech_cuts"),
        (["--pretrained", "x", "--data-dir", "nowhere", "--stage", "6"], "stage 6 needs exp/pretrained/imported/.done"),
    ],
)
def test_complaints_come_first(options: list[str], complaint: str) -> None:
    result = run(*options)
    assert result.returncode != 0 and complaint in result.stderr and result.stderr.count("\n") == 1


def test_the_stage_to_run_first_is_the_one_that_makes_what_is_missing(tmp_path: Path) -> None:
    """Labels come from stage 4, the network from the import of stage 3; a teacher of another run must be finished."""
    given = [
        "--pretrained",
        "x",
        "--data-dir",
        str(tmp_path / "data"),
        "--exp-dir",
        str(tmp_path / "exp"),
        "--stage",
        "6",
    ]

    def told(*options: str) -> str:
        result = run(*given, *options)
        assert result.returncode != 0 and result.stderr.count("\n") == 1
        return result.stderr.strip()

    assert (
        told("--teacher", str(tmp_path / "none"))
        == f"error: --teacher {tmp_path / 'none'} is not a finished experiment"
    )
    assert told().endswith("imported/.done, which does not exist; run stage 3 first")
    assert told("--tune", "true").endswith("exp/dense/.done, which does not exist; run stage 5 first")
    (tmp_path / "exp" / "imported").mkdir(parents=True)
    (tmp_path / "exp" / "imported" / ".done").touch()
    assert told().endswith("labels/librispeech_cuts_train-clean-100.jsonl.gz, which does not exist; run stage 4 first")
