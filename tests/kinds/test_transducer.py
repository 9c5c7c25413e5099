"""From teacher to fine-tuned network on seconds of data: resumed runs equal uninterrupted ones, bad input stops."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pytest
import torch
from safetensors.torch import load_file

from pruning import configuration
from pruning.bin import decode, extract, finetune, gradient_shares, prune
from pruning.core.distillation import DistillationConfig, LayerDistillation
from pruning.core.structure import Structure
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.experiments.structure_files import found_structure, read_structure
from pruning.files import read_json, write_json
from pruning.kinds import train_and_prune as runs
from pruning.kinds import transducer
from pruning.kinds.kind import Inputs
from pruning.kinds.transducer import TransducerKind
from pruning.models import facts
from pruning.models.conformer import ConformerConfig
from pruning.models.transducer import TransducerConfig
from pruning.speech.data.batches import training_batches
from pruning.speech.data.data_config import DataConfig
from pruning.speech.losses.combined import LossConfig
from pruning.speech.text.bpe import Tokenizer
from pruning.speech.text.bpe import train as train_bpe
from pruning.training.trainer_config import TrainerConfig
from tests import forked
from tests.training import kill_at_random

REPOSITORY = Path(__file__).resolve().parents[2]
DISTILLATION = "distillation:\n  layers: [0, 2]\n  output_weight: 0.1\n  ctc_weight: 0.1\n"
COMMON = """
loss: {backend: torch, ctc_weight: 0.3}
data: {max_duration: 15, num_buckets: 2, num_workers: 0}
trainer: {max_steps: 12, num_threads: 1, valid_interval: 5, state_interval: 1, tensorboard: false, log_interval: 2}
"""
GATING = """
constraint: {size: 0.5, ramp_share: 0.4}
gating: {gate_lr: 0.3, multiplier_lr: 0.3}
criterion: {interval: 2}
"""


def inputs(data_dir: Path) -> Inputs:
    cuts = data_dir / "fbank"
    train = [cuts / f"librispeech_cuts_{part}.jsonl.gz" for part in ("train-a", "train-b")]
    return Inputs(train, [cuts / "librispeech_cuts_dev.jsonl.gz"], data_dir / "lang_bpe_30")


def dimensions() -> TransducerConfig:
    encoder = ConformerConfig(
        d_model=24,
        num_layers=2,
        head_dim=8,
        num_heads=(3,),
        macaron_dim=(48,),
        ffn_dim=(48,),
        conv_channels=(24,),
        conv_kernel=5,
        subsampling_channels=(6, 6),
        subsampling_strides=(2, 2),
    )
    return TransducerConfig(encoder=encoder, decoder_dim=12, joiner_dim=12)


@pytest.fixture(scope="module")
def work(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a trained teacher and the configurations of later runs."""
    directory = tmp_path_factory.mktemp("runs")
    (directory / "train.yaml").write_text(COMMON)
    (directory / "finetune.yaml").write_text(COMMON + DISTILLATION)
    (directory / "prune.yaml").write_text(COMMON + DISTILLATION + GATING)
    trainer = TrainerConfig(max_steps=6, num_threads=1, tensorboard=False)
    config = transducer.RunConfig(
        model=dimensions(),
        loss=LossConfig(backend="torch", ctc_weight=0.3),
        data=DataConfig(max_duration=15, num_buckets=2, num_workers=0),
        trainer=trainer,
    )
    runs.train(TransducerKind(config, inputs(data_dir)), directory / "teacher")
    return directory


def command(name: str, data_dir: Path, *arguments: str) -> list[str]:
    data = inputs(data_dir)
    return [
        sys.executable, "-m", f"pruning.bin.{name}", "--lang-dir", str(data.lang_dir),
        "--train-cuts", *map(str, data.train), "--dev-cuts", *map(str, data.dev), *arguments,
    ]  # fmt: skip


def run(arguments: list[str], kill_after_step: Optional[int] = None, exp_dir: Optional[Path] = None) -> str:
    """Run a command to the end, or kill it with SIGKILL once the state of a step exists; return its output."""
    if kill_after_step is None:
        done = forked.python(arguments[1:])
        return done.stdout + done.stderr
    assert exp_dir is not None
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    while process.poll() is None and not any(f"step {kill_after_step}/" in line for line in process.stdout or []):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    return output


