"""Batches: every cut once, reproducible order, exact resumption, equal ranks, and reproducible noise."""

from __future__ import annotations

import gzip
import json
import logging
import math
import multiprocessing
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pruning.errors import UserError
from pruning.speech.data import checks, manifests, sampler, sources
from pruning.speech.data.batches import Batch, count_batches, evaluation_batches, training_batches
from pruning.speech.data.data_config import DataConfig
from pruning.speech.data.sources import FEATURES, PADDING
from pruning.speech.text.bpe import Tokenizer
from tests.waiting import until

CONFIG = DataConfig(max_duration=8.0, num_buckets=3, num_workers=0)


@pytest.fixture(scope="module")
def tokenizer(data_dir: Path) -> Tokenizer:
    return Tokenizer(data_dir / "lang_bpe_30")


@pytest.fixture(scope="module")
def paths(data_dir: Path) -> list[Path]:
    return [manifests.Paths(data_dir / "fbank").cuts(part) for part in ("train-a", "train-b")]


def same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        a.ids == b.ids and a.tokens == b.tokens and torch.equal(a.features, b.features) for a, b in zip(left, right)
    )


def ids(batches: list[Batch]) -> list[str]:
    return [identifier for batch in batches for identifier in batch.ids]


def test_an_epoch_has_every_cut_once(paths: list[Path], tokenizer: Tokenizer) -> None:
    batches = list(training_batches(CONFIG, paths, tokenizer, seed=0, epoch=1))
    expected = {cut.id: cut for path in paths for cut in manifests.iterate_cuts(path)}
    assert sorted(ids(batches)) == sorted(expected)
    for batch in batches:
        assert batch.features.dtype == torch.float32 and batch.lengths.dtype == torch.int64
        assert batch.features.shape == (len(batch.ids), int(batch.lengths.max()), 80)
        assert batch.seconds <= CONFIG.max_duration
        assert batch.seconds == pytest.approx(sum(expected[identifier].duration for identifier in batch.ids))
        for index, identifier in enumerate(batch.ids):
            stored = torch.from_numpy(expected[identifier].load_features())
            length = int(batch.lengths[index])
            assert torch.equal(batch.features[index, :length], stored)
            assert (batch.features[index, length:] == PADDING).all()
            assert batch.texts[index] == expected[identifier].supervisions[0].text
            assert batch.tokens[index] == tokenizer.encode(batch.texts[index])


@settings(max_examples=8, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])  # fmt: skip
@given(seed=st.integers(0, 100), epoch=st.integers(0, 100), skip=st.integers(0, 30))
def test_skipping_gives_the_rest(paths: list[Path], tokenizer: Tokenizer, seed: int, epoch: int, skip: int) -> None:
    whole = list(training_batches(CONFIG, paths, tokenizer, seed, epoch))
    rest = list(training_batches(CONFIG, paths, tokenizer, seed, epoch, skip_batches=skip))
    assert same(rest, whole[skip:])


def test_skipped_batches_are_not_loaded(paths: list[Path], tokenizer: Tokenizer) -> None:
    loaded = []
    source = replace(FEATURES, load=lambda cut: loaded.append(cut.id) or sources.load_features(cut))
    rest = list(training_batches(CONFIG, paths, tokenizer, 0, 1, skip_batches=4, source=source))
    assert loaded == ids(rest)


def test_epochs_and_seeds_have_their_own_order(paths: list[Path], tokenizer: Tokenizer) -> None:
    orders = {
        tuple(ids(list(training_batches(CONFIG, paths, tokenizer, seed, epoch))))
        for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    }
    assert len(orders) == 5
    unshuffled = replace(CONFIG, shuffle=False)
    assert same(
        list(training_batches(unshuffled, paths, tokenizer, 0, 0)),
        list(training_batches(unshuffled, paths, tokenizer, 1, 1)),
    )


def test_several_manifests_are_mixed(paths: list[Path], tokenizer: Tokenizer) -> None:
    merged = [cut.id for cut in sampler._Merged(paths, key=5)]
    in_turn = [cut.id for path in paths for cut in manifests.iterate_cuts(path)]
    assert sorted(merged) == sorted(in_turn) and merged != in_turn
    of_second = [index for index, identifier in enumerate(merged) if identifier in in_turn[40:]]
    assert of_second[0] < 15 and of_second[-1] >= 45, "spread over the epoch"


