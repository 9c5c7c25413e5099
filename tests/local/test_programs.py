"""The data programs as the recipe calls them: from corpus to batches, and one line for each error."""

from __future__ import annotations

import gzip
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pruning.speech.data import manifests, sources
from pruning.speech.data.batches import training_batches
from pruning.speech.data.data_config import DataConfig
from pruning.speech.ngrams import arpa
from pruning.speech.text.bpe import Tokenizer
from tests import forked

PARTS = ["train-clean-mini", "dev-clean-mini", "test-clean", "test-other"]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None,
    reason="espeakng-loader, which synthesises the corpus, is not installed",
)


def program(directory: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a program from ``directory``, as a recipe does from its own."""
    return forked.python([str(forked.ROOT / name), *options], directory)


def in_its_own_process(directory: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a program that shows lhotse's progress: tqdm reads the environment when it is imported."""
    environment = {**os.environ, "PYTHONPATH": str(forked.ROOT)}
    command = [sys.executable, str(forked.ROOT / name), *options]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)


def succeed(directory: Path, name: str, *options: str) -> str:
    done = program(directory, name, *options)
    assert done.returncode == 0, done.stderr
    return done.stderr


def fail(directory: Path, name: str, *options: str) -> str:
    """Return the single line that a failing program prints."""
    return error_of(program(directory, name, *options))


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """Return the single line that a program has printed before it failed."""
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert done.stdout == ""
    return lines[0]


def make_corpus(directory: Path) -> None:
    succeed(
        directory, "local/make_synthetic_corpus.py", "--output-dir", "corpus/LibriSpeech", "--train-utterances", "12",
        "--dev-utterances", "3", "--test-words", "20", "--utterances-per-speaker", "2", "--num-workers", "2",
    )  # fmt: skip


