"""What older versions wrote is read in today's form, at the door."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import convert_results
from pruning import configuration, old_forms
from pruning.errors import UserError
from pruning.experiments.measurement import Measurement, Utterances
from pruning.files import write_json
from pruning.kinds import language_model, transducer
from pruning.speech.scoring.word_errors import Transcript, write_results
from pruning.sweeps import comparison

OLD = "gating: {gate_lr: 0.3, gates: {kinds: [ffn]}}\ncalibration_batches: 7\nlow_rank: {}\n"


def test_an_old_configuration_is_that_of_today(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(OLD)
    found = configuration.load(language_model.PruneConfig, tmp_path / "old.yaml", ["gating.multiplier_lr=0.5"])
    assert (found.l0.gate_lr, found.l0.multiplier_lr, found.l0.gates.kinds) == (0.3, 0.5, ("ffn",))
    assert found.low_rank.calibration_batches == 7
    configuration.save(found, tmp_path / "new.yaml")
    assert "gating" not in (tmp_path / "new.yaml").read_text()
    assert configuration.load(language_model.PruneConfig, tmp_path / "new.yaml") == found


def test_keys_are_added_to_parts_that_are_there() -> None:
    """A network's dimensions are optional; those of other encoders do not get the key."""
    old = {"model": {"encoder": {"d_model": 8}}}
    assert old_forms.configuration(old) == {"model": {"encoder": {"d_model": 8, "dense_dim": 0}}}
    assert old == {"model": {"encoder": {"d_model": 8}}}
    assert old_forms.configuration({"model": {"mix": True}}) == {"model": {"mix": True, "ranks": {}}}
    for same in ({"model": None}, {"model": {"encoder": {"type": "conformer", "config": {"d_model": 8}}}}, {},
                 {"model": {"encoder": {"d_model": 8, "dense_dim": 9}}}):  # fmt: skip
        assert old_forms.configuration(same) == same


