"""The AN4 recipe: manifests from an artificial corpus in AN4's layout, error messages, and all stages on seconds."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from pruning.errors import UserError
from pruning.files import read_json

RECIPE = Path(__file__).resolve().parents[1] / "egs" / "an4"
WORDS = ["YES", "NO", "GO", "ENTER", "A", "B", "F", "SEVEN", "ERASE"]
SPEAKERS = {"an4_clstk": ["fash", "mdcs", "mdcs2", "mjgk", "fkai"], "an4test_clstk": ["fcaw", "mmxg"]}
STEPS = (
    "trainer.max_steps=2 trainer.valid_interval=0 trainer.num_threads=1 trainer.tensorboard=false "
    "data.max_duration=15 data.num_buckets=2"
)
DIMENSIONS = (
    "model.encoder.num_layers=2 model.encoder.d_model=32 model.encoder.head_dim=16 model.encoder.num_heads=[2] "
    "model.encoder.macaron_dim=[32] model.encoder.ffn_dim=[32] model.encoder.conv_channels=[32] "
    "model.encoder.subsampling_channels=[4,4] model.decoder_dim=32 model.joiner_dim=32"
)


def program() -> ModuleType:
    specification = importlib.util.spec_from_file_location("an4_manifests", RECIPE / "local/prepare_manifests.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


an4 = program()


def make_an4(directory: Path, per_speaker: int = 4) -> Path:
    """Write noise in AN4's layout: SPHERE files, lists of files, transcripts (for training with sentence marks)."""
    generator = np.random.default_rng(0)
    (directory / "etc").mkdir(parents=True)
    number = 0
    for name, folder in (("train", "an4_clstk"), ("test", "an4test_clstk")):
        listed, transcribed = [], []
        for speaker in SPEAKERS[folder]:
            (directory / "wav" / folder / speaker).mkdir(parents=True)
            for _ in range(per_speaker):
                number += 1
                entry = f"{folder}/{speaker}/an{number}-{speaker}-b"
                samples = generator.normal(scale=0.1, size=int(16000 * generator.uniform(1.2, 2.0)))
                soundfile.write(directory / "wav" / f"{entry}.sph", samples, 16000, format="NIST", subtype="PCM_16")
                words = " ".join(generator.choice(WORDS, size=int(generator.integers(1, 4))))
                listed.append(f"{entry}\n")
                identifier = f"(an{number}-{speaker}-b)\n"
                transcribed.append(f"<s> {words} </s> {identifier}" if name == "train" else f"{words} {identifier}")
        (directory / "etc" / f"an4_{name}.fileids").write_text("".join(listed))
        (directory / "etc" / f"an4_{name}.transcription").write_text("".join(transcribed))
    return directory


def prepare(corpus: Path, data: Path, *options: str) -> None:
    an4.main(["--corpus-dir", str(corpus), "--data-dir", str(data), "--dev-speakers", "2", *options])


def supervisions(data: Path, part: str) -> dict[str, tuple[str, str]]:
    """Return speaker and text of each utterance of a manifest."""
    from lhotse import load_manifest

    loaded = load_manifest(data / "manifests" / f"an4_supervisions_{part}.jsonl.gz")
    return {each.id: (each.speaker, each.text) for each in loaded}


def test_manifests_hold_the_corpus(tmp_path: Path) -> None:
    corpus = make_an4(tmp_path / "an4")
    prepare(corpus, tmp_path / "data")
    found = {part: supervisions(tmp_path / "data", part) for part in ("train", "dev", "test")}
    lines = "".join(path.read_text() for path in (corpus / "etc").glob("*.transcription")).splitlines()
    together = {**found["train"], **found["dev"], **found["test"]}
    assert len(together) == len(lines) == sum(len(part) for part in found.values())
    for line in lines:
        words = line.replace("<s>", "").replace("</s>", "").split()
        assert together[words[-1].strip("()")][1] == " ".join(words[:-1])


def test_audio_is_that_of_the_corpus(tmp_path: Path) -> None:
    from lhotse import load_manifest

    corpus = make_an4(tmp_path / "an4", 1)
    prepare(corpus, tmp_path / "data")
    for recording in load_manifest(tmp_path / "data/manifests/an4_recordings_test.jsonl.gz"):
        expected, _ = soundfile.read(next(corpus.rglob(f"{recording.id}.sph")), dtype="float32")
        assert np.array_equal(recording.load_audio()[0], expected)


def test_dev_is_other_people_than_training(tmp_path: Path) -> None:
    utterances = an4.read_list(make_an4(tmp_path / "an4"), "train")
    for seed in range(20):
        train, dev = an4.hold_out(utterances, 2, seed)
        people = [{utterance.speaker.rstrip("2") for utterance in part} for part in (train, dev)]
        assert len(people[1]) == 2 and not people[0] & people[1]
        assert sorted(train + dev, key=lambda each: each.id) == sorted(utterances, key=lambda each: each.id)
        assert (train, dev) == an4.hold_out(utterances, 2, seed)
    assert len({tuple(an4.hold_out(utterances, 2, seed)[1]) for seed in range(20)}) > 1


