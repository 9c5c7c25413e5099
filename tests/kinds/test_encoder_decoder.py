"""Encoder-decoders, from a Hugging Face directory to a small network by the commands, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pruning.bin import (
    decode,
    extract,
    finetune,
    gradient_shares,
    import_hf,
    label,
    one_shot,
    prune,
    rescore,
    train,
    uniform,
)
from pruning.core.structure import KeptUnits, Structure
from pruning.core.units import UnitGroup
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.experiments.measurement import Measurement, sample
from pruning.files import read_json, write_json
from pruning.importers import small_network
from pruning.importers.small_network import SmallConfig
from pruning.kinds.encoder_decoder import EncoderDecoderKind
from pruning.kinds.heard import source_of
from pruning.models import facts
from pruning.models.encoder_decoder import EncoderDecoder
from pruning.models.encoder_decoder_config import FAMILY_NAMES, MOONSHINE, WHISPER
from pruning.speech.data import manifests
from pruning.speech.data.batches import evaluation_batches
from pruning.speech.data.data_config import DataConfig
from pruning.speech.decoding import labelling
from pruning.speech.decoding.n_best import read_nbest
from pruning.speech.decoding.own_decoder import Bounds, greedy_tokens
from pruning.speech.scoring.word_errors import read_transcripts
from pruning.speech.text.network_tokens import NetworkTokens
from tests.kinds.test_encoder_head import WORDS
from tests.kinds.test_encoder_head import work as speech

__all__ = ["speech"]

pytest.importorskip("tokenizers", reason="the extra 'hf' is not installed")
UNITS = ("frontend", "heads", "cross_heads", "ffn", "width")
MODULES = ("attention_module", "cross_attention_module", "ffn_module")


def import_small(place: Path, family: str = MOONSHINE) -> Path:
    """Import a small network with a window of one second; return its experiment."""
    small_network.write(place / "source", WORDS.values(), SmallConfig(family, 32, 2, 270, seconds=1))
    import_hf.main(["--source", str(place / "source"), "--exp-dir", str(place / "imported"), "--lang-dir",
                    str(place / "lang")])  # fmt: skip
    return place / "imported"


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Imported networks, each with its tokens in ``lang`` beside it."""
    return {family: import_small(tmp_path_factory.mktemp(family), family) for family in FAMILY_NAMES}


def settings(path: Path, **values: Any) -> Path:
    common: dict[str, Any] = {
        "kind": "encoder_decoder",
        "data": {"max_duration": 4.0, "num_buckets": 1, "num_workers": 0, "spec_augment": {"time_warp_factor": 0}},
        "trainer": {"max_steps": 6, "valid_interval": 3, "num_threads": 1, "tensorboard": False,
                    "optimiser": {"lr": 2e-3}},
    }  # fmt: skip
    for key, value in values.items():
        common[key] = {**common[key], **value} if isinstance(common.get(key), dict) else value
    path.write_text(yaml.safe_dump(json.loads(json.dumps(common))))
    return path


def options(speech: Path, teacher: Path, exp_dir: Path, config: Path) -> list[str]:
    data = [
        word for part in ("train", "dev") for word in (f"--{part}-cuts", str(speech / f"slurp_cuts_{part}.jsonl.gz"))
    ]
    return ["--config", str(config), "--exp-dir", str(exp_dir), "--lang-dir", str(teacher.parent / "lang"), *data]


