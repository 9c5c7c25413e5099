"""The decode and report commands on real files: a corpus of noise, features, word pieces, an untrained network."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from pruning import registry
from pruning.bin import decode, export, report, rescore
from pruning.errors import UserError
from pruning.experiments import decoding_results
from pruning.experiments.checkpoint import save_model
from pruning.experiments.measurement import Measurement, sample
from pruning.models.conformer import ConformerConfig
from pruning.models.facts import write_facts
from pruning.models.transducer import Transducer, TransducerConfig
from pruning.speech.corpora import librispeech
from pruning.speech.data import features, manifests
from pruning.speech.decoding import graphs
from pruning.speech.decoding.config import GRAPH_KINDS
from pruning.speech.decoding.n_best import read_nbest
from pruning.speech.ngrams import arpa, kneser_ney
from pruning.speech.scoring.word_errors import read_transcripts, score
from pruning.speech.text import bpe

SENTENCES = ["ONE TWO THREE", "FOUR FIVE", "SIX SEVEN EIGHT NINE", "TEN ELEVEN TWELVE", "THREE TWO ONE"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``fbank/librispeech_cuts_{test-clean,test-other}.jsonl.gz``, their audio, and ``lang_bpe_27``."""
    directory = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    source, target = manifests.Paths(directory / "manifests"), manifests.Paths(directory / "fbank")
    for reader, part in enumerate(("test-clean", "test-other"), 1):
        chapter = directory / "LibriSpeech" / part / str(reader) / "7"
        chapter.mkdir(parents=True)
        for index in range(len(SENTENCES)):
            samples = generator.normal(scale=0.1, size=int(16000 * generator.uniform(0.5, 1.5)))
            soundfile.write(chapter / f"{reader}-7-{index:04d}.flac", samples, 16000)
        lines = [f"{reader}-7-{index:04d} {text}\n" for index, text in enumerate(SENTENCES)]
        (chapter / f"{reader}-7.trans.txt").write_text("".join(lines))
    librispeech.prepare(directory / "LibriSpeech", ["test-clean", "test-other"], directory / "manifests")
    for part in ("test-clean", "test-other"):
        features.compute_split(features.FeatureConfig(), source, features.Job(target, part, 1, 1))
        features.combine(features.FeatureConfig(), source, target, part, 1)
    bpe.train(SENTENCES, directory / "lang_bpe_27", 27, "unigram")
    bpe.train(SENTENCES, directory / "lang_bpe_26", 26, "unigram")
    return directory


def make_experiment(directory: Path, data: Path, seed: int = 0, **header: Any) -> Path:
    """An untrained network in the form that training writes: ``best.safetensors`` and ``model.json``."""
    torch.manual_seed(seed)
    encoder = ConformerConfig(24, 1, 12, (2,), (32,), (32,), (24,), conv_kernel=5, subsampling_channels=(4, 4, 8))
    tokenizer = bpe.Tokenizer(data / "lang_bpe_27")
    model = Transducer(TransducerConfig(encoder, tokenizer.vocab_size, 16, 2, 16))
    with torch.no_grad():
        model.joiner.output.weight *= 8  # so that the hypotheses are not empty
    values = {"model": registry.describe(model), "tokenizer": tokenizer.describe(), **header}
    save_model(directory / "best.safetensors", model, values)
    write_facts(directory, model)
    return directory


def run(exp_dir: Path, data: Path, *extra: str, sets: tuple[str, ...] = ("test-clean", "test-other")) -> None:
    cuts = [str(data / "fbank" / f"librispeech_cuts_{name}.jsonl.gz") for name in sets]
    decode.main(["--exp-dir", str(exp_dir), "--cuts", *cuts, "--lang-dir", str(data / "lang_bpe_27"), *extra])


def record_of(exp_dir: Path, method: str, set_name: str) -> Measurement:
    (path,) = (exp_dir / method).glob(f"decode-{set_name}-*.json")
    return Measurement.read(path)