def test_mistakes_in_an_old_configuration_are_told_by_the_key_of_today(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("gating: {gate_lr: -1}\n")
    with pytest.raises(UserError, match="key 'l0.gate_lr' in .*old.yaml must be at least 0, got -1"):
        configuration.load(transducer.PruneConfig, tmp_path / "old.yaml")
    (tmp_path / "both.yaml").write_text("gating: {gate_lr: 1}\nl0: {gate_lr: 1}\n")
    with pytest.raises(UserError, match="both.yaml: 'gating' is the old name of 'l0', and both are given"):
        configuration.load(transducer.PruneConfig, tmp_path / "both.yaml")


@pytest.mark.parametrize(
    ("old", "new"),
    [("gating.gate_lr=0.3", "l0.gate_lr=0.3"), ("gating={}", "l0={}"), ("calibration_batches=3", "low_rank.calibration_"
      "batches=3"), ("gatings.x=1", "gatings.x=1"), ("trainer.seed=2", "trainer.seed=2"), ("l0", "l0")],
)  # fmt: skip
def test_settings(old: str, new: str) -> None:
    assert old_forms.setting(old) == new


@pytest.mark.parametrize(
    ("key", "config", "expected"),
    [("distillation.loss", {"distillation": {"layers": []}}, True), ("distillation.loss", {}, True),
     ("distillation.loss", {"distillation": {"layers": [0]}}, False), ("distillation.layers", {}, False)],
)  # fmt: skip
def test_a_changed_default_matters_only_where_it_has_an_effect(key: str, config: dict, expected: bool) -> None:
    assert old_forms.without_effect(key, config) == expected


MADE = {"commit": "c", "command": "x", "threads": 1}
DECODING = {
    "set": "dev", "method": "greedy_search", "suffix": "best-greedy_search", "wer": 25.0, "interval": [0.0, 50.0],
    "errors": 1, "words": 4, "ins": 0, "del": 0, "sub": 1, "utterances": 2, "decoding_seconds": 1.5,
    "recogs": "recogs-dev.txt", "parameters": {"weights": "w"}, **MADE, "date": "2026-03-29T03:10:00+02:00",
}  # fmt: skip


@pytest.mark.parametrize("known", [True, False], ids=["with utterances", "with transcripts alone"])
def test_an_old_decoding(tmp_path: Path, known: bool) -> None:
    said = [Transcript("b", ["A", "B"], ["A", "X"]), Transcript("a", ["A", "B"], ["A", "B"])]
    write_results(tmp_path, "dev", "x", said)
    per_utterance = {"ids": ["a", "b"], "speakers": ["s", "t"], "errors": [0, 1], "words": [2, 2]}
    value = {**DECODING, "recogs": "recogs-dev-x.txt", **({"per_utterance": per_utterance} if known else {})}
    write_json(tmp_path / "decode.json", value)
    found = Measurement.read(tmp_path / "decode.json")
    assert found.utterances == Utterances(["a", "b"], ["s", "t"] if known else ["", ""])
    assert found.columns == {"errors": [0, 1], "words": [2, 2]} and found.totals == {"ins": 0, "del": 0, "sub": 1}
    assert found.facts == {"method": "greedy_search", "suffix": "best-greedy_search", "decoding_seconds": 1.5,
                           "recogs": "recogs-dev-x.txt"}  # fmt: skip
    assert found.provenance == {**MADE, "date": "2026-03-29T01:10:00+00:00"} and found.parameters == {"weights": "w"}
    found.write(tmp_path / "new.json")
    assert Measurement.read(tmp_path / "new.json") == found


def test_old_intents_and_likelihoods(tmp_path: Path) -> None:
    common = {"set": "dev", "parameters": {}, **MADE, "date": "2026-03-29T03:10:00+00:00", "ids": ["u", "v", "w"]}
    write_json(tmp_path / "intents.json", {**common, "accuracy": {"intent": 1 / 3, "scenario": 2 / 3, "action": 1.0},
               "utterances": 3, "interval": [0, 1], "right": [1, 0, 0], "found": ["a_b"] * 3, "unseen": 1,
               "unseen_intents": {"c_d": 1}, "seconds": 2.0})  # fmt: skip
    found = Measurement.read(tmp_path / "intents.json")
    assert [found.total(name) for name in ("correct", "scenario", "action")] == [1, 2, 3]
    assert found.facts == {"unseen_intents": {"c_d": 1}, "seconds": 2.0}
    write_json(tmp_path / "likelihood.json", {**common, "nll_per_token": 0.5, "utterances": 3, "left_out": 1,
                                              "nll": [1.0, None, 2.0], "tokens": [2, 5, 4]})  # fmt: skip
    found = Measurement.read(tmp_path / "likelihood.json")
    assert (found.what, found.known_totals("nll", "tokens")) == ("likelihood", (3.0, 6.0))


@pytest.mark.parametrize("per_token", [2.0, None], ids=["network", "n-gram"])
def test_sentences_of_an_old_perplexity_are_numbered(tmp_path: Path, per_token: float | None) -> None:
    value = {"set": "dev", "perplexity_per_word": 3.0, "perplexity_per_token": per_token, "sentences": 2, "words": 7,
             "left_out": 1, "tokens": 9, "word_nll": 5.0, "token_nll": 6.0, "nll": [2.0, 3.0], "counted": [3, 4],
             "parameters": {}, **MADE, "date": "2026-03-29T03:10:00+00:00"}  # fmt: skip
    write_json(tmp_path / "old.json", value)
    found = Measurement.read(tmp_path / "old.json")
    assert found.utterances == Utterances(["1", "2"], ["0", "0"])
    assert found.columns == {"word_nll": [2.0, 3.0], "words": [3, 4]}
    assert found.totals == {"left_out": 1, **({} if per_token is None else {"nll": 6.0, "tokens": 9})}
    for lacking in ("nll", "counted"):
        write_json(tmp_path / "old.json", {key: of for key, of in value.items() if key != lacking})
        with pytest.raises(UserError, match=f"old.json is not a measurement: it has no '{lacking}'; measure it again"):
            Measurement.read(tmp_path / "old.json")


def old_sweep(place: Path, measure: str, errors: list[float], more: dict[str, Any]) -> Path:
    """Write the results of a sweep by an older version: the teacher and one run."""
    legend = {"methods": {"a": "l0, gating.gates.kinds=[heads, ffn], gating.gate_lr=1.0"}, "claims": {}, "reference":
              "a", "targets": {"half": ["constraint.size=0.5"]}, "runs": [["half", "a", 1]], "results":
              {"teacher": "m", "half/a/seed1": "m"}, **({"measure": measure} if measure != "wer" else {})}  # fmt: skip
    write_json(place / "sweep.json", legend)
    utterances = Utterances([str(index) for index in range(len(errors))], ["s", "s", "t"])
    write_json(place / "utterances.json", {"dev": utterances.to_dict()})
    for name, named in (("teacher", {}), ("half/a/seed1", {"target": "half", "seed": 1})):
        spoken = {key: more[key] for key in ("words", "tokens") if name == "teacher"}
        of_set = {"utterances": utterances.stamp, "errors": errors, "nll": more["nll"], **spoken, "commit": "c",
                  "command": "x", "date": "2026-03-29T03:10:00+00:00"}  # fmt: skip
        write_json(place / f"{name}.json", {"method": "teacher" if name == "teacher" else "a", **named, "network": {},
                                            "dense": {}, "made_by": "m", "sets": {"dev": of_set}})  # fmt: skip
    return place


@pytest.mark.parametrize(
    ("measure", "errors", "more", "rate", "nll"),
    [
        ("wer", [0, 1, 2], {"nll": [1.0, None, 3.0], "words": [5, 5, 5], "tokens": [2, 2, 2]}, 20.0, 1.0),
        ("wer", [0, 1, 2], {"nll": [None] * 3, "words": [5, 5, 5], "tokens": [0] * 3}, 20.0, None),
        ("perplexity", [2.0, 3.0, 4.0], {"nll": [18.0], "words": [1, 1, 1], "tokens": [9]}, 300.0, 2.0),
        ("intents", [0, 1, 1], {"nll": [None] * 3, "words": [1] * 3, "tokens": [0] * 3}, 200 / 3, None),
    ],
    ids=["word errors with likelihood", "word errors", "perplexity", "intents"],
)
def test_an_old_sweep(
    tmp_path: Path, measure: str, errors: list[float], more: dict[str, Any], rate: float, nll: float | None,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Its results are read as they are; converted once, they are the same, and small."""
    place = old_sweep(tmp_path / "results" / "a", measure, errors, more)
    before = comparison.read(place)
    for line in before.lines:
        assert line.rates == pytest.approx([rate]) and line.nll_per_token == nll
    convert_results.main([str(tmp_path)])
    assert len(capsys.readouterr().out.splitlines()) == 4
    after = comparison.read(place)
    assert [line.rates.tolist() for line in after.lines] == [line.rates.tolist() for line in before.lines]
    assert [line.nll_per_token for line in after.lines] == [line.nll_per_token for line in before.lines]
    assert after.commits == ("c",) and after.legend == {"a": "l0, l0.gates.kinds=[heads, ffn], l0.gate_lr=1.0"}
    assert "words" not in json.loads((place / "half/a/seed1.json").read_text())["sets"]["dev"]["columns"]
    convert_results.main([str(tmp_path)])
    assert capsys.readouterr().out == ""


def test_measurements_are_converted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "teacher" / "greedy_search" / "decode-dev-x.json"
    write_json(path, {**DECODING, "per_utterance": {"ids": ["u"], "speakers": [""], "errors": [1], "words": [4]}})
    before = Measurement.read(path)
    convert_results.main([str(tmp_path)])
    assert capsys.readouterr().out == f"{path}\n"
    assert Measurement.read(path) == before and json.loads(path.read_text())["schema"] == 1
    convert_results.main([str(tmp_path)])
    assert capsys.readouterr().out == ""


def test_committed_results_are_converted() -> None:
    """Nothing is left for `utils/convert_results.py`."""
    root = Path(__file__).resolve().parents[1] / "egs"
    measured = [path for path in root.glob("*/results/**/*.json") if path.parent.name == "perplexity" or
                path.name in (comparison.UTTERANCES, comparison.LEGEND) or "sets" in
                json.loads(path.read_text())]  # fmt: skip
    assert len(measured) > 200
    assert [path for path in measured if json.loads(path.read_text()).get("schema") != 1] == []


def test_nothing_committed_has_an_old_form() -> None:
    root = Path(__file__).resolve().parents[1]
    found = [path for pattern in ("egs/*/conf/**/*.yaml", "egs/*/results/**/sweep.json") for path in root.glob(pattern)
             if any(f"{old}{mark}" in path.read_text() for old in old_forms.MOVED for mark in (".", ":", "="))
             and "low_rank: {calibration_batches" not in path.read_text()]  # fmt: skip
    assert found == []