def prepare(directory: Path, *parts: str) -> str:
    options = ["--corpus-dir", "corpus/LibriSpeech", "--parts", *(parts or PARTS)]
    return succeed(directory, "egs/librispeech/local/prepare_manifests.py", *options)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe directory in which all data stages have run."""
    directory = tmp_path_factory.mktemp("recipe")
    make_corpus(directory)
    download = ["--corpus-dir", "corpus/LibriSpeech", "--parts", *PARTS]
    succeed(directory, "egs/librispeech/local/download.py", *download)
    prepare(directory)
    jobs = ["--parts", *PARTS, "--num-splits", "2"]
    for job in ("1", "2"):
        succeed(directory, "local/compute_features.py", *jobs, "--split", job)
    succeed(directory, "local/compute_features.py", *jobs, "--combine")
    cuts = "data/fbank/librispeech_cuts_train-clean-mini.jsonl.gz"
    succeed(directory, "local/train_bpe.py", "--cuts", cuts, "--lang-dir", "data/lang_bpe_40", "--vocab-size", "40")
    return directory


def test_stages_lead_to_batches(recipe: Path) -> None:
    paths = manifests.Paths(recipe / "data" / "fbank")
    config = DataConfig(max_duration=20, num_buckets=2, num_workers=0)
    tokenizer = Tokenizer(recipe / "data" / "lang_bpe_40")
    batches = list(training_batches(config, [paths.cuts("train-clean-mini")], tokenizer, 0, 1))
    assert sum(len(batch.ids) for batch in batches) == 12
    for part in PARTS:
        assert manifests.count_lines(paths.cuts(part)) >= 3


def test_stages_that_are_done_do_nothing(recipe: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in recipe.rglob("*") if path.is_file()}
    make_corpus(recipe)
    assert "already exist" in prepare(recipe)
    succeed(recipe, "local/compute_features.py", "--parts", *PARTS)
    cuts = "data/fbank/librispeech_cuts_train-clean-mini.jsonl.gz"
    succeed(recipe, "local/train_bpe.py", "--cuts", cuts, "--lang-dir", "data/lang_bpe_40", "--vocab-size", "40")
    assert before == {path: path.stat().st_mtime_ns for path in recipe.rglob("*") if path.is_file()}


def test_logs_have_no_progress_bars(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus").symlink_to(recipe / "corpus")
    options = ["--corpus-dir", "corpus/LibriSpeech", "--parts", "test-clean"]
    done = in_its_own_process(tmp_path, "egs/librispeech/local/prepare_manifests.py", *options)
    assert done.returncode == 0, done.stderr
    assert "it/s" not in done.stderr and not (tmp_path / "data" / "fbank").exists()


def test_features_before_manifests(tmp_path: Path) -> None:
    message = fail(tmp_path, "local/compute_features.py", "--parts", "dev-clean")
    assert "data/manifests/librispeech_recordings_dev-clean.jsonl.gz does not exist; run the stage" in message
    assert not list(tmp_path.iterdir())


def test_word_pieces_before_features(tmp_path: Path) -> None:
    options = ["--cuts", "data/fbank/cuts.jsonl.gz", "--lang-dir", "data/lang", "--vocab-size", "50"]
    assert "data/fbank/cuts.jsonl.gz does not exist" in fail(tmp_path, "local/train_bpe.py", *options)


def test_too_many_word_pieces(recipe: Path, tmp_path: Path) -> None:
    cuts = recipe / "data" / "fbank" / "librispeech_cuts_dev-clean-mini.jsonl.gz"
    options = ["--cuts", str(cuts), "--lang-dir", "lang", "--vocab-size", "9000"]
    assert "tokens, not 9000" in fail(tmp_path, "local/train_bpe.py", *options)
    assert not list(tmp_path.iterdir())


def test_truncated_audio_in_a_job(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus").symlink_to(recipe / "corpus")
    prepare(tmp_path, "dev-clean-mini")
    audio = sorted((recipe / "corpus").rglob("dev-clean-mini/**/*.flac"))[1]
    whole = audio.read_bytes()
    try:
        audio.write_bytes(whole[: len(whole) // 2])
        message = fail(tmp_path, "local/compute_features.py", "--parts", "dev-clean-mini")
    finally:
        audio.write_bytes(whole)
    assert audio.name in message and "truncated or unreadable" in message
    assert not [path for path in (tmp_path / "data" / "fbank").rglob("*") if path.is_file()]


def test_missing_and_empty_corpora(tmp_path: Path) -> None:
    options = ["--corpus-dir", "corpus", "--parts", "dev-clean"]
    message = fail(tmp_path, "egs/librispeech/local/prepare_manifests.py", *options)
    assert "corpus directory corpus does not exist" in message
    (tmp_path / "corpus").mkdir()
    message = fail(tmp_path, "egs/librispeech/local/prepare_manifests.py", *options)
    assert "corpus directory corpus is empty" in message


def test_downloads_that_cannot_be(tmp_path: Path) -> None:
    name = "egs/librispeech/local/download.py"
    assert "LibriSpeech has no part test-mini" in fail(tmp_path, name, "--parts", "test-mini")
    message = fail(tmp_path, name, "--corpus-dir", "corpus", "--parts", "dev-clean")
    assert "give --corpus-dir corpus/LibriSpeech" in message
    options = ["--parts", "dev-clean-2", "--base-url", "http://127.0.0.1:9/resources"]
    message = error_of(in_its_own_process(tmp_path, name, *options))
    assert "cannot download dev-clean-2 from http://127.0.0.1:9/resources" in message


def test_parts_that_may_be_half_unpacked(tmp_path: Path) -> None:
    """Nothing is downloaded or removed: the directory may be the user's own."""
    part = tmp_path / "download" / "LibriSpeech" / "dev-clean-2"
    (part / "1" / "7").mkdir(parents=True)
    (part / "1" / "7" / "1-7-0000.flac").touch()
    command = ["egs/librispeech/local/download.py", "--parts", "dev-clean-2", "--base-url", "http://127.0.0.1:9"]
    assert "LibriSpeech/dev-clean-2 has no transcripts" in fail(tmp_path, *command)
    (part / "1" / "7" / "1-7.trans.txt").write_text("1-7-0000 WORD\n")
    succeed(tmp_path, *command)  # the user's own copy, without lhotse's mark
    (tmp_path / "download" / "dev-clean-2.tar.gz").touch()
    message = fail(tmp_path, *command)
    assert "download/LibriSpeech/dev-clean-2 may be incomplete: download/dev-clean-2.tar.gz exists" in message
    assert "remove download/LibriSpeech/dev-clean-2" in message and (part / "1" / "7" / "1-7-0000.flac").is_file()
    (part / ".completed").touch()
    succeed(tmp_path, *command)