def facts_of(exp_dir: Path, method: str, set_name: str) -> Mapping[str, Any]:
    return record_of(exp_dir, method, set_name).facts


def rate_of(exp_dir: Path, method: str, set_name: str) -> float:
    return sample([record_of(exp_dir, method, set_name)]).value


@pytest.mark.parametrize(
    "method",
    [
        "greedy_search",
        "modified_beam_search",
        "ctc_greedy_search",
        pytest.param("fast_beam_search", marks=pytest.mark.k2),
        pytest.param("ctc_decoding", marks=pytest.mark.k2),
    ],
)
def test_every_method_leaves_all_its_files(tmp_path: Path, data: Path, method: str) -> None:
    exp_dir = make_experiment(tmp_path / "exp", data)
    run(exp_dir, data, "--method", method)
    for set_name in ("test-clean", "test-other"):
        record, facts = record_of(exp_dir, method, set_name), facts_of(exp_dir, method, set_name)
        suffix = facts["suffix"]
        names = {f"{kind}-{set_name}-{suffix}.txt" for kind in ("recogs", "errs", "wer-summary")}
        assert names <= {path.name for path in (exp_dir / method).iterdir()}
        transcripts = read_transcripts(exp_dir / method / facts["recogs"])
        assert sorted(" ".join(t.reference) for t in transcripts) == sorted(SENTENCES)
        assert record.total("words") == 15 and len(record.utterances.ids) == 5 and record.what == "word_errors"
        assert record.total("errors") == sum(record.totals[kind] or 0 for kind in ("ins", "del", "sub"))
        assert rate_of(exp_dir, method, set_name) == pytest.approx(score(transcripts).wer)
        assert facts["features_included"] and facts["feature_seconds"] > 0
        total = facts["feature_seconds"] + facts["encoder_seconds"] + facts["search_seconds"]
        assert facts["decoding_seconds"] == pytest.approx(total, abs=1e-3)
        assert facts["real_time_factor"] == pytest.approx(
            total / facts["audio_seconds"],
            rel=1e-2,
            abs=2e-3 / facts["audio_seconds"],  # the seconds in the file are rounded
        )
        made = record.provenance
        assert made["threads"] == 1 and made["peak_memory_mib"] > 10 and made["processor"]
        assert made["date"].endswith("+00:00")


@pytest.mark.k2
def test_graphs_of_a_language_model_are_decoded_with(tmp_path: Path, data: Path) -> None:
    pytest.importorskip("kaldilm", reason="the extra 'graphs' is not installed")
    exp_dir, lang_dir = make_experiment(tmp_path / "exp", data), data / "lang_bpe_27"
    with pytest.raises(UserError, match=r"lang_bpe_27/HLG.safetensors does not exist; create it with local/make"):
        run(exp_dir, data, "--method", "hlg_decoding")
    arpa.write(kneser_ney.estimate(SENTENCES, 2), tmp_path / "model.arpa")
    paths = graphs.build(tmp_path / "model.arpa", bpe.Tokenizer(lang_dir), GRAPH_KINDS)
    elsewhere = [shutil.move(path, tmp_path / f"two-{path.name}") for path in paths]
    known = set(" ".join(SENTENCES).split())
    for method, own in (("fast_beam_search_LG", 0), ("hlg_decoding", 1)):
        graph = ["--graph", str(elsewhere[own]), "--method", method]
        run(exp_dir, data, *graph, sets=("test-clean",))
        facts = facts_of(exp_dir, method, "test-clean")
        assert facts["suffix"].endswith(f"-two-{GRAPH_KINDS[own]}")
        assert record_of(exp_dir, method, "test-clean").parameters["graph"]
        transcripts = read_transcripts(exp_dir / method / facts["recogs"])
        assert {word for t in transcripts for word in t.hypothesis} <= known
        with pytest.raises(UserError, match="a graph of type"):
            run(exp_dir, data, "--graph", str(elsewhere[1 - own]), "--method", method)
    with pytest.raises(UserError, match="--graph has no effect with"):
        run(exp_dir, data, "--graph", str(elsewhere[0]), "--method", "greedy_search")