def test_workers_change_nothing(paths: list[Path], tokenizer: Tokenizer) -> None:
    plain = list(training_batches(CONFIG, paths, tokenizer, 3, 1))
    workers = replace(CONFIG, num_workers=2)
    assert same(list(training_batches(workers, paths, tokenizer, 3, 1)), plain)
    assert same(list(training_batches(workers, paths, tokenizer, 3, 1, skip_batches=5)), plain[5:])


def test_a_signal_to_all_processes_of_a_job_leaves_workers_to_training(paths: list[Path], tokenizer: Tokenizer) -> None:
    """A scheduler's warning reaches all processes; training then finishes its step and still needs the workers."""
    plain = list(training_batches(CONFIG, paths, tokenizer, 3, 1))
    batches = training_batches(replace(CONFIG, num_workers=2), paths, tokenizer, 3, 1)
    begun = [next(batches)]
    children = multiprocessing.active_children()
    assert len(children) == 2
    subprocess.run(["kill", "-TERM", *(str(child.pid) for child in children)], check=True)  # but not their parent
    assert same([*begun, *batches], plain)
    until(lambda: not any(child.is_alive() for child in children))


def test_workers_end_when_training_ends_them(paths: list[Path], tokenizer: Tokenizer) -> None:
    batches = training_batches(replace(CONFIG, num_workers=1), paths, tokenizer, 3, 1)
    next(batches)
    (child,) = multiprocessing.active_children()
    child.terminate()  # as when a failed program ends, before it waits for its processes
    child.join(60)
    assert child.exitcode == 0


