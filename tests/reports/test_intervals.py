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
from pruning.experiments import decoding_results
from pruning.files import write_json
from pruning.kinds.measuring import stamp
from pruning.models.facts import FILE
from pruning.reports import comparison_tables, page, report
from pruning.speech.scoring.word_errors import Transcript, paired_difference, score, write_results
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


def decoded(exp_dir: Path, found: dict[str, list[Transcript]]) -> None:
    """What decoding writes of them."""
    write_json(exp_dir / FILE, {**NETWORK, "dense": NETWORK})
    for name, rows in found.items():
        result = write_results(exp_dir / METHOD, name, f"best-{METHOD}", rows)
        write_json(decoding_results.path_of(exp_dir, METHOD, name, f"best-{METHOD}"), {
            "set": name, "method": METHOD, **decoding_results.error_facts(result),
            "per_utterance": decoding_results.per_utterance(rows), "audio_seconds": 10.0, "decoding_seconds": 1.0,
            "features_included": True, "peak_memory_mib": 5.0, "threads": 1, "processor": "p", "torch": "t",
            "commit": "c", "command": "x", "date": "2026-01-01T00:00:00+00:00", "parameters": {"max_duration": 200.0},
            "recogs": f"recogs-{name}-best-{METHOD}.txt",
        })  # fmt: skip


def swept(results: Path, systems: dict[str, dict[str, list[Transcript]]]) -> None:
    """What a sweep writes of the same decodings: the first is the teacher, the other a line."""
    runs = {"teacher": {"method": "teacher"}, "half/line/1": {"method": "line", "target": "half", "seed": 1}}
    for (run, named), found in zip(runs.items(), systems.values()):
        sets = {}
        for name, rows in found.items():
            known = decoding_results.per_utterance(rows)
            sets[name] = {"utterances": stamp(known["ids"]), "errors": known["errors"], "nll": [None] * len(rows),
                          "words": known["words"], "tokens": [1] * len(rows), "commit": "c", "date": "d"}  # fmt: skip
        write_json(
            results / f"{run}.json", {**named, "network": NETWORK, "dense": NETWORK, "made_by": "m", "sets": sets}
        )
    spoken = {name: decoding_results.per_utterance(rows) for name, rows in next(iter(systems.values())).items()}
    write_json(results / comparison.UTTERANCES, {name: {"ids": known["ids"], "speakers": known["speakers"]}
                                                 for name, known in spoken.items()})  # fmt: skip
    write_json(results / comparison.LEGEND, {
        "reference": "line", "decoding": METHOD, "measure": "wer", "kind": "transducer", "methods": {"line": "a line"},
        "claims": {}, "targets": {"half": []}, "runs": [["half", "line", 1]], "results": dict.fromkeys(runs, "m"),
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
        assert system.pooled is not None
        estimate = compared.sample(of_sweep).interval
        assert (system.pooled.wer, *system.pooled.interval) == pytest.approx(tuple(estimate), abs=1e-4)
    assert rows[0].transcripts is not None and rows[1].transcripts is not None
    difference = paired_difference(rows[1].transcripts, rows[0].transcripts)
    estimate, _ = compared.differences("half", "teacher", ["line"])["line"]
    assert (difference.wer, *difference.interval) == pytest.approx(tuple(estimate), abs=1e-4)

    structure = Structure.dense([UnitGroup("ffn", "ffn", 4, ())])
    write_json(tmp_path / "line" / "structure.json", structure.to_dict())
    shown = html.unescape(page.page(report.document({METHOD: rows}, SETS), tmp_path / "line", {}, rows))
    text = report.table(rows, SETS) + report.differences(rows)
    figures = re.findall(r"-?\d+\.\d\d \(-?\d+\.\d\d to -?\d+\.\d\d\)", text)
    assert len(figures) == 2 * (len(SETS) + 1) + 1
    assert all(figure in shown for figure in figures)
    for line, system in zip(compared.lines, rows):
        assert system.pooled is not None
        figure = "{:.2f} ({:.2f} to {:.2f})".format(system.pooled.wer, *system.pooled.interval)
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
    others = [one._replace(hypothesis=one.reference) for one in rows]
    assert paired_difference(shuffled, others) == paired_difference(rows, list(reversed(others)))


def test_decodings_of_older_versions_do_not_know_the_speakers(tmp_path: Path) -> None:
    decoded(tmp_path / "exp", transcripts(1))
    paths = [decoding_results.path_of(tmp_path / "exp", METHOD, name, f"best-{METHOD}") for name in SETS]
    facts = [decoding_results.read_results(tmp_path / "exp", METHOD, name) for name in SETS]
    for path, of_set in zip(paths, facts):
        assert of_set is not None
        del of_set["per_utterance"]
        write_json(path, of_set)
    (system,) = report.collect([("old", tmp_path / "exp")], SETS, METHOD)
    assert system.transcripts is not None and {one.speaker for one in system.transcripts} == {""}
    assert system.pooled == score(system.transcripts)
