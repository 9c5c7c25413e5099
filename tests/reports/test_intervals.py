"""Every table gives the same interval for the same data: one bootstrap, over speakers and then their utterances."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from pruning.core.structure import Structure
from pruning.core.units import UnitGroup
from pruning.experiments import decoding_results, measurement
from pruning.experiments.measurement import SCHEMA, Measurement
from pruning.files import write_json
from pruning.models.facts import FILE
from pruning.reports import comparison_tables, language_models, page, report
from pruning.speech.scoring.word_errors import Transcript, score, write_results
from pruning.sweeps import comparison

NETWORK = {"encoder_parameters": 4000, "blocks_parameters": 3500, "parameters": 5000, "macs_10s": 10**6,
           "macs_30s": 4 * 10**6, "by_kind": {"ffn": {"size": 10, "macs": 20}}}  # fmt: skip
SETS = ("clean", "noisy")  # a clean and a noisy copy: the same ids and speakers
METHOD = "greedy_search"


def transcripts(seed: int) -> dict[str, list[Transcript]]:
    """Of both sets, 6 speakers of 2 to 12 utterances; some speakers are much harder than others."""
    generator = np.random.default_rng(seed)
    found: dict[str, list[Transcript]] = {}
    for number, name in enumerate(SETS):
        rows = []
        for speaker in range(6):
            for utterance in range(2 + 2 * speaker):
                length = int(generator.integers(3, 9))
                wrong = int(generator.binomial(length, 0.05 + 0.1 * speaker * (number + 1) / 2))
                reference = ["W"] * length
                said = ["X"] * wrong + reference[wrong:]
                rows.append(Transcript(f"{speaker}-{utterance:02}", reference, said, name, str(speaker)))
        found[name] = rows
    return found


def record(name: str, rows: list[Transcript]) -> Measurement:
    """What decoding records of one set."""
    facts = {"method": METHOD, "recogs": f"recogs-{name}-best-{METHOD}.txt", "audio_seconds": 10.0,
             "decoding_seconds": 1.0, "features_included": True}  # fmt: skip
    made = {"peak_memory_mib": 5.0, "threads": 1, "processor": "p", "torch": "t", "commit": "c", "command": "x",
            "date": "2026-01-01T00:00:00+00:00"}  # fmt: skip
    return decoding_results.measured(name, rows, {"max_duration": 200.0}, facts, made)


def decoded(exp_dir: Path, found: dict[str, list[Transcript]]) -> None:
    """What decoding writes of all sets."""
    write_json(exp_dir / FILE, {**NETWORK, "dense": NETWORK})
    for name, rows in found.items():
        write_results(exp_dir / METHOD, name, f"best-{METHOD}", rows)
        record(name, rows).write(decoding_results.path_of(exp_dir, METHOD, name, f"best-{METHOD}"))


def swept(results: Path, systems: dict[str, dict[str, list[Transcript]]]) -> None:
    """What a sweep writes of the same decodings: the first is the teacher, the other a line."""
    runs = {"teacher": {"method": "teacher"}, "half/line/1": {"method": "line", "target": "half", "seed": 1}}
    for (run, named), found in zip(runs.items(), systems.values()):
        left_out = () if run == "teacher" else comparison.SPOKEN
        sets = {name: record(name, rows).compact(left_out) for name, rows in found.items()}
        write_json(results / f"{run}.json", {"schema": SCHEMA, **named, "network": NETWORK, "dense": NETWORK,
                                             "made_by": "m", "sets": sets})  # fmt: skip
    sets = {name: record(name, rows).utterances.to_dict() for name, rows in next(iter(systems.values())).items()}
    write_json(results / comparison.UTTERANCES, {"schema": SCHEMA, "sets": sets})
    write_json(results / comparison.LEGEND, {
        "schema": SCHEMA, "reference": "line", "decoding": METHOD, "measure": "wer", "kind": "transducer",
        "methods": {"line": "a line"}, "claims": {}, "targets": {"half": []}, "runs": [["half", "line", 1]],
        "results": dict.fromkeys(runs, "m"),
    })  # fmt: skip


@pytest.fixture
def systems(tmp_path: Path) -> dict[str, dict[str, list[Transcript]]]:
    found = {"teacher": transcripts(1), "line": transcripts(2)}
    for other, rows in zip(found["teacher"].values(), found["line"].values()):  # the same was said to both
        rows[:] = [b._replace(reference=a.reference, hypothesis=b.hypothesis[: len(a.reference)])
                   for a, b in zip(other, rows)]  # fmt: skip
    for name, rows in found.items():
        decoded(tmp_path / name, rows)
    swept(tmp_path / "results", found)
    return found


def test_report_compare_and_page_agree(tmp_path: Path, systems: dict[str, dict[str, list[Transcript]]]) -> None:
    named = [(name, tmp_path / name) for name in systems]
    rows = report.collect(named, SETS, METHOD)
    compared = comparison.read(tmp_path / "results")
    teacher, line = compared.lines
    for system, of_sweep in zip(rows, (teacher, line)):
        assert system.rate(*SETS) == pytest.approx(compared.sample(of_sweep).interval, abs=1e-4)
        assert system.transcripts is not None
        again = score(system.transcripts)
        assert system.rate(*SETS) == pytest.approx((again.wer, *again.interval))
    found = measurement.difference(rows[1].decodings.values(), rows[0].decodings.values()).interval
    estimate, _ = compared.differences("half", "teacher", ["line"])["line"]
    assert found == pytest.approx(tuple(estimate), abs=1e-4)

    structure = Structure.dense([UnitGroup("ffn", "ffn", 4, ())])
    write_json(tmp_path / "line" / "structure.json", structure.to_dict())
    shown = html.unescape(page.page(report.document({METHOD: rows}, SETS), tmp_path / "line", None, rows))
    text = report.table(rows, SETS) + report.differences(rows)
    figures = re.findall(r"-?\d+\.\d\d \(-?\d+\.\d\d to -?\d+\.\d\d\)", text)
    assert len(figures) == 2 * (len(SETS) + 1) + 1
    assert all(figure in shown for figure in figures)
    for line, system in zip(compared.lines, rows):
        figure = "{:.2f} ({:.2f} to {:.2f})".format(*(system.rate(*SETS) or ()))
        assert figure in comparison_tables.table(compared, "half"), line.name


def test_speakers_are_drawn_and_not_their_utterances_alone(systems: dict[str, dict[str, list[Transcript]]]) -> None:
    rows = [one for of_set in systems["teacher"].values() for one in of_set]
    known, unknown = score(rows), score([one._replace(speaker="") for one in rows])
    assert known.wer == unknown.wer
    assert known.interval[1] - known.interval[0] > 1.3 * (unknown.interval[1] - unknown.interval[0])


@settings(max_examples=20, deadline=None)
@given(order=strategies.randoms(use_true_random=False))
def test_the_order_of_utterances_changes_nothing(order: object) -> None:
    rows = [one for of_set in transcripts(3).values() for one in of_set]
    shuffled = sorted(rows, key=lambda _: order.random())  # type: ignore[attr-defined]
    assert score(shuffled) == score(rows)
    sets = {name: [one for one in shuffled if one.set == name] for name in reversed(SETS)}
    expected = measurement.sample(record(name, of_set) for name, of_set in transcripts(3).items())
    assert measurement.sample(record(name, of_set) for name, of_set in sets.items()).interval == expected.interval


def test_the_effect_of_language_models_has_the_same_intervals(
    tmp_path: Path, systems: dict[str, dict[str, list[Transcript]]]
) -> None:
    named = [(name, tmp_path / name) for name in systems]
    table = language_models.decodings(named, SETS)
    for system in report.collect(named, SETS, METHOD):
        for name in SETS:
            assert "{:.2f} ({:.2f} to {:.2f})".format(*(system.rate(name) or ())) in table