def pruning_settings(path: Path, **values: Any) -> Path:
    return settings(path, **{"constraint": {"size": 0.0, "macs": 0.3, "ramp_share": 0.5, "seconds": 1.0},
                             "l0": {"gate_lr": 0.5, "multiplier_lr": 5.0}, **values})  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_from_a_directory_to_a_small_network(
    speech: Path, imported: dict[str, Path], tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """L0 pruning for MACs with distillation, extraction, fine-tuning, decoding and rescoring of its lists."""
    teacher = imported[family]
    distillation = {"layers": [0, 2, 3, 4], "output_weight": 0.5}
    pruning = pruning_settings(tmp_path / "prune.yaml", distillation=distillation, trainer={"max_steps": 12})
    prune.main([*options(speech, teacher, tmp_path / "pruned", pruning), "--teacher", str(teacher)])
    extract.main(["--pruned", str(tmp_path / "pruned"), "--exp-dir", str(tmp_path / "small")])
    tuning = settings(tmp_path / "finetune.yaml", distillation=distillation, loss={"label_smoothing": 0.1})
    capsys.readouterr()
    words = options(speech, teacher, tmp_path, pruning)
    gradient_shares.main([*words[:2], *words[4:], "--init", str(tmp_path / "pruned"), "--teacher", str(teacher)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["task", "distil_layers", "distil_output"]
    finetune.main([*options(speech, teacher, tmp_path / "tuned", tuning), "--init", str(tmp_path / "small"),
                   "--teacher", str(teacher)])  # fmt: skip
    tokens = NetworkTokens(teacher.parent / "lang")
    model, header = EncoderDecoderKind.load_network(tmp_path / "tuned", tokens)
    assert header["pretrained"] == "source" and "structure" in header
    before, after = (facts.cost_model(one, 1.0).dense["macs"]
                     for one in (EncoderDecoderKind.load_network(teacher)[0], model))  # fmt: skip
    assert after == pytest.approx(0.7 * before, abs=0.03 * before)
    known = facts.read_facts(tmp_path / "tuned")
    assert known["dense"]["decoder_parameters"] == facts.read_facts(teacher)["decoder_parameters"]
    cuts = str(speech / "slurp_cuts_dev.jsonl.gz")
    decoding = ["--exp-dir", str(tmp_path / "tuned"), "--cuts", cuts, "--lang-dir", str(teacher.parent / "lang")]
    decode.main([*decoding, "--method", "decoder_beam_search", "--nbest", "3"])
    lists = next((tmp_path / "tuned" / "decoder_beam_search").glob("nbest-dev-*.txt"))
    found = read_nbest(lists)
    assert len(found) == 6 and max(map(len, found.values())) > 1
    (tmp_path / "lm.arpa").write_text(
        "\\data\\\nngram 1=4\n\n\\1-grams:\n-1 <s>\n-1 </s>\n-1 <unk>\n-1 ONE\n\n\\end\\\n"
    )
    rescore.main(["--nbest", str(lists), "--output", str(tmp_path / "new"), "--arpa", str(tmp_path / "lm.arpa"),
                  "--lm-scale", "0"])  # fmt: skip
    first = {one.id: " ".join(one.hypothesis) for one in read_transcripts(next(lists.parent.glob("recogs-*")))}
    assert {name: entries[0].text for name, entries in found.items()} == first


def half(groups: list[UnitGroup], kinds: tuple[str, ...]) -> Structure:
    """Return a structure that keeps every other unit of some kinds, and the modules of every other layer."""
    kept = {}
    for group in groups:
        units = range(group.size)
        if group.kind in kinds:
            modules = range(group.size if (group.layer or 0) % 2 else 0)
            units = modules if group.kind in MODULES else range(0, group.size, 2)
        kept[group.name] = KeptUnits(group.kind, group.size, tuple(units))
    return Structure(kept)


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("kinds", [*((kind,) for kind in (*UNITS, *MODULES)), (*UNITS, *MODULES)], ids="+".join)
def test_masked_equals_extracted(
    speech: Path, imported: dict[str, Path], tmp_path: Path, family: str, kinds: tuple[str, ...]
) -> None:
    """The command compares the outputs of the masked and the extracted network, which can be trained."""
    teacher = imported[family]
    model, _ = EncoderDecoderKind.load_network(teacher)
    structure = half(model.unit_groups("width" in kinds), kinds)
    write_json(tmp_path / "structure.json", structure.to_dict())
    extract.main(["--pruned", str(teacher), "--structure", str(tmp_path / "structure.json"), "--exp-dir",
                  str(tmp_path / "small")])  # fmt: skip
    header = checkpoint.read_header(checkpoint.best_path(tmp_path / "small"))
    assert header["exactness"] < 1e-4
    known = facts.read_facts(tmp_path / "small")
    assert known["parameters"] < 0.99 * known["dense"]["parameters"]
    if len(kinds) > 1:
        tuning = settings(tmp_path / "finetune.yaml", trainer={"max_steps": 2, "valid_interval": 2},
                          distillation={"spread": 5, "output_weight": 1.0})  # fmt: skip
        finetune.main([*options(speech, teacher, tmp_path / "tuned", tuning), "--init", str(tmp_path / "small"),
                       "--teacher", str(teacher)])  # fmt: skip


@pytest.mark.slow
def test_words_are_learned_and_decoded(speech: Path, imported: dict[str, Path], tmp_path: Path) -> None:
    """The pitch says the words; the decode command finds the greedy tokens, and scores them after normalisation."""
    teacher = imported[MOONSHINE]
    config = settings(tmp_path / "train.yaml", data={"sample_augment": {"enabled": False}},
                      trainer={"max_steps": 120, "valid_interval": 60, "optimiser": {"lr": 5e-3}})  # fmt: skip
    train.main([*options(speech, teacher, tmp_path / "dense", config), "--init", str(teacher)])
    rows = [json.loads(line) for line in (tmp_path / "dense" / "metrics.jsonl").read_text().splitlines()]
    assert [row for row in rows if row["kind"] == "dev"][-1]["accuracy"] > 0.8
    cuts, lang = str(speech / "slurp_cuts_dev.jsonl.gz"), teacher.parent / "lang"
    arguments = ["--exp-dir", str(tmp_path / "dense"), "--cuts", cuts, "--lang-dir", str(lang), "--method",
                 "decoder_greedy_search"]  # fmt: skip
    decode.main(arguments)
    place = tmp_path / "dense" / "decoder_greedy_search"
    measured = Measurement.read(next(place.glob("decode-dev-*.json")))
    assert sample([measured]).interval.value < 50 and measured.facts["features_included"]
    assert "normalise" not in measured.facts and "normalise" not in measured.parameters
    model, _ = EncoderDecoderKind.load_network(tmp_path / "dense")
    tokens, found = NetworkTokens(lang), {}
    with torch.no_grad():
        for batch in evaluation_batches(DataConfig(num_workers=0), [cuts], source=source_of(model.eval().encoder)):
            encoded = model.encoder(batch.features, batch.lengths)
            texts = greedy_tokens(model, encoded.output, encoded.lengths, Bounds.of(tokens.form, batch.durations, 10.0))
            found.update(zip(batch.ids, map(tokens.decode, texts)))
    written = {one.id: " ".join(one.hypothesis) for one in read_transcripts(next(place.glob("recogs-dev-*")))}
    assert written == found
    pytest.importorskip("whisper_normalizer", reason="the extra 'hf' is not installed")
    decode.main([*arguments, "--normalise", "english"])
    normalised = Measurement.read(next(place.glob("decode-dev-*-normalise-english.json")))
    assert normalised.facts["words"] == measured.total("words")
    assert normalised.parameters["normalise"].startswith("whisper-normalizer ")
    words = [one.reference for one in read_transcripts(next(place.glob("recogs-dev-*-normalise-english.txt")))]
    assert {" ".join(one) for one in words} == {"12", "2", "one"}, "numbers as digits"


def test_a_uniform_network_fits_the_budget(imported: dict[str, Path], tmp_path: Path) -> None:
    arguments = ["--dense", str(imported[MOONSHINE]), "--share", "0.8", "--output", str(tmp_path / "uniform.json")]
    uniform.main(arguments)
    model = EncoderDecoderKind.build(read_json(tmp_path / "uniform.json"))
    dense, _ = EncoderDecoderKind.load_network(imported[MOONSHINE])
    share = facts.cost_model(model, 10.0).dense["size"] / facts.cost_model(dense, 10.0).dense["size"]
    assert 0.7 < share <= 0.8
    with pytest.raises(UserError, match="cannot be narrowed by depth; give --narrow units"):
        uniform.main([*arguments, "--narrow", "depth"])


def test_costs_of_parts_can_be_constrained(imported: dict[str, Path]) -> None:
    """``encoder`` stands for all kinds that begin with it."""
    model, _ = EncoderDecoderKind.load_network(imported[MOONSHINE])
    assert isinstance(model, EncoderDecoder)
    costs = facts.costs_at(model, 160000)
    of = type(costs)(costs.groups, costs.terms, parts=("macs:encoder", "size:decoder", "macs:output"))
    known = facts.network_facts(model)
    assert of.dense["macs:encoder"] == known["macs_10s"] and of.dense["macs:output"] == known["output_macs_10s"]
    assert of.dense["size:decoder"] == known["decoder_parameters"]
    with pytest.raises(ValueError, match="'macs:enc' is not of the form"):
        type(costs)(costs.groups, costs.terms, parts=("macs:enc",))


@pytest.mark.parametrize(("method", "technique", "target"), [("taylor", "structured", 0.2), ("wanda", "low_rank", 0.1)])
def test_a_target_of_the_encoder_leaves_the_decoder_whole(
    speech: Path, imported: dict[str, Path], tmp_path: Path, method: str, technique: str, target: float
) -> None:
    teacher = imported[WHISPER]
    config = settings(tmp_path / "prune.yaml", constraint={"size": 0, "parts": {"macs:encoder": target}})
    one_shot.main([*options(speech, teacher, tmp_path / "small", config), "--teacher", str(teacher), "--method", method,
                   "--technique", technique, "--batches", "2", "--repair", "0"])  # fmt: skip
    before, after = (facts.read_facts(place) for place in (teacher, tmp_path / "small"))
    assert 1 - after["macs_10s"] / before["macs_10s"] == pytest.approx(target, abs=0.03)
    assert after["decoder_parameters"] == before["decoder_parameters"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distillation": {"layers": [5], "layer_weight": 1.0}}, "the teacher has layers 0 .input. to 4"),
        ({"distillation": {"loss": "cofi"}}, "distillation.loss=cofi are only for transducers"),
        ({"data": {"musan_cuts": "x"}}, "data.musan_cuts is only for networks that take features of cuts"),
        ({"loss": {"freeze": ["head"]}}, "loss.freeze has 'head', but no parameter name starts with it"),
    ],
)
def test_what_does_not_fit_is_refused(
    speech: Path, imported: dict[str, Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    teacher = imported[MOONSHINE]
    config = settings(tmp_path / "train.yaml", **changes)
    with pytest.raises(UserError, match=message):
        train.main([*options(speech, teacher, tmp_path / "new", config), "--init", str(teacher), "--teacher",
                    str(teacher)])  # fmt: skip
    assert not (tmp_path / "new" / "best.safetensors").exists()


def one_is_cut_off(teacher: Path, place: Path, count: int, caplog: pytest.LogCaptureFixture) -> None:
    """Of a test set, the beginning of a long utterance is recognised; it gets no label."""
    common = ["--cuts", str(place / "long.jsonl.gz"), "--lang-dir", str(teacher.parent / "lang")]
    decode.main([*common, "--checkpoint", str(teacher / "best.safetensors"), "--method", "decoder_greedy_search"])
    said = f"1 of {count} utterances of {place / 'long.jsonl.gz'} are longer than the 1 s that the network takes"
    assert said in caplog.text
    label.main([*common, "--teacher", str(teacher), "--output-dir", str(place / "labels"), "--labels", "equal"])
    assert read_json(place / "labels" / "long.jsonl.gz.labels.json")["long"] == 1
    assert len(list(manifests.iterate_cuts(place / "labels" / "long.jsonl.gz"))) == count - 1


@pytest.mark.parametrize("wrong", ["long recording", "long transcript", "long dev recording", "tokens"])
def test_data_that_do_not_fit_are_refused(
    speech: Path, imported: dict[str, Path], tmp_path: Path, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One line that names the cut, before training or decoding begins."""
    from lhotse import load_manifest

    teacher = imported[WHISPER]
    config = settings(tmp_path / "train.yaml")
    arguments = options(speech, teacher, tmp_path / "new", config)
    cuts = load_manifest(speech / "slurp_cuts_train.jsonl.gz").to_eager()
    one = next(iter(cuts))
    if wrong == "tokens":
        arguments[arguments.index("--lang-dir") + 1] = str(imported[MOONSHINE].parent / "lang")
        message = "are not those of the checkpoint|tokens but the checkpoint has"
    elif wrong == "long transcript":
        one.supervisions[0].text = "ONE " * 300
        message = f"the transcript of cut {one.id} has [0-9]+ tokens, but the decoder takes 448; cut the recording into"
    elif wrong == "long dev recording":
        arguments += ["data.max_duration=0.3", "data.max_evaluated_duration=0.3"]
        message = "cuts of dev and test sets may last 0.3 s; divide its recording"
    elif wrong == "long recording":
        silent = one.drop_supervisions()
        cuts = cuts.from_cuts([*cuts, one.append(silent).append(silent).with_id("three times")])
        message = "cut three times.*does not fit Whisper's window of 1 s"
        cuts.to_file(tmp_path / "long.jsonl.gz")
        one_is_cut_off(teacher, tmp_path, len(cuts), caplog)
    cuts.to_file(tmp_path / "slurp_cuts_train.jsonl.gz")
    arguments[arguments.index("--train-cuts") + 1] = str(tmp_path / "slurp_cuts_train.jsonl.gz")
    with pytest.raises(UserError, match=message):
        train.main([*arguments, "--init", str(teacher)])
    assert not (tmp_path / "new" / "best.safetensors").exists()


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("part", ["train", "dev"])
@pytest.mark.parametrize(("text", "message"), [("", "the transcript of cut {} is empty"),
                                               ("ONE {}", "cut {}: the text '.*' contains the symbol")])  # fmt: skip
def test_transcripts_are_checked_before_training(
    speech: Path, imported: dict[str, Path], tmp_path: Path, family: str, part: str, text: str, message: str
) -> None:
    """The last one, which is in no batch of the first steps."""
    from lhotse import load_manifest

    teacher, name = imported[family], f"slurp_cuts_{part}.jsonl.gz"
    cuts = load_manifest(speech / name).to_eager()
    *_, last = cuts
    last.supervisions[0].text = text.format(next(iter(NetworkTokens(teacher.parent / "lang").special())))
    cuts.to_file(tmp_path / name)
    arguments = options(speech, teacher, tmp_path / "new", settings(tmp_path / "train.yaml"))
    arguments[arguments.index(f"--{part}-cuts") + 1] = str(tmp_path / name)
    with pytest.raises(UserError, match=message.format(last.id)):
        train.main([*arguments, "--init", str(teacher)])
    assert not (tmp_path / "new" / "metrics.jsonl").exists() and not (tmp_path / "new" / "config.yaml").exists()


def test_another_search_is_refused(speech: Path, imported: dict[str, Path]) -> None:
    teacher = imported[WHISPER]
    with pytest.raises(UserError, match="does not support decoding method greedy_search; choose one of decoder_greedy"):
        decode.main(["--exp-dir", str(teacher), "--cuts", str(speech / "slurp_cuts_dev.jsonl.gz"), "--lang-dir",
                     str(teacher.parent / "lang"), "--method", "greedy_search"])  # fmt: skip


def test_labels_of_a_teacher(speech: Path, imported: dict[str, Path], tmp_path: Path) -> None:
    """Interrupted work is continued at the next batch, and finished work is not repeated."""
    teacher, cuts = imported[MOONSHINE], speech / "slurp_cuts_dev.jsonl.gz"
    arguments = ["--cuts", str(cuts), "--teacher", str(teacher), "--lang-dir", str(teacher.parent / "lang"),
                 "--max-duration", "1.0"]  # fmt: skip

    def labelled(place: str, *options: str) -> tuple[dict[str, str], dict[str, Any]]:
        label.main([*arguments, "--output-dir", str(tmp_path / place), *options])
        path = tmp_path / place / cuts.name
        texts = {cut.id: cut.supervisions[0].text for cut in manifests.iterate_cuts(path)}
        for cut in manifests.iterate_cuts(path):
            assert cut.supervisions[0].custom["transcript"] in WORDS.values()
        return texts, read_json(path.with_name(f"{path.name}.labels.json"))

    texts, record = labelled("plain", "--labels", "transcript")
    assert set(texts.values()) == {"One two.", "Two.", "One."} and (record["kept"], record["replaced"]) == (6, 0)
    pytest.importorskip("whisper_normalizer", reason="the extra 'hf' is not installed")
    texts, record = labelled("equal")
    assert set(texts.values()) == {"One two.", "Two.", "One."} and record["kept"] == 6, "a random teacher"
    with pytest.raises(UserError, match=r"no text is left of .*dev.* \(0 texts: .*6 that loop"):
        labelled("loops", "--labels", "teacher", "--tokens-per-second", "0.1")
    part = tmp_path / "loops" / f"{cuts.name}.part.jsonl"
    lines = part.read_text().splitlines(keepends=True)
    assert len(lines) > 3, "the parameters and several batches"
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        whole = labelling.Transcriber.batches
        patch.setattr(labelling.Transcriber, "batches", lambda *of: seen.append(of[2]) or whole(*of))
        for place, written in (("same", lines[:2] + [lines[2][:-9]]), ("other", ["{}\n", *lines[1:]])):
            (tmp_path / place).mkdir()
            (tmp_path / place / part.name).write_text("".join(written))
            with pytest.raises(UserError, match="no text is left of"):
                labelled(place, "--labels", "teacher", "--tokens-per-second", "0.1")
            assert (tmp_path / place / part.name).read_text() == "".join(lines)
    assert seen == [1, 0], "batches that were done before"
    before = (tmp_path / "equal" / cuts.name).stat().st_mtime_ns
    labelled("equal")
    assert (tmp_path / "equal" / cuts.name).stat().st_mtime_ns == before
    with pytest.raises(UserError, match="--labels teacher needs a teacher; give --teacher and --lang-dir"):
        label.main(["--cuts", str(cuts), "--output-dir", str(tmp_path), "--labels", "teacher"])
    with pytest.raises(UserError, match="contains slurp_cuts_dev.jsonl.gz itself; give another directory"):
        label.main(["--cuts", str(cuts), "--output-dir", str(speech), "--labels", "transcript"])


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_repair_brings_the_outputs_closer(speech: Path, imported: dict[str, Path], tmp_path: Path, family: str) -> None:
    """Least squares on transcripts of the training cuts, for both parts."""
    teacher, cuts = imported[family], speech / "slurp_cuts_train.jsonl.gz"
    model, _ = EncoderDecoderKind.load_network(teacher)
    write_json(tmp_path / "structure.json", half(model.unit_groups(), ("heads", "cross_heads", "ffn")).to_dict())
    arguments = ["--pruned", str(teacher), "--structure", str(tmp_path / "structure.json")]
    data = ["--train-cuts", str(cuts), "--lang-dir", str(teacher.parent / "lang"), "--max-duration", "4"]
    extract.main([*arguments, "--exp-dir", str(tmp_path / "plain")])
    extract.main([*arguments, "--exp-dir", str(tmp_path / "repaired"), "--repair", "20", *data])
    table = NetworkTokens(teacher.parent / "lang")
    batch = next(iter(EncoderDecoderKind.calibration(model, table, [cuts], 4.0)))
    start = [model.config.decoder.start, *batch.tokens[0]][: len(table.form.start)]
    assert tuple(start) == table.form.start, "transcripts begin as the network knows them"
    with torch.no_grad():
        expected = EncoderDecoderKind.forward(model, batch)
        errors = [(EncoderDecoderKind.forward(EncoderDecoderKind.load_network(tmp_path / name)[0], batch) - expected)
                  .square().mean() for name in ("plain", "repaired")]  # fmt: skip
    assert errors[1] < 0.5 * errors[0]