@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_keeps_its_random_numbers(paths: list[Path], tokenizer: Tokenizer, num_workers: int) -> None:
    """Resumption is exact only if loading data draws nothing from the generator of training."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    next(iter(training_batches(replace(CONFIG, num_workers=num_workers), paths, tokenizer, 0, 0)))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_epoch_equally(paths: list[Path], tokenizer: Tokenizer, world_size: int) -> None:
    ranks = [
        list(training_batches(CONFIG, paths, tokenizer, 0, 1, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    seen = [identifier for batches in ranks for identifier in ids(batches)]
    assert len(seen) == len(set(seen)) == 60
    assert count_batches(CONFIG, paths, tokenizer, world_size=world_size) == pytest.approx(len(ranks[0]), abs=2)


@pytest.mark.parametrize("world_size", [1, 2])
def test_incomplete_batches_can_be_left_out(paths: list[Path], tokenizer: Tokenizer, world_size: int) -> None:
    def epoch(config: DataConfig, number: int = 1) -> list[list[Batch]]:
        return [
            list(training_batches(config, paths, tokenizer, 0, number, rank=rank, world_size=world_size))
            for rank in range(world_size)
        ]

    dropping = replace(CONFIG, drop_last=True)
    kept, whole = epoch(dropping), epoch(CONFIG)
    assert len({len(batches) for batches in kept}) == 1, "ranks take the same number of steps"
    assert all(batch.seconds > CONFIG.max_duration / 2 for batches in kept for batch in batches)
    assert any(batch.seconds < CONFIG.max_duration / 2 for batches in whole for batch in batches)
    lost = 60 - sum(len(ids(batches)) for batches in kept)
    assert 0 < lost < 60 - lost
    assert ids(kept[0]) != ids(epoch(dropping, 2)[0])
    assert len(ids(list(evaluation_batches(dropping, paths)))) == 60, "evaluation leaves nothing out"


def test_no_batch_fills_up(paths: list[Path], tokenizer: Tokenizer) -> None:
    config = replace(CONFIG, max_duration=1000.0, drop_last=True)
    with pytest.raises(UserError, match="no batch of 1000 s can be filled.*data.drop_last=false"):
        list(training_batches(config, paths, tokenizer, 0, 1))


def test_fewer_cuts_than_ranks(data_dir: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (path,) = edited(data_dir, tmp_path, lambda items: items[:1])
    for rank in range(3):
        (batch,) = training_batches(CONFIG, [path], tokenizer, 0, 0, rank=rank, world_size=3)
        assert len(batch.ids) == 1


def test_batches_to_come_can_be_counted(paths: list[Path], tokenizer: Tokenizer) -> None:
    assert count_batches(CONFIG, paths, tokenizer, seed=4) == len(
        list(training_batches(CONFIG, paths, tokenizer, 4, 0))
    )


def test_evaluation_takes_all_in_one_order(data_dir: Path, tokenizer: Tokenizer) -> None:
    path = manifests.Paths(data_dir / "fbank").cuts("dev")
    config = replace(CONFIG, min_cut_duration=2.0)  # only for training
    first = list(evaluation_batches(config, [path]))
    assert sorted(ids(first)) == sorted(cut.id for cut in manifests.iterate_cuts(path))
    assert all(tokens == [] for batch in first for tokens in batch.tokens)
    assert ids(list(evaluation_batches(config, [path], tokenizer))) == ids(first)


def test_evaluation_refuses_what_is_far_too_long(data_dir: Path, tokenizer: Tokenizer) -> None:
    """Unless a batch may be as long; training leaves it out."""
    path = [manifests.Paths(data_dir / "fbank").cuts("dev")]
    config = replace(CONFIG, max_duration=1.5, max_evaluated_duration=1.5)
    with pytest.raises(UserError, match=r"cut 3-7-000\d lasts [0-9.]+ s, but cuts of dev and test sets may last 1.5 s"):
        list(evaluation_batches(config, path))
    assert len(ids(list(evaluation_batches(replace(config, max_duration=3), path)))) == 9
    kept = ids(list(training_batches(replace(config, max_cut_duration=1.5), path, tokenizer, 0, 1)))
    assert 0 < len(kept) < 9


def edited(data_dir: Path, tmp_path: Path, edit: object, part: str = "dev") -> list[Path]:
    """Write the manifest of a part with its items (dicts) edited."""
    with gzip.open(manifests.Paths(data_dir / "fbank").cuts(part), "rt") as stream:
        items = [json.loads(line) for line in stream]
    path = tmp_path / "cuts.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in edit(items)))  # type: ignore[operator]
    return [path]


def test_cuts_with_more_tokens_than_frames_are_dropped_and_counted(
    data_dir: Path, tokenizer: Tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def lengthen(items: list[dict]) -> list[dict]:
        items[2]["supervisions"][0]["text"] = "ONE TWO THREE FOUR FIVE SIX " * 20
        return items

    path = edited(data_dir, tmp_path, lengthen)
    with caplog.at_level(logging.INFO):
        batches = list(training_batches(replace(CONFIG, max_cut_duration=2.4), path, tokenizer, 0, 7))
    durations = [cut.duration for cut in manifests.iterate_cuts(path[0])]
    long = sum(duration > 2.4 for index, duration in enumerate(durations))
    kept = [index for index, duration in enumerate(durations) if duration <= 2.4 and index != 2]
    assert len(ids(batches)) == len(kept)
    assert f"epoch 7: dropped {9 - len(kept)} of 9 cuts: {long} too short or too long" in caplog.text
    for_loss = list(evaluation_batches(CONFIG, path, tokenizer, for_loss=True))
    assert len(ids(for_loss)) == 8
    assert len(ids(list(evaluation_batches(CONFIG, path, tokenizer)))) == 9


def test_transcripts_of_other_letters_are_refused(data_dir: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    def lower(items: list[dict]) -> list[dict]:
        for item in items:
            item["supervisions"][0]["text"] = item["supervisions"][0]["text"].lower()
        return items

    path = edited(data_dir, tmp_path, lower)
    for batches in (
        training_batches(CONFIG, path, tokenizer, 0, 0),
        evaluation_batches(CONFIG, path, tokenizer, for_loss=True),
    ):
        with pytest.raises(UserError, match=r"tokens in \S+cuts.jsonl are unknown to \S+lang_bpe_30; give the"):
            next(batches)


def test_a_few_unknown_tokens_are_counted(
    data_dir: Path, tokenizer: Tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def change(items: list[dict]) -> list[dict]:
        items[2]["supervisions"][0]["text"] = "ONE two THREE four"
        return items

    with caplog.at_level(logging.INFO):
        batches = list(training_batches(CONFIG, edited(data_dir, tmp_path, change), tokenizer, 0, 7))
    assert sum(tokens.count(2) for batch in batches for tokens in batch.tokens) == 2
    assert "epoch 7: 2 of " in caplog.text and "tokens are unknown" in caplog.text and "dropped" not in caplog.text


@settings(max_examples=200, deadline=None)
@given(frames=st.integers(1, 3000))
def test_frames_after_subsampling(frames: int) -> None:
    x = torch.zeros(1, 1, frames, 1)
    for _ in range(2):
        if x.shape[2] < 3:
            assert sources.frames_after_subsampling(frames) == 0
            return
        x = torch.nn.functional.max_pool2d(x, (3, 1), (2, 1))
    assert sources.frames_after_subsampling(frames) == x.shape[2]


def test_faults_of_items_are_named(data_dir: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    def check(message: str, edit: object) -> None:
        path = edited(data_dir, tmp_path, edit)
        for num_workers in (0, 1):
            with pytest.raises(UserError, match=message):
                list(training_batches(replace(CONFIG, num_workers=num_workers), path, tokenizer, 0, 0))

    def change(key: str, value: object) -> object:
        def edit(items: list[dict]) -> list[dict]:
            identifiers.append(items[3]["id"])
            target = items[3]["supervisions"][0] if key == "text" else items[3]
            target.pop(key) if value is None else target.update({key: value})
            return items

        return edit

    identifiers: list[str] = []
    check(r"the transcript of cut \S+ is empty", change("text", " "))
    check(r"cut \S+ has 0 transcripts instead of one", change("supervisions", []))
    check(r"cut \S+ has no features; compute them", change("features", None))
    assert len(set(identifiers)) == 1
    check("can be used; check durations", lambda items: [item | {"duration": 0.1} for item in items])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_missing_features_are_named(data_dir: Path, tokenizer: Tokenizer, tmp_path: Path, num_workers: int) -> None:
    def lose(items: list[dict]) -> list[dict]:
        items[3]["features"]["storage_path"] = "/absent.lca"
        return items

    path = edited(data_dir, tmp_path, lose)
    with pytest.raises(UserError, match=r"/absent.lca: cannot read the features of cut \S+ \(FileNotFound"):
        list(training_batches(replace(CONFIG, num_workers=num_workers), path, tokenizer, 0, 0))


def test_noise_is_mixed_and_repeats(paths: list[Path], data_dir: Path, tokenizer: Tokenizer) -> None:
    noise = str(manifests.Paths(data_dir / "fbank").cuts("dev"))
    noisy = replace(CONFIG, musan_cuts=noise, musan_probability=0.5, musan_snr=(0.0, 10.0))
    clean = list(training_batches(CONFIG, paths, tokenizer, 0, 1))
    first = list(training_batches(noisy, paths, tokenizer, 0, 1))
    assert ids(first) == ids(clean)
    assert all(torch.equal(a.lengths, b.lengths) for a, b in zip(first, clean))
    changed = [not torch.equal(x, y) for a, b in zip(first, clean) for x, y in zip(a.features, b.features)]
    assert 0.25 < sum(changed) / len(changed) < 0.75
    assert same(list(training_batches(replace(noisy, num_workers=2), paths, tokenizer, 0, 1)), first)
    assert same(list(training_batches(noisy, paths, tokenizer, 0, 1, skip_batches=6)), first[6:])


@pytest.mark.parametrize("samples", [480, 800, 4000, 48000])
@pytest.mark.parametrize("level", [0.0, 0.1])
def test_short_and_silent_noise_is_no_fault(
    paths: list[Path], tokenizer: Tokenizer, tmp_path: Path, samples: int, level: float
) -> None:
    """Repeated to the end of the cut, of which a part of a frame may be left; silence has energy, if little."""
    from lhotse import CutSet, Fbank, LilcomChunkyWriter, Recording

    made = []
    with LilcomChunkyWriter(tmp_path / "feats") as writer:
        for index in range(5):
            file = tmp_path / f"{index}.wav"
            soundfile.write(file, level * np.random.default_rng(index).normal(size=samples + 31 * index), 16000)
            cut = Recording.from_file(file, recording_id=f"n{index}").to_cut()
            made.append(cut.compute_and_store_features(Fbank(), writer))
    CutSet.from_cuts(made).to_file(tmp_path / "noise_cuts.jsonl.gz")
    noisy = replace(CONFIG, musan_cuts=str(tmp_path / "noise_cuts.jsonl.gz"), musan_probability=1.0)
    clean = list(training_batches(CONFIG, paths, tokenizer, 0, 1))
    for ours, plain in zip(training_batches(noisy, paths, tokenizer, 0, 1), clean, strict=True):
        assert ours.ids == plain.ids and torch.equal(ours.lengths, plain.lengths)
        assert ours.features.isfinite().all()
        assert not torch.equal(ours.features, plain.features)


@pytest.mark.parametrize("setting", [{"max_duration": 0.0}, {"num_buckets": 0}, {"num_workers": -1}])
def test_impossible_settings_are_named(setting: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(setting))):
        DataConfig(**setting)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [0.4, 0.7])
def test_windows_with_whole_transcripts_are_refused(
    paths: list[Path], tokenizer: Tokenizer, tmp_path: Path, seconds: float
) -> None:
    """In training and in test sets; lhotse's own check refuses them, too."""
    from lhotse import CutSet

    windows = CutSet.from_file(paths[0]).cut_into_windows(seconds)
    path = tmp_path / "windows.jsonl.gz"
    windows.to_file(path)
    training = training_batches(replace(CONFIG, min_cut_duration=0.1), [path], tokenizer, 0, 1)
    for batches in (training, evaluation_batches(CONFIG, [path], tokenizer)):
        with pytest.raises(UserError, match="windows of a longer cut keep its whole transcript; cut at the tr"):
            list(batches)


