"""The unchanged template: from Kaldi data directories to features and tokens, and errors before any work is done."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from pruning import configuration
from pruning.kinds import language_model, transducer
from pruning.methods.choice import new_pruner
from pruning.models.transducer import Transducer
from pruning.models.transformer_lm import TransformerLM
from pruning.speech.data import manifests
from pruning.speech.text.bpe import Tokenizer

EGS = Path(__file__).resolve().parents[1] / "egs"
RECIPE = EGS / "TEMPLATE"


def make_kaldi_dirs(directory: Path) -> Path:
    """Write noise in Kaldi data directories: train with segments, dev and test with one recording per utterance."""
    generator = np.random.default_rng(0)
    for part, count in {"train": 6, "dev": 2, "test": 2}.items():
        (directory / part).mkdir(parents=True)
        tables: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": []}
        for index in range(count):
            audio = directory / f"{part}{index}.wav"
            soundfile.write(audio, generator.normal(scale=0.1, size=24000), 8000)
            tables["wav.scp"].append(f"{part}{index} {audio}\n")
            for utterance in _utterances(part, index):
                words = " ".join(generator.choice(["MORNING", "EVENING", "NIGHT"], size=2))
                tables["text"].append(f"{utterance} {words}\n")
                tables["utt2spk"].append(f"{utterance} {part}-speaker{index % 2}\n")
        if part == "train":
            tables["segments"] = [
                f"{utterance} {part}{index} {1.5 * place} {1.5 * place + 1.5}\n"
                for index in range(count)
                for place, utterance in enumerate(_utterances(part, index))
            ]
        for name, lines in tables.items():
            (directory / part / name).write_text("".join(lines))
    return directory


def _utterances(part: str, index: int) -> list[str]:
    return [f"{part}{index}-{half}" for half in "ab"] if part == "train" else [f"{part}{index}"]


def run(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the recipe with its files in a separate directory."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [str(RECIPE / "run.sh"), "--data-dir", f"{directory}/data", "--exp-dir", f"{directory}/exp", *options],
        env={**os.environ, "PRUNING_ENV": "current", "PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.processes
def test_kaldi_directories_become_features_and_tokens(tmp_path: Path) -> None:
    corpus = make_kaldi_dirs(tmp_path / "kaldi")
    options = ["--corpus-dir", str(corpus), "--stop-stage", "3", "--nj", "1", "--unit", "char", "--vocab-size", ""]
    result = run(tmp_path, *options)
    assert result.returncode == 0, result.stderr
    paths = manifests.Paths(tmp_path / "data/fbank", "mycorpus")
    cuts = list(manifests.iterate_cuts(paths.cuts("train")))
    assert len(cuts) == 3 * 12 and {round(cut.duration, 2) for cut in cuts} == {1.5, 1.36, 1.67}
    assert {cut.num_features for cut in cuts} == {80} and {cut.sampling_rate for cut in cuts} == {16000}
    assert [manifests.count_lines(paths.cuts(part)) for part in ("dev", "test")] == [2, 2]
    described = (tmp_path / "data/statistics.md").read_text()
    assert described.startswith("## Data") and "mycorpus_cuts_train" in described and "--lang-dir" in described
    tokens = Tokenizer(tmp_path / "data/lang_char").tokens()
    assert set("MORNINGEVENINGNIGHT") <= set(tokens) and tokens[0] == "<blk>"


def test_a_part_that_is_wrong_leaves_no_manifest_of_the_others(tmp_path: Path) -> None:
    """Otherwise a changed `read_part` that splits the corpus differently would skip train, which may contain dev."""
    corpus = make_kaldi_dirs(tmp_path / "kaldi")
    (corpus / "dev/text").write_text("dev0 MORNING\n")
    result = run(tmp_path, "--corpus-dir", str(corpus), "--stop-stage", "1")
    assert result.returncode == 1 and "dev/text has no line for dev1; add the line" in result.stderr.splitlines()[-1]
    assert not list((tmp_path / "data").rglob("*.jsonl.gz"))
    (corpus / "dev/text").write_text("dev0 MORNING\ndev1 NIGHT\n")
    assert run(tmp_path, "--corpus-dir", str(corpus), "--stop-stage", "1").returncode == 0
    paths = manifests.Paths(tmp_path / "data/manifests", "mycorpus")
    assert [manifests.count_lines(paths.supervisions(part)) for part in ("train", "dev", "test")] == [12, 2, 2]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "no corpus given; give --corpus-dir"),
        (["--corpus-dir", "/no/such"], "the corpus directory /no/such does not exist"),
        (["--num-nodes", "2"], "--num-nodes 2 needs Slurm; give --cmd-backend slurm, or --num-processes alone"),
        (["--num-processes", "two"], "--num-processes must be a positive number, got 'two'"),
        (["--nj", "0"], "--nj must be a positive number, got '0'"),
        (["--num-threads", "x"], "--num-threads must be a positive number, got 'x'"),
        (["--stage", "2"], "mycorpus_supervisions_train.jsonl.gz, which does not exist; run stage 1 first"),
        (["--unit", "phone"], "--unit must be unigram, bpe, char or word, got 'phone'"),
        (["--vocab-size", ""], "--unit unigram needs --vocab-size"),
        (["--dev-parts", ""], "--dev-parts is empty; name at least one"),
        (["--train-parts", " "], "--train-parts is empty"),
        (["--test-parts", ""], "--test-parts is empty"),
        (["--score-in", "letters"], "--score-in must be words or characters, got 'letters'"),
        (["--mini", "true"], "unknown option --mini"),
        (["--method", "tailor"], "error: stage 5 (prune): argument --method: invalid choice: 'tailor'"),
        (["--methods", "greedy_serch"], "error: stage 9 (decode): method must be one of "),
        (["--prune-args", "l0.gate_lrr=1"], "error: stage 5 (prune): "),
        (["--target", "1.5"], "error: stage 5 (prune): "),
    ],
)
def test_bad_input_is_told_in_one_line(tmp_path: Path, options: list[str], complaint: str) -> None:
    result = run(tmp_path, *options)
    assert result.returncode != 0 and complaint in result.stderr and result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_table_is_of_the_epoch_that_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "exp/teacher/greedy_search").mkdir(parents=True)
    options = ["--stage", "10", "--systems", "teacher", "--methods", "greedy_search", "--epoch", "3", "--avg", "2"]
    result = run(tmp_path, *options)
    assert result.returncode == 1
    assert "none of teacher was decoded with greedy_search, --epoch 3, --avg 2; run" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("folder", ["TEMPLATE/conf", "an4/conf"])
def test_configurations_are_whole_and_fair(folder: str) -> None:
    """Each can be read, distils layers that the teacher has, and gives the uniform model the steps of the others."""
    config = {
        name: configuration.load(kind, EGS / folder / f"{name}.yaml")
        for name, kind in {
            "prune": transducer.PruneConfig,
            **dict.fromkeys(("teacher", "finetune", "uniform"), transducer.RunConfig),
        }.items()
    }
    teacher = config["teacher"].model
    assert teacher is not None and max(teacher.encoder.num_heads) > 0
    assert all(config[name].model is None for name in ("prune", "finetune", "uniform"))
    for name in ("prune", "finetune"):
        assert config[name].distillation.wanted
        assert max(config[name].distillation.layers) == teacher.encoder.num_layers
    steps = {name: config[name].trainer.max_steps for name in config}
    assert steps["uniform"] == steps["teacher"] + steps["prune"] + steps["finetune"]
    gating, constraint = config["prune"].l0, config["prune"].constraint
    assert 7 / gating.gate_lr < steps["prune"] * (1 - constraint.ramp_share)
    shared = [{key: yaml.safe_load((EGS / folder / f"{name}.yaml").read_text())[key] for key in ("data", "loss")}
              for name in ("teacher", "uniform")]  # fmt: skip
    assert shared[0] == shared[1]


@pytest.mark.parametrize("folder", ["TEMPLATE/conf", "an4/conf", "librispeech/conf/lm", "librispeech/conf/mini"])
def test_configurations_of_language_models_fit_each_other(folder: str) -> None:
    """Each can be read, and the network of the first configuration can reach the target of the second."""
    kinds = {
        "lm": language_model.RunConfig,
        "lm_prune": language_model.PruneConfig,
        "lm_finetune": language_model.RunConfig,
    }
    config = {name: configuration.load(kind, EGS / folder / f"{name}.yaml") for name, kind in kinds.items()}
    assert config["lm"].model is not None and config["lm_prune"].model is config["lm_finetune"].model is None
    dense = TransformerLM(replace(config["lm"].model, vocab_size=30))
    pruner = new_pruner(dense, replace(config["lm_prune"], method="magnitude"), seed=1)
    assert pruner.targets


def test_the_teacher_for_an4_is_as_large_as_its_configuration_says() -> None:
    config = configuration.load(transducer.RunConfig, EGS / "an4/conf/teacher.yaml").model
    assert config is not None
    encoder = Transducer(replace(config, vocab_size=30)).encoder
    assert 1.40e6 < sum(parameter.numel() for parameter in encoder.parameters()) < 1.45e6


def test_recipes_share_their_cluster_configurations() -> None:
    for name in ("slurm.conf", "sge.conf"):
        assert len({(EGS / recipe / "conf" / name).read_text() for recipe in ("librispeech", "an4", "TEMPLATE")}) == 1