SHIFTED = ("l0.gates.start=taylor", "l0.start_batches=2", "l0.control=shift", "l0.gate_steps=kind")


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("settings", [pytest.param((), marks=pytest.mark.long), SHIFTED])
def test_pruning_killed_at_random_moments_ends_bit_equal(
    work: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
) -> None:
    """Few kills; kill_at_random is also a program, for more."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    arguments = command("prune", data_dir, "--config", str(work / "prune.yaml"), "--teacher", str(work / "teacher"))
    arguments += settings
    durations = kill_at_random.undisturbed(arguments, tmp_path / "whole")
    kill_at_random.disturbed(arguments, tmp_path / "killed", 3, 0, durations)
    kill_at_random.compare(tmp_path / "whole", tmp_path / "killed")
    assert (tmp_path / "killed" / "structure.json").exists(), "also of gates"


def test_gates_start_from_scores_and_follow_the_ramp(work: Path, data_dir: Path, tmp_path: Path) -> None:
    config = configuration.load(transducer.PruneConfig, work / "prune.yaml", [*SHIFTED, "trainer.log_interval=1"])
    runs.prune(TransducerKind(config, inputs(data_dir)), tmp_path / "pruned", work / "teacher")
    rows = [json.loads(line) for line in (tmp_path / "pruned" / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["kind"] == "train"]
    asked = [(row["sparsity/size/target"], row["sparsity/size/expected"]) for row in rows]
    assert len(asked) == 12 and asked[-1][0] == 0.5
    assert all(expected == pytest.approx(target, abs=1e-3) for target, expected in asked if target > 0.15)
    assert not any(key.startswith("multipliers/") for row in rows for key in row)
    scores = torch.cat(
        [torch.as_tensor(group.scores) for group in found_structure(tmp_path / "pruned").groups.values()]
    )
    assert scores.max() - scores.min() > 4, "log alpha was spread"


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("method", ["taylor", pytest.param("activation", marks=pytest.mark.long)])
def test_a_criterion_killed_and_started_again_ends_bit_equal(work: Path, data_dir: Path, method: str) -> None:
    for name in ("whole", "killed"):
        exp_dir = work / f"{name}-{method}"
        arguments = command(
            "prune", data_dir, "--method", method, "--config", str(work / "prune.yaml"),
            "--teacher", str(work / "teacher"), "--exp-dir", str(exp_dir),
        )  # fmt: skip
        if name == "killed":
            run(arguments, kill_after_step=4, exp_dir=exp_dir)
        output = run(arguments)
        assert (exp_dir / ".done").exists(), output
    whole, killed = (work / f"{name}-{method}" for name in ("whole", "killed"))
    weights = load_file(killed / "best.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in load_file(whole / "best.safetensors").items())
    assert read_json(whole / "structure.json") == read_json(killed / "structure.json")
    assert "method: " + method in (whole / "config.yaml").read_text()


@pytest.mark.slow
@pytest.mark.processes
def test_the_structure_of_one_run_serves_others(work: Path, data_dir: Path) -> None:
    """Other runs use its counts with random units, and its structure with fresh weights."""
    config = configuration.load(transducer.PruneConfig, work / "prune.yaml",
                                ["method=magnitude", "constraint.ramp=one_shot"])  # fmt: skip
    runs.prune(TransducerKind(config, inputs(data_dir)), work / "magnitude", work / "teacher")
    found = read_structure(work / "magnitude" / "structure.json")
    drawn = replace(config, method="random", counts_from=str(work / "magnitude"))
    runs.prune(TransducerKind(drawn, inputs(data_dir)), work / "drawn", work / "teacher")
    other = found_structure(work / "drawn")
    assert all(other.count(name) == found.count(name) for name in found.groups)
    assert any(other.groups[name].kept != found.groups[name].kept for name in found.groups)

    fresh = ["--pruned", str(work / "magnitude"), "--exp-dir", str(work / "fresh"), "--reinitialise", "7"]
    inherited = ["--pruned", str(work / "magnitude"), "--exp-dir", str(work / "inherited")]
    for arguments in (fresh, inherited):
        run([sys.executable, "-m", "pruning.bin.extract", *arguments])
    (new, _), (old, _) = (checkpoint.load_model(work / name) for name in ("fresh", "inherited"))
    assert {k: v.shape for k, v in new.state_dict().items()} == {k: v.shape for k, v in old.state_dict().items()}
    assert torch.equal(new.encoder.feature_mean, old.encoder.feature_mean)  # type: ignore[union-attr,arg-type]
    assert not torch.equal(new.joiner.output.weight, old.joiner.output.weight)  # type: ignore[union-attr,arg-type]
    assert "another --reinitialise" in run([sys.executable, "-m", "pruning.bin.extract", *fresh[:-1], "8"])


@pytest.mark.slow
@pytest.mark.processes
def test_post_training_pruning_trains_no_weight_and_repairs(work: Path, data_dir: Path) -> None:
    settings = ["method=taylor", "constraint.ramp=one_shot", "constraint.ramp_share=0.8", "trainer.max_steps=5",
                "trainer.optimiser.lr=0", "constraint.size=0.3"]  # fmt: skip
    config = configuration.load(transducer.PruneConfig, work / "prune.yaml", settings)
    runs.prune(TransducerKind(config, inputs(data_dir)), work / "post", work / "teacher")
    (after, _), (before, _) = (checkpoint.load_model(work / name) for name in ("post", "teacher"))
    weights = dict(before.named_parameters())
    assert all(torch.equal(parameter, weights[name]) for name, parameter in after.named_parameters())
    data = inputs(data_dir)
    arguments = ["--pruned", str(work / "post"), "--train-cuts", *map(str, data.train), "--lang-dir",
                 str(data.lang_dir), "--max-duration", "15"]  # fmt: skip
    for name, more in {"cut": [], "repaired": ["--repair", "40", "--teacher", str(work / "teacher")]}.items():
        output = run([sys.executable, "-m", "pruning.bin.extract", *arguments, "--exp-dir", str(work / name), *more])
        assert ("modules repaired on" in output) == (name == "repaired"), output
    (cut, _), (repaired, _) = (checkpoint.load_model(work / name) for name in ("cut", "repaired"))
    batch = next(training_batches(config.data, data.dev, Tokenizer(data.lang_dir), 0, 1))
    with torch.no_grad():
        wanted, *got = (net.eval()(batch.features, batch.lengths).output for net in (before, cut, repaired))
    errors = [(output - wanted).pow(2).mean().item() for output in got]
    assert errors[1] < errors[0], "on speech that repair did not use"


@pytest.mark.processes
def test_pruned_extracted_and_fine_tuned(work: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configuration.load(transducer.PruneConfig, work / "prune.yaml")
    runs.prune(TransducerKind(config, inputs(data_dir)), work / "pruned", work / "teacher")
    structure = Structure.from_dict(read_json(work / "pruned" / "structure.json"))
    arguments = ["--pruned", str(work / "pruned"), "--exp-dir", str(work / "small"), "--print"]
    data = inputs(data_dir)
    cuts = ["--train-cuts", *map(str, data.train), "--lang-dir", str(data.lang_dir), "--max-duration", "15"]
    output = run([sys.executable, "-m", "pruning.bin.extract", *arguments, *cuts])
    assert "subsampling" in output
    assert "batch norms re-estimated" in output
    small, header = checkpoint.load_model(work / "small")
    assert header["exactness"] <= 1e-4
    known = facts.read_facts(work / "small")
    sparsity = 1 - known["encoder_parameters"] / known["dense"]["encoder_parameters"]
    assert sparsity == pytest.approx(0.5, abs=0.01)
    assert known["encoder_parameters"] == sum(parameter.numel() for parameter in small.encoder.parameters())
    assert sum(len(group["kept"]) for group in header["structure"]["groups"].values()) == sum(
        structure.count(name) for name in structure.groups
    )
    assert "is already extracted" in run([sys.executable, "-m", "pruning.bin.extract", *arguments, *cuts])

    for config, source in (("prune", "pruned"), ("finetune", "small")):  # the same network, masked and extracted
        words = command("gradient_shares", data_dir, "--config", str(work / f"{config}.yaml"), "--init",
                        str(work / source), "--teacher", str(work / "teacher"), "--batches", "1")[3:]  # fmt: skip
        gradient_shares.main(words)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:6]] == ["task", "distil_layers", "distil_output", "distil_ctc"]
    assert lines[0].split() == ["term", "blocks", "subsampling", "network"] and lines[:2] == lines[6:8]

    fine = configuration.load(transducer.RunConfig, work / "finetune.yaml")
    runs.train(TransducerKind(fine, inputs(data_dir)), work / "fine", init=work / "small", teacher=work / "teacher")
    tuned, tuned_header = checkpoint.load_model(work / "fine")
    assert tuned_header["structure"] == header["structure"]
    assert tuned.state_dict().keys() == small.state_dict().keys()
    assert facts.read_facts(work / "fine")["dense"] == known["dense"]

    dimensions_file = work / "uniform.json"
    run([sys.executable, "-m", "pruning.bin.uniform", "--dense", str(work / "teacher"), "--reference",
         str(work / "small"), "--output", str(dimensions_file)])  # fmt: skip
    uniform = TransducerConfig.from_dict(read_json(dimensions_file))
    assert uniform.encoder.d_model == 24
    assert uniform.encoder.ffn_dim[0] < 48


def test_a_narrower_stream_by_the_commands(
    work: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Remove channels of the residual stream with other units; fine-tune from the teacher's layers, and decode."""
    data = inputs(data_dir)
    lang_dir, train = ["--lang-dir", str(data.lang_dir)], ["--train-cuts", *map(str, data.train)]
    files = [*lang_dir, *train, "--dev-cuts", *map(str, data.dev)]
    pruned, small, fine, teacher = (str(place) for place in (*(tmp_path / name for name in ("pruned", "small", "fine")),
                                                             work / "teacher"))  # fmt: skip
    prune.main(["--config", str(work / "prune.yaml"), "--exp-dir", pruned, "--teacher", teacher, *files, "--method",
                "magnitude", "criterion.kinds=[heads,ffn,conv,width]", "criterion.ranking=group"])  # fmt: skip
    extract.main(["--pruned", pruned, "--exp-dir", small, "--repair", "4", "--round-to", "4", *lang_dir, *train,
                  "--max-duration", "15"])  # fmt: skip
    network, header = checkpoint.load_model(small)
    assert header["exactness"] < 1e-4
    width = network.config.encoder.d_model
    assert width in (16, 20) and network.config.encoder.dense_dim == 24
    kept = facts.read_facts(small)
    assert kept["encoder_parameters"] == sum(parameter.numel() for parameter in network.encoder.parameters())
    selected: list[int] = []
    select = LayerDistillation.select

    def seen(distillation: LayerDistillation, structure: Structure) -> None:
        select(distillation, structure)
        selected.append(int(distillation.projections[0].get_parameter("weight").count_nonzero()))

    monkeypatch.setattr(LayerDistillation, "select", seen)
    finetune.main(["--config", str(work / "finetune.yaml"), "--exp-dir", fine, "--init", small, "--teacher", teacher,
                   *files])  # fmt: skip
    assert selected == [width]
    tuned, _ = checkpoint.load_model(fine)
    assert tuned.config == network.config
    decode.main(["--exp-dir", fine, "--cuts", str(data.dev[0]), *lang_dir, "--method", "greedy_search"])
    assert list((Path(fine) / "greedy_search").glob("recogs-*.txt"))


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("method", ["l0", pytest.param("taylor", marks=pytest.mark.long)])
def test_two_processes_prune_together(work: Path, data_dir: Path, method: str) -> None:
    """Through torchrun, like --num-processes 2: one checkpoint, one log, each process its share of batches."""
    two = work / f"two-{method}"
    arguments = command(
        "prune", data_dir, "--method", method, "--config", str(work / "prune.yaml"), "--teacher", str(work / "teacher"),
        "--exp-dir", str(two), "trainer.max_steps=4", "data.max_duration=8",
    )  # fmt: skip
    launcher = [sys.executable, "-m", "pruning.bin.torchrun", "--standalone", "--nproc_per_node", "2"]
    output = run([*launcher, *arguments[1:]])
    assert (two / ".done").exists(), output
    assert read_json(two / ".done")["step"] == 4
    weights = load_file(two / "epoch-1.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    lines = [json.loads(line) for line in (two / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["kind"] == "train"]
    assert steps == sorted(set(steps)), "only the first process writes"


def train_error(work: Path, data_dir: Path, *arguments: str, name: str = "train", config: str = "train.yaml") -> str:
    """Run a command with bad input; return its one error line."""
    exp_dir = work / "refused"
    output = run(command(name, data_dir, "--config", str(work / config), "--exp-dir", str(exp_dir), *arguments))
    lines = output.strip().splitlines()
    assert lines[-1].startswith("error: "), output
    assert not any(exp_dir.glob("*.safetensors"))
    return lines[-1]


@pytest.mark.slow
@pytest.mark.processes
def test_bad_input_of_training_commands(work: Path, data_dir: Path) -> None:
    teacher = str(work / "teacher")
    assert "trainer.max_stpes" in train_error(work, data_dir, "trainer.max_stpes=3")
    assert "has no 'model'" in train_error(work, data_dir)
    assert "give --teacher" in train_error(work, data_dir, "--init", teacher, config="finetune.yaml")
    prune = ("--teacher", teacher)
    line = train_error(work, data_dir, *prune, "constraint.size=0.999", name="prune", config="prune.yaml")
    assert "beyond reach: at most 0.9" in line
    line = train_error(work, data_dir, *prune, "distillation.layers=[7]", name="prune", config="prune.yaml")
    assert "the teacher has layers 0 (input) to 2; choose among these, such as distillation.layers=[0,1,2]" in line
    line = train_error(work, data_dir, "--teacher", str(work / "nothing"), name="prune", config="prune.yaml")
    assert "nothing" in line


def test_features_of_another_width_are_told_before_training(data_dir: Path, tmp_path: Path) -> None:
    whole = dimensions()
    config = transducer.RunConfig(model=replace(whole, encoder=replace(whole.encoder, feature_dim=40)))
    with pytest.raises(UserError, match="has features of dimension 80, but the network takes 40; give cuts"):
        runs.train(TransducerKind(config, inputs(data_dir)), tmp_path / "exp")
    assert not (tmp_path / "exp").exists()


def test_features_of_another_rate_are_told_to_those_who_go_on(work: Path, data_dir: Path, tmp_path: Path) -> None:
    """Features of telephone speech have as many bins, so that only the rate tells them apart."""
    header = checkpoint.read_header(work / "teacher" / "best.safetensors")
    assert header["features"] == {"sampling_rate": 16000, "frame_shift": 0.01}
    model, _ = checkpoint.load_model(work / "teacher")
    other = tmp_path / "telephone.safetensors"
    checkpoint.save_model(other, model, {**header, "features": {"sampling_rate": 8000, "frame_shift": 0.01}})
    message = "has features of sampling rate 16000, but those of the training of .*telephone.safetensors have 8000"
    config = small_run(max_steps=1)
    with pytest.raises(UserError, match=message):
        runs.train(TransducerKind(replace(config, model=None), inputs(data_dir)), tmp_path / "exp", init=other)
    taught = replace(config, distillation=DistillationConfig(layers=[0]))
    with pytest.raises(UserError, match=message):
        runs.train(TransducerKind(taught, inputs(data_dir)), tmp_path / "exp", teacher=other)
    assert not (tmp_path / "exp").exists()
    cuts = str(inputs(data_dir).dev[0])
    wanted = ["--checkpoint", str(other), "--lang-dir", str(inputs(data_dir).lang_dir), "--cuts", cuts]
    with pytest.raises(UserError, match=message):
        decode.main(wanted)
    unknown = {key: value for key, value in header.items() if key != "features"}
    checkpoint.save_model(other, model, unknown)  # as imports of icefall are, and checkpoints of before
    runs.train(TransducerKind(replace(config, model=None), inputs(data_dir)), tmp_path / "exp", init=other)
    assert "features" in checkpoint.read_header(tmp_path / "exp" / "best.safetensors")


def test_long_dev_utterances_are_told_before_training(data_dir: Path, tmp_path: Path) -> None:
    config = small_run(data={"max_duration": 1.0, "max_evaluated_duration": 1.0})
    with pytest.raises(UserError, match="cut 3-7-.* but cuts of dev and test sets may last 1 s; divide its recording"):
        runs.train(TransducerKind(config, inputs(data_dir)), tmp_path / "exp")
    assert not (tmp_path / "exp").exists()


class Recorded:
    """Replacement of the trainer that records its arguments."""

    given: dict[str, Any]

    def __init__(self, config: TrainerConfig, **options: Any) -> None:
        Recorded.given = options

    def run(self) -> None:
        """Do nothing."""


def small_run(**settings: Any) -> transducer.RunConfig:
    data = {"max_duration": 15, "num_buckets": 2, "num_workers": 0, **settings.pop("data", {})}
    trainer = TrainerConfig(**{"num_threads": 1, "tensorboard": False, **settings})
    return transducer.RunConfig(model=dimensions(), data=DataConfig(**data), trainer=trainer)


def test_of_two_ends_the_first_is_known(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "Trainer", Recorded)
    runs.train(TransducerKind(small_run(num_epochs=2, max_steps=1000), inputs(data_dir)), tmp_path / "both")
    counted = Recorded.given["steps_per_epoch"]
    assert counted == pytest.approx(len(list(Recorded.given["train_batches"](1, 0))), abs=2)
    runs.train(TransducerKind(small_run(max_steps=1000), inputs(data_dir)), tmp_path / "steps")
    assert Recorded.given["steps_per_epoch"] is None, "counting takes time"


def test_noise_is_one_of_the_inputs(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "Trainer", Recorded)
    noise = tmp_path / "musan_cuts.jsonl.gz"
    shutil.copy(inputs(data_dir).dev[0], noise)
    config = small_run(max_steps=9, data={"musan_cuts": str(noise)})
    runs.train(TransducerKind(config, inputs(data_dir)), tmp_path / "exp")
    (told,) = Recorded.given["inputs"]["musan_cuts"]
    assert told.startswith("musan_cuts.jsonl.gz ")
    with pytest.raises(UserError, match="nothing.jsonl.gz does not exist"):
        missing = {"musan_cuts": str(tmp_path / "nothing.jsonl.gz"), "musan_probability": 0.0}
        runs.train(TransducerKind(small_run(max_steps=9, data=missing), inputs(data_dir)), tmp_path / "exp")


def test_a_refused_run_leaves_the_facts_of_the_one_that_is_there(work: Path, data_dir: Path) -> None:
    before = (work / "teacher" / facts.FILE).read_bytes()
    wider = replace(small_run(max_steps=6), model=replace(dimensions(), joiner_dim=20))
    with pytest.raises(UserError, match="was started with"):
        runs.train(TransducerKind(wider, inputs(data_dir)), work / "teacher")
    assert (work / "teacher" / facts.FILE).read_bytes() == before


def test_an_unfinished_pruning_run_has_no_structure(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no best checkpoint"):
        found_structure(tmp_path)


def test_a_checkpoint_with_another_bpe_model_is_refused(work: Path, data_dir: Path, tmp_path: Path) -> None:
    texts = ["SOME OTHER WORDS ENTIRELY", "A QUITE DIFFERENT TEXT WITH LETTERS"]
    train_bpe(texts, tmp_path / "lang_bpe_25", 25, "unigram")
    other = Inputs(inputs(data_dir).train, inputs(data_dir).dev, tmp_path / "lang_bpe_25")
    config = configuration.load(transducer.RunConfig, work / "train.yaml")
    with pytest.raises(UserError, match="bpe.model|pieces|tokens"):
        runs.train(TransducerKind(config, other), tmp_path / "exp", init=work / "teacher")
    assert not (tmp_path / "exp").exists()


def test_a_checkpoint_of_another_architecture_is_refused(work: Path, data_dir: Path, tmp_path: Path) -> None:
    weights = load_file(work / "teacher" / "best.safetensors")
    header = checkpoint.read_header(work / "teacher" / "best.safetensors")
    header["model"]["config"]["encoder"]["ffn_dim"] = [40, 48]
    checkpoint.save_weights(tmp_path / "other.safetensors", weights, header)
    with pytest.raises(UserError, match="another architecture: tensor encoder.layers.0.ffn"):
        checkpoint.load_model(tmp_path / "other.safetensors")
    header["model"] = {"type": "zipformer", "config": {}}
    checkpoint.save_weights(tmp_path / "other.safetensors", weights, header)
    with pytest.raises(UserError, match="'zipformer'; this version supports .*transducer"):
        checkpoint.load_model(tmp_path / "other.safetensors")


def test_a_structure_of_another_network_is_refused_at_extraction(work: Path, tmp_path: Path) -> None:
    structure = {"groups": {"encoder.layers.0.ffn": {"kind": "ffn_module", "size": 1, "kept": [0]}}}
    write_json(tmp_path / "structure.json", structure)
    output = run([sys.executable, "-m", "pruning.bin.extract", "--pruned", str(work / "teacher"), "--exp-dir",
                  str(tmp_path / "out"), "--structure", str(tmp_path / "structure.json")])  # fmt: skip
    assert output.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "out").exists()