def test_kaldi_directory(recipe: Path, tmp_path: Path) -> None:
    audio = sorted((recipe / "corpus").rglob("*.flac"))[:2]
    (tmp_path / "kaldi").mkdir()
    (tmp_path / "kaldi" / "wav.scp").write_text("".join(f"{path.stem} {path}\n" for path in audio))
    (tmp_path / "kaldi" / "utt2spk").write_text("".join(f"{path.stem} {path.parent.name}\n" for path in audio))
    options = ["--kaldi-dir", "kaldi", "--part", "train", "--prefix", "an4"]
    assert "kaldi/text does not exist" in fail(tmp_path, "local/prepare_kaldi_dir.py", *options)
    (tmp_path / "kaldi" / "text").write_text("".join(f"{path.stem} SOME WORDS\n" for path in audio))
    succeed(tmp_path, "local/prepare_kaldi_dir.py", *options)
    succeed(tmp_path, "local/compute_features.py", "--parts", "train", "--prefix", "an4", "--speed-factors", "0.9")
    cuts = manifests.Paths(tmp_path / "data" / "fbank", "an4").cuts("train")
    assert manifests.count_lines(cuts) == 4


def test_cuts_of_samples_are_resampled(recipe: Path, tmp_path: Path) -> None:
    """Networks that take samples need a single sampling rate."""
    source = manifests.Paths(recipe / "data" / "manifests")
    part = next(path.name for path in source.directory.glob("*_recordings_*")).split("_")[-1].split(".")[0]
    options = ["--manifests-dir", str(source.directory), "--prefix", "librispeech", "--parts", part]
    succeed(tmp_path, "local/make_cuts.py", *options, "--output-dir", "same")
    succeed(tmp_path, "local/make_cuts.py", *options, "--output-dir", "other", "--sampling-rate", "8000")
    same, other = (list(manifests.iterate_cuts(manifests.Paths(tmp_path / name).cuts(part)))
                   for name in ("same", "other"))  # fmt: skip
    assert [cut.sampling_rate for cut in same] == [16000] * len(same)
    assert sources.load_audio(8000, other[0]).shape[0] == -(-sources.load_audio(16000, same[0]).shape[0] // 2)


def test_cuts_of_other_texts_or_rates_are_refused(recipe: Path, tmp_path: Path) -> None:
    """A text is corrected and the manifests are made again, or another sampling rate is asked for."""
    source, part = manifests.Paths(tmp_path / "manifests"), "dev-clean-mini"
    shutil.copytree(recipe / "data" / "manifests", source.directory)
    (tmp_path / "corpus").symlink_to(recipe / "corpus")
    options = ["--manifests-dir", "manifests", "--prefix", "librispeech", "--parts", part, "--output-dir", "cuts"]
    succeed(tmp_path, "local/make_cuts.py", *options)
    assert "already exists" in succeed(tmp_path, "local/make_cuts.py", *options)
    message = fail(tmp_path, "local/make_cuts.py", *options, "--sampling-rate", "8000")
    assert 'was made with {"sampling_rate": 16000}, not with {"sampling_rate": 8000}' in message
    with gzip.open(source.supervisions(part), "rt") as stream:
        corrected = stream.read().replace('"text": "', '"text": "WELL ', 1)
    with gzip.open(source.supervisions(part), "wt") as stream:
        stream.write(corrected)
    message = fail(tmp_path, "local/make_cuts.py", *options)
    made = manifests.Paths(Path("cuts")).cuts(part)
    assert f"{made} was made from other utterances than manifests/" in message and f"or remove {made} and " in message


def test_n_grams_read_what_other_programs_read(tmp_path: Path) -> None:
    """Text may be gzipped; accents are composed with their letters, as in scoring."""
    text = "e\u0301te\u0301 un deux\nun e\u0301te\u0301 trois\n"
    with gzip.open(tmp_path / "text.txt.gz", "wt", encoding="utf-8") as stream:
        stream.write(text)
    succeed(tmp_path, "local/make_ngram.py", "--text", "text.txt.gz", "--order", "2", "--output", "2-gram.arpa")
    assert "\u00e9t\u00e9" in arpa.read(tmp_path / "2-gram.arpa").vocabulary
    message = fail(tmp_path, "local/make_ngram.py", "--text", "nothing.txt", "--output", "x")
    assert "nothing.txt does not exist" in message


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    for name in ("local/compute_features.py", "local/train_bpe.py", "local/make_synthetic_corpus.py"):
        done = program(tmp_path, name, "--no-such-option", "1")
        assert done.returncode == 2 and "usage" in done.stderr
    message = fail(tmp_path, "local/compute_features.py", "--parts", "a", "--num-splits", "2", "--split", "3")
    assert "--split must be at most --num-splits (2), got 3" in message