@pytest.mark.parametrize("start", [0.0, None, "0", math.nan])
@pytest.mark.parametrize("duration", [0.0, -1.0, None, "1", math.inf, 0.5])
def test_times_of_transcripts_that_are_none_are_named(
    data_dir: Path, tokenizer: Tokenizer, tmp_path: Path, start: object, duration: object
) -> None:
    """Cutting into windows leaves transcripts of no time on their edges."""
    if (start, duration) == (0.0, 0.5):
        return

    def change(items: list[dict]) -> list[dict]:
        items[3]["supervisions"][0].update(start=start, duration=duration)
        return items

    path = edited(data_dir, tmp_path, change)
    for batches in (training_batches(CONFIG, path, tokenizer, 0, 1), evaluation_batches(CONFIG, path, tokenizer)):
        with pytest.raises(UserError, match=r"the transcript of cut \S+ begins at .* s and lasts .* s; correct its"):
            list(batches)


@pytest.mark.parametrize("times", [{"start": 100.0}, {"start": -0.2}, {"duration": 60.0}])
def test_cuts_beyond_their_features_are_named(
    data_dir: Path, tokenizer: Tokenizer, tmp_path: Path, times: dict[str, float]
) -> None:
    """In training and in a test set, where no features are loaded."""

    def change(items: list[dict]) -> list[dict]:
        items[3].update(times)
        return items

    path = edited(data_dir, tmp_path, change)
    config = replace(CONFIG, max_cut_duration=100.0)
    for look in (lambda: list(training_batches(config, path, tokenizer, 0, 1)),
                 lambda: checks.check_test_set(path[0], tokenizer, 80)):  # fmt: skip
        with pytest.raises(
            UserError, match=r"cut \S+ is of .* s of its recording, and its features are of 0 to .* s; co"
        ):
            look()


@pytest.mark.parametrize(("key", "value"), [("num_features", 40), ("sampling_rate", 8000), ("frame_shift", 0.02)])
def test_noise_of_other_features_is_refused_before_training(
    data_dir: Path, paths: list[Path], tokenizer: Tokenizer, tmp_path: Path, key: str, value: float
) -> None:
    def change(items: list[dict]) -> list[dict]:
        for item in items:
            item["features"][key] = value
        return items

    (noise,) = edited(data_dir, tmp_path, change)
    noisy = replace(CONFIG, musan_cuts=str(noise), musan_probability=0.01)
    with pytest.raises(UserError, match=f"{key} of .* is {value}, but"):
        next(training_batches(noisy, paths, tokenizer, 0, 1))