def test_the_same_decoding_is_not_repeated(tmp_path: Path, data: Path) -> None:
    exp_dir = make_experiment(tmp_path / "exp", data)
    run(exp_dir, data, "--method", "greedy_search", sets=("test-clean",))
    (path,) = (exp_dir / "greedy_search").glob("decode-*.json")
    path.write_text(path.read_text().replace('"suffix"', '"first suffix"'))
    run(exp_dir, data, "--method", "greedy_search", sets=("test-clean",))
    assert "first suffix" in path.read_text()
    make_experiment(exp_dir, data, seed=1)  # other weights in the same directory
    run(exp_dir, data, "--method", "greedy_search", sets=("test-clean",))
    assert "first suffix" not in path.read_text()
    lines = [line.split("\t") for line in (exp_dir / decoding_results.DECODINGS).read_text().splitlines()]
    assert [line[1:3] for line in lines] == [["test-clean", "greedy_search"]] * 2, "each look at the set is counted"


def test_n_best_lists_are_made_to_be_rescored(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exp_dir, beam = make_experiment(tmp_path / "exp", data), ["--method", "modified_beam_search", "--beam-size", "6"]
    run(exp_dir, data, *beam, "--length-norm", "false", sets=("test-clean",))
    before = record_of(exp_dir, "modified_beam_search", "test-clean")
    run(exp_dir, data, *beam, "--length-norm", "false", "--nbest", "5", sets=("test-clean",))
    facts = facts_of(exp_dir, "modified_beam_search", "test-clean")
    assert record_of(exp_dir, "modified_beam_search", "test-clean").columns == before.columns
    assert facts["num_hypotheses"] == 5
    directory = exp_dir / "modified_beam_search"
    lists = read_nbest(directory / facts["nbest"])
    transcripts = read_transcripts(directory / facts["recogs"])
    assert {t.id: " ".join(t.hypothesis) for t in transcripts} == {name: lists[name][0].text for name in lists}
    for entries in lists.values():
        assert 1 < len(entries) <= 5 and len({entry.text for entry in entries}) == len(entries)
        assert entries == sorted(entries, key=lambda entry: -entry.score)
    arpa.write(kneser_ney.estimate(SENTENCES, 2), tmp_path / "model.arpa")
    nbest, references = str(directory / facts["nbest"]), str(directory / facts["recogs"])
    rescore.main(["--nbest", nbest, "--references", references, "--lm-scale", "0", "--output", str(tmp_path / "again"),
                  "--arpa", str(tmp_path / "model.arpa")])  # fmt: skip
    rate = f"{rate_of(exp_dir, 'modified_beam_search', 'test-clean'):.2f} %"
    assert f"WER {rate} -> {rate}" in capsys.readouterr().out

    stamp = (directory / facts["nbest"]).stat().st_mtime_ns
    run(exp_dir, data, *beam, "--length-norm", "false", sets=("test-clean",))  # fewer hypotheses are not decoded again
    assert (directory / facts["nbest"]).stat().st_mtime_ns == stamp
    (directory / facts["nbest"]).unlink()
    run(exp_dir, data, *beam, "--length-norm", "false", "--nbest", "5", sets=("test-clean",))
    assert read_nbest(directory / facts["nbest"]) == lists
    with pytest.raises(UserError, match="--nbest has no effect with greedy_search"):
        run(exp_dir, data, "--method", "greedy_search", "--nbest", "2")
    with pytest.raises(UserError, match=r"--nbest must be at most --beam-size \(6\), got 7"):
        run(exp_dir, data, *beam, "--nbest", "7")


def test_settings_that_change_the_answer_do_not_overwrite(tmp_path: Path, data: Path) -> None:
    exp_dir = make_experiment(tmp_path / "exp", data)
    run(exp_dir, data, "--beam-size", "2", sets=("test-clean",))
    run(exp_dir, data, "--beam-size", "3", "--length-norm", "false", sets=("test-clean",))
    names = {path.name for path in (exp_dir / "modified_beam_search").glob("decode-*")}
    assert names == {
        "decode-test-clean-best-modified_beam_search-beam-size-2-length-norm.json",
        "decode-test-clean-best-modified_beam_search-beam-size-3-no-length-norm.json",
    }


def test_epochs_and_single_files_are_named_in_the_suffix(tmp_path: Path, data: Path) -> None:
    exp_dir = make_experiment(tmp_path / "exp", data)
    shutil.copy(exp_dir / "best.safetensors", exp_dir / "epoch-1.safetensors")
    run(exp_dir, data, "--epoch", "1", "--method", "greedy_search", sets=("test-clean",))
    assert facts_of(exp_dir, "greedy_search", "test-clean")["suffix"] == "epoch-1-greedy_search"
    cuts, lang_dir = data / "fbank" / "librispeech_cuts_test-other.jsonl.gz", data / "lang_bpe_27"
    checkpoint = ["--checkpoint", str(exp_dir / "epoch-1.safetensors"), "--method", "greedy_search"]
    decode.main([*checkpoint, "--cuts", str(cuts), "--lang-dir", str(lang_dir)])
    assert facts_of(exp_dir, "greedy_search", "test-other")["suffix"] == "epoch-1-greedy_search"


def test_without_audio_the_time_excludes_features(tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture) -> None:
    exp_dir = make_experiment(tmp_path / "exp", data)
    audio, elsewhere = data / "LibriSpeech", data / "elsewhere"
    audio.rename(elsewhere)
    try:
        with caplog.at_level(logging.WARNING):
            run(exp_dir, data, "--method", "greedy_search", sets=("test-clean",))
    finally:
        elsewhere.rename(audio)
    facts = facts_of(exp_dir, "greedy_search", "test-clean")
    assert facts["features_included"] is False and facts["feature_seconds"] is None
    assert "1-7-0" in caplog.text and "exclude features" in caplog.text


def test_an_exported_network_is_decoded_with_and_tabulated(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    exp_dir, lang_dir = make_experiment(tmp_path / "exp", data), ["--lang-dir", str(data / "lang_bpe_27")]
    export.main(["--exp-dir", str(exp_dir), *lang_dir, "--output", str(tmp_path / "export")])
    cuts = ["--cuts", str(data / "fbank/librispeech_cuts_test-clean.jsonl.gz"), *lang_dir, "--method", "greedy_search"]
    decode.main(["--exp-dir", str(exp_dir), *cuts])
    for form in ("float32", "int8"):
        decode.main(["--exported", str(tmp_path / "export"), "--form", form, *cuts])
    tokens = (tmp_path / "export/tokens.txt").read_text().splitlines()
    names, ids = zip(*(line.split() for line in tokens))
    other = [*names[:5], names[6], names[5], *names[7:]]  # equally many tokens, of another model
    shutil.copytree(tmp_path / "export", tmp_path / "other")
    (tmp_path / "other/tokens.txt").write_text("".join(f"{name} {index}\n" for name, index in zip(other, ids)))
    with pytest.raises(
        UserError, match=r"other/tokens.txt does not match .*; give the --lang-dir that it was exported"
    ):
        decode.main(["--exported", str(tmp_path / "other"), *cuts])
    name = "greedy_search/recogs-test-clean-best-greedy_search.txt"
    assert (tmp_path / "export/float32" / name).read_text() == (exp_dir / name).read_text()
    pytest.importorskip("sherpa_onnx", reason="the extra 'export' is not installed")
    decode.main(["--exported", str(tmp_path / "export"), "--engine", "sherpa-onnx", *cuts])
    theirs = tmp_path / "export/float32-sherpa-onnx"
    names = [line.split(":")[0] for line in (theirs / name).read_text().splitlines()]
    assert names == [line.split(":")[0] for line in (exp_dir / name).read_text().splitlines()]
    assert facts_of(theirs, "greedy_search", "test-clean")["features_included"] is True
    systems = [f"{row}={place}" for row, place in (("dense", exp_dir), ("int8", tmp_path / "export/int8"),
                                                   ("sherpa", theirs))]  # fmt: skip
    arguments = ["--sets", "test-clean", "--method", "greedy_search", "--output", str(tmp_path / "RESULTS.md")]
    report.main(["--systems", *systems, *arguments])
    assert all(f"| {row} " in (tmp_path / "RESULTS.md").read_text() for row in ("int8", "sherpa"))


def test_bad_input_is_told_before_anything_is_written(tmp_path: Path, data: Path) -> None:
    exp_dir = make_experiment(tmp_path / "exp", data)
    cuts = ["--cuts", str(data / "fbank" / "librispeech_cuts_test-clean.jsonl.gz")]
    lang_dir = ["--lang-dir", str(data / "lang_bpe_27")]
    exp = ["--exp-dir", str(exp_dir)]
    gated = make_experiment(tmp_path / "gated", data, found_structure={})
    for wrong, complaint in [
        ([*exp, *cuts, "--lang-dir", str(data / "lang_bpe_26")], "lang_bpe_26 has 26 tokens but .*exp has 27"),
        ([*exp, *cuts, "--lang-dir", str(tmp_path)], "bpe.model does not exist"),
        ([*exp, "--cuts", str(tmp_path / "none.jsonl.gz"), *lang_dir], "none.jsonl.gz do not exist"),
        (["--exp-dir", str(tmp_path / "nothing"), *cuts, *lang_dir], "nothing does not exist"),
        ([*exp, *cuts, *lang_dir, "--epoch", "7"], "epoch-7.safetensors does not exist"),
        ([*exp, "--checkpoint", "a.safetensors", *cuts, *lang_dir], "one of --exp-dir, --checkpoint and --exported"),
        (["--exp-dir", str(gated), *cuts, *lang_dir], "gated is of a pruning run; extract it first"),
        ([*exp, *cuts, *lang_dir, "--method", "viterbi"], "method must be one of greedy_search, .*, got 'viterbi'"),
        ([*exp, *cuts, *lang_dir, "--engine", "sherpa-onnx"], "sherpa-onnx needs an exported network; give --exported"),
        ([*exp, *cuts, cuts[1], *lang_dir], "named after the same set, test-clean"),
    ]:
        with pytest.raises(UserError, match=complaint):
            decode.main(wrong)
    assert {path.name for path in exp_dir.iterdir()} == {"best.safetensors", "model.json"}


@pytest.mark.parametrize("fault", ["repeated", "no words", "width"])
def test_faults_of_the_last_set_are_told_before_the_first_is_decoded(tmp_path: Path, data: Path, fault: str) -> None:
    exp_dir = make_experiment(tmp_path / "exp", data)
    paths = manifests.Paths(data / "fbank")
    items = [json.loads(line) for line in gzip.decompress(paths.cuts("test-other").read_bytes()).splitlines()]
    if fault == "repeated":
        items.append(items[0])
    elif fault == "no words":
        items[3]["supervisions"] = []
    else:
        items[3]["features"]["num_features"] = 40
    last = tmp_path / "cuts.jsonl"
    last.write_text("".join(json.dumps(item) + "\n" for item in items))
    sets = ["--cuts", str(paths.cuts("test-clean")), str(last)]
    complaint = {"repeated": "occurs twice", "no words": "0 transcripts", "width": "takes 80"}[fault]
    with pytest.raises(UserError, match=complaint):
        run(exp_dir, data, "--method", "greedy_search", *sets)
    assert not (exp_dir / "greedy_search").exists()


def test_scoring_in_characters_has_files_of_its_own(tmp_path: Path, data: Path) -> None:
    exp_dir = make_experiment(tmp_path / "exp", data)
    for unit in ("words", "characters"):
        run(exp_dir, data, "--method", "greedy_search", "--score-in", unit, sets=("test-clean",))
    names = {path.name for path in (exp_dir / "greedy_search").glob("decode-*")}
    assert names == {f"decode-test-clean-best-greedy_search{end}.json" for end in ("", "-characters")}


def test_the_report_is_of_what_was_asked_for_last(tmp_path: Path, data: Path) -> None:
    exp_dir = make_experiment(tmp_path / "exp", data)
    shutil.copy(exp_dir / "best.safetensors", exp_dir / "epoch-1.safetensors")
    first, second = (("--beam-size", size, "--length-norm", "false") for size in ("1", "2"))
    for options in (first, second, ("--epoch", "1")):
        run(exp_dir, data, *options, sets=("test-clean",))
    directory = exp_dir / "modified_beam_search"
    path = directory / "decode-test-clean-best-modified_beam_search-beam-size-1-no-length-norm.json"
    for old in directory.glob("decode-*"):  # make them look old
        record = Measurement.read(old)
        replace(record, provenance={**record.provenance, "date": "2024-05-01T10:00:00+00:00"}).write(old)
    run(exp_dir, data, *first, sets=("test-clean",))
    output = tmp_path / "RESULTS.md"
    common = ["--systems", f"a={exp_dir}", "--sets", "test-clean", "--method", path.parent.name]
    report.main([*common, "--output", str(output)])
    assert "--beam-size 1" in output.read_text()
    report.main([*common, "--epoch", "1", "--output", str(output)])
    assert "--epoch 1`" in output.read_text()
    with pytest.raises(UserError, match="none of a was decoded with modified_beam_search, --epoch 1, --avg 1; run"):
        report.main([*common, "--epoch", "1", "--avg", "1", "--output", str(output)])


def test_the_report_tells_what_was_measured(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = make_experiment(tmp_path / "a", data), make_experiment(tmp_path / "b", data, seed=1)
    run(first, data, "--method", "greedy_search")
    run(second, data, "--method", "greedy_search", sets=("test-clean",))
    untouched = make_experiment(tmp_path / "c", data, seed=2)
    output = tmp_path / "RESULTS.md"
    systems = [f"dense={first}", f"half={second}", f"none={untouched}"]
    common = ["--sets", "test-clean", "test-other", "--output", str(output)]
    report.main(["--systems", *systems, *common, "--method", "greedy_search", "ctc_greedy_search"])
    text = output.read_text()
    for set_name in ("test-clean", "test-other"):
        assert f"{rate_of(first, 'greedy_search', set_name):.2f} (" in text
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    rows = {cells[0]: dict(zip(table[0], cells)) for cells in table[1:]}
    assert set(rows) == {"dense", "half"}
    assert rows["half"]["test-other WER %"] == rows["half"]["pooled WER %"] == "-"
    assert rows["dense"]["pooled WER %"] != "-"
    assert "ctc_greedy_search" not in text.replace("--method", "")
    assert "python -m pruning.bin.decode --exp-dir" in text and "1 thread of" in text
    assert "dense" in capsys.readouterr().out
    with pytest.raises(UserError, match="none of none was decoded with greedy_search"):
        report.main(["--systems", systems[2], *common, "--method", "greedy_search"])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--device", "cud"], "--device cud is not available"),
        (["--device", "cuda:99"], "--device cuda:99 is not available"),
        (["--scales-from", "scales.json"], "scales.json contains no language-model weights"),
    ],
)
def test_options_that_cannot_be_followed(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, extra: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scales.json").write_text('{"best": [1]}')
    with pytest.raises(UserError, match=message):
        run(tmp_path / "exp", data, "--method", "modified_beam_search_lm_shallow_fusion", *extra)


def test_the_export_of_another_kind_of_network_is_told(tmp_path: Path, data: Path) -> None:
    (tmp_path / "model.onnx").touch()
    cuts = str(data / "fbank" / "librispeech_cuts_test-clean.jsonl.gz")
    with pytest.raises(UserError, match="contains an exported encoder with a head"):
        decode.main(["--exported", str(tmp_path), "--cuts", cuts, "--lang-dir", str(data / "lang_bpe_27"),
                     "--method", "greedy_search"])  # fmt: skip