@pytest.mark.parametrize("count", [0, 4])
def test_speakers_that_cannot_be_held_out(tmp_path: Path, count: int) -> None:
    utterances = an4.read_list(make_an4(tmp_path / "an4", 1), "train")
    with pytest.raises(UserError, match=f"{count} of 4 speakers; give another --dev-speakers"):
        an4.hold_out(utterances, count, 1)


def test_parts_that_are_done_stay(tmp_path: Path) -> None:
    corpus = make_an4(tmp_path / "an4", 1)
    prepare(corpus, tmp_path / "data", "--parts", "test")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*") if path.is_file()}
    prepare(corpus, tmp_path / "data", "--parts", "test")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_dev_speakers_of_another_choice_do_not_come_into_training(tmp_path: Path) -> None:
    corpus, data = make_an4(tmp_path / "an4", 1), tmp_path / "data"
    prepare(corpus, data)
    before = supervisions(data, "train")
    dev = [data / "manifests" / f"an4_{kind}_dev.jsonl.gz" for kind in ("recordings", "supervisions")]
    for path in dev:
        path.unlink()
    with pytest.raises(UserError, match="supervisions_train.jsonl.gz was made with another .*--dev-speakers"):
        prepare(corpus, data, "--dev-speakers", "1", "--parts", "dev")
    assert not any(path.exists() for path in dev)
    prepare(corpus, data)
    assert supervisions(data, "train") == before and not before.keys() & supervisions(data, "dev").keys()


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("etc/an4_test.fileids", None, None, "an4_test.fileids does not exist"),
        ("etc/an4_train.transcription", None, None, "an4_train.transcription does not exist"),
        ("etc/an4_train.fileids", None, "", "an4_train.fileids is empty"),
        ("wav/an4_clstk/fash/an1-fash-b.sph", None, None, "an1-fash-b.sph, listed in .*fileids, does not exist"),
        ("etc/an4_test.fileids", "an4test_clstk/fcaw/an6-fcaw-b\n", "", "has a line for an6-fcaw-b, which is not in"),
        ("etc/an4_test.transcription", "(an6-fcaw-b)", "(an66-fcaw-b)", "has no line for an6-fcaw-b"),
        ("etc/an4_test.transcription", "(an6-fcaw-b)", "", "an4_test.transcription, line 1: '.*' is not"),
    ],
)
def test_faults_of_the_lists_are_named(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    corpus = make_an4(tmp_path / "an4", 1)
    if new is None:
        (corpus / file).unlink()
    else:
        text = (corpus / file).read_text()
        (corpus / file).write_text(new if old is None else text.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        prepare(corpus, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_empty_transcripts_are_named(tmp_path: Path) -> None:
    corpus = make_an4(tmp_path / "an4", 1)
    path = corpus / "etc/an4_train.transcription"
    path.write_text("<s>  </s> (an1-fash-b)\n" + "\n".join(path.read_text().splitlines()[1:]))
    with pytest.raises(UserError, match="the transcript of an1-fash-b is empty"):
        prepare(corpus, tmp_path / "data")


def test_lists_of_other_programs(tmp_path: Path) -> None:
    corpus = make_an4(tmp_path / "an4", 1)
    expected = an4.read_list(corpus, "test")
    for path in (corpus / "etc").iterdir():
        path.write_text(path.read_text(), encoding="utf-8-sig", newline="\r\n")
    assert an4.read_list(corpus, "test") == expected
    (corpus / "etc/an4_test.transcription").write_bytes("É (an6-fcaw-b)\n".encode("latin-1"))
    with pytest.raises(UserError, match="an4_test.transcription is not text in UTF-8"):
        an4.read_list(corpus, "test")


@pytest.mark.parametrize(
    ("size", "message"), [(9000, "truncated: it has only 3988 of"), (700, "cannot be read as audio")]
)
def test_truncated_audio_is_named(tmp_path: Path, size: int, message: str) -> None:
    corpus = make_an4(tmp_path / "an4", 1)
    path = corpus / "wav/an4test_clstk/fcaw/an6-fcaw-b.sph"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=f"an6-fcaw-b.sph of an6-fcaw-b .*{message}"):
        prepare(corpus, tmp_path / "data", "--parts", "test")
    assert not list((tmp_path / "data").rglob("*.flac")) and not (tmp_path / "data/manifests").exists()


@pytest.mark.parametrize("made", [False, True])
def test_missing_and_empty_corpora(tmp_path: Path, made: bool) -> None:
    if made:
        (tmp_path / "an4").mkdir()
    with pytest.raises(UserError, match="is empty" if made else "does not exist"):
        prepare(tmp_path / "an4", tmp_path / "data")


def test_the_real_lists_are_understood(shared_data: Path) -> None:
    corpus = shared_data / "an4"
    if not corpus.is_dir():
        pytest.skip(f"no AN4 at {corpus}")
    train, dev = an4.hold_out(an4.read_list(corpus, "train"), 8, 1)
    assert len(train) + len(dev) == 948 and len({each.speaker for each in train + dev}) == 74
    test = an4.read_list(corpus, "test")
    assert len(test) == 130 and sum(len(each.text.split()) for each in test) == 773
    assert all("<" not in each.text and "(" not in each.text for each in [*train, *dev, *test])


def run(directory: Path, corpus: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the recipe with its files in a separate directory."""
    fixed = ["--corpus-dir", str(corpus), "--data-dir", str(directory / "data"), "--exp-dir", str(directory / "exp")]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PRUNING_ENV": "current", "PATH": path, "OMP_NUM_THREADS": "1"}
    command = [str(RECIPE / "run.sh"), *fixed, *options]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def test_two_starts_are_one_too_many(tmp_path: Path) -> None:
    result = run(tmp_path, make_an4(tmp_path / "an4"), "--init-from", "a", "--warm-up-cuts", "b")
    assert result.returncode == 1 and "exclude each other; give one of them" in result.stderr
    result = run(tmp_path, tmp_path / "an4", "--warm-up-cuts", "b")
    assert result.returncode == 1 and "needs --warm-up-dev-cuts" in result.stderr


def test_a_corpus_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    result = run(tmp_path, tmp_path / "an4")
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"error: the corpus directory {tmp_path}/an4 does not exist; unpack an4_sphere")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory in which all stages have run."""
    directory = tmp_path_factory.mktemp("recipe")
    layers = "distillation.layers=[0,2]"
    cuts = directory / "data/fbank"
    warm_up = ["--warm-up-cuts", str(cuts / "an4_cuts_train.jsonl.gz"), "--warm-up-dev-cuts",
               str(cuts / "an4_cuts_dev.jsonl.gz"), "--warm-up-args", "trainer.max_steps=1"]  # fmt: skip
    result = run(
        directory, make_an4(directory / "an4"), "--dev-speakers", "1", "--nj", "1", "--speed-perturb", "false",
        "--target", "0.1", "--methods", "modified_beam_search", "--teacher-args", f"{STEPS} {DIMENSIONS}",
        "--prune-args", f"{STEPS} {layers}", "--finetune-args", f"{STEPS} {layers}", "--uniform-args", STEPS, *warm_up,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return directory


@pytest.mark.processes
@pytest.mark.slow
def test_every_stage(finished: Path) -> None:
    tokens = (finished / "data/lang_char/tokens.txt").read_text().split()
    assert {token for token in tokens[::2] if len(token) == 1} == set("".join(WORDS)) | {"▁"}
    for name in ("teacher", "finetuned", "uniform"):
        assert (finished / "exp" / name / ".done").is_file()
        assert len(list((finished / "exp" / name / "modified_beam_search").glob("recogs-test-*.txt"))) == 1
    for name in ("teacher", "uniform"):
        began = read_json(finished / "exp" / name / "run.json")["inputs"]["init"]
        assert began and (finished / "exp" / f"warm_up_{name}" / ".done").is_file(), "starts from its own warm-up"
    table = (finished / "exp/RESULTS.md").read_text()
    assert all(f"\n| {name} " in table for name in ("teacher", "pruned", "uniform"))


@pytest.mark.processes
@pytest.mark.long
def test_another_size_is_pruned_from_the_same_teacher(finished: Path, tmp_path: Path) -> None:
    options = ["--data-dir", str(finished / "data"), "--teacher", str(finished / "exp/teacher"), "--target", "0.15"]
    settings = ["--method", "magnitude", "--prune-args", f"{STEPS} distillation.layers=[] constraint.ramp=one_shot"]
    result = run(tmp_path, finished / "an4", *options, *settings, "--stage", "4", "--stop-stage", "5")
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "exp/teacher").exists(), "the teacher is not trained again"
    constraint = (tmp_path / "exp/pruned/config.yaml").read_text()
    assert "size: 0.15" in constraint and "method: magnitude" in constraint
    result = run(tmp_path, finished / "an4", "--teacher", str(tmp_path), "--stage", "5")
    assert result.returncode == 1 and "is not a finished experiment" in result.stderr


@pytest.mark.processes
@pytest.mark.long
def test_a_teacher_starts_from_another_one(finished: Path, tmp_path: Path) -> None:
    """With a tiny learning rate it stays close to its initial weights."""
    from safetensors.torch import load_file

    options = ["--data-dir", str(finished / "data"), "--stage", "4", "--stop-stage", "4"]
    options += ["--init-from", str(finished / "exp/teacher")]
    still = "trainer.optimiser.lr=1e-12 trainer.average_period=0 loss.warmup_steps=0"
    result = run(tmp_path, finished / "an4", *options, "--teacher-args", f"{STEPS} {still}")
    assert result.returncode == 0, result.stderr
    before, after = (load_file(directory / "exp/teacher/best.safetensors") for directory in (finished, tmp_path))
    weights = [name for name in before if name.endswith(".weight")]
    assert weights and before.keys() == after.keys()
    assert all((before[name] - after[name]).abs().max() < 1e-6 for name in weights)
