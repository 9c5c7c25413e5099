"""The table of results against figures written by hand."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from pruning import provenance
from pruning.errors import UserError
from pruning.experiments import decoding_results
from pruning.files import write_json, write_text
from pruning.models.facts import FILE
from pruning.reports import language_models, report, terminal
from pruning.speech.scoring.word_errors import Transcript, write_results

DENSE = {"encoder_parameters": 4_000_000, "blocks_parameters": 3_500_000, "parameters": 5_000_000,
         "macs_10s": 1_000_000_000, "macs_30s": 4_000_000_000}  # fmt: skip
HALF = {"encoder_parameters": 2_000_000, "blocks_parameters": 1_400_000, "parameters": 3_000_000,
        "macs_10s": 600_000_000, "macs_30s": 2_500_000_000}  # fmt: skip
REFERENCE = ["A", "B", "C", "D"]


MAY_1 = "2024-05-01T10:00:00+00:00"


def decoded(exp_dir: Path, set_name: str, wrong: list[int], date: str = MAY_1, **change: Any) -> None:
    """Write results of greedy search for utterances of four words with the given numbers of wrong words."""
    transcripts = [Transcript(f"{set_name}-{i}", REFERENCE, ["X"] * n + REFERENCE[n:]) for i, n in enumerate(wrong)]
    suffix = change.pop("suffix", "best-greedy_search")
    parameters = {"max_duration": 200.0, **change.pop("parameters", {})}
    write_results(exp_dir / "greedy_search", set_name, suffix, transcripts)
    made = {
        "peak_memory_mib": change.pop("peak_memory_mib", 500.0),
        "threads": 2,
        "processor": "Example CPU",
        "torch": "1.13.1",
        **change.pop("made", {}),
        "commit": "0123456789abcdef-modified",
        "command": f"python -m pruning.bin.decode --exp-dir exp/{exp_dir.name}",
        "date": date,
    }
    facts = {"method": "greedy_search", "recogs": f"recogs-{set_name}-{suffix}.txt", "suffix": suffix,
             "audio_seconds": 100.0, "decoding_seconds": 5.0, "features_included": True, **change}  # fmt: skip
    found = decoding_results.measured(set_name, transcripts, parameters, facts, made)
    found.write(decoding_results.path_of(exp_dir, "greedy_search", set_name, suffix))


def rate(system: report.System, set_name: str) -> float:
    found = system.rate(set_name)
    assert found is not None
    return found.value


@pytest.fixture
def systems(tmp_path: Path) -> list[tuple[str, Path]]:
    teacher, pruned = tmp_path / "teacher", tmp_path / "pruned"
    write_json(teacher / FILE, {**DENSE, "dense": DENSE})
    write_json(pruned / FILE, {**HALF, "dense": DENSE})
    decoded(teacher, "test-clean", [0, 0, 1, 0, 0])
    decoded(teacher, "test-other", [0, 2, 1, 0, 0], decoding_seconds=15.0, peak_memory_mib=600.0)
    decoded(pruned, "test-clean", [0, 1, 1, 0, 0], features_included=False)
    decoded(pruned, "test-other", [1, 2, 1, 0, 4])
    return [("teacher", teacher), ("pruned", pruned)]


SETS = ["test-clean", "test-other"]


def cells(text: str) -> dict[str, dict[str, str]]:
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: dict(zip(lines[0], row)) for row in lines[1:]}


def test_the_table_holds_what_was_measured(systems: list[tuple[str, Path]]) -> None:
    rows = cells(report.table(report.collect(systems, SETS, "greedy_search"), SETS))
    teacher, pruned = rows["teacher"], rows["pruned"]
    assert teacher["test-clean WER %"].startswith("5.00 (") and teacher["test-other WER %"].startswith("15.00 (")
    assert teacher["pooled WER %"].startswith("10.00 (") and pruned["pooled WER %"].startswith("25.00 (")
    assert pruned["M parameters encoder / total"] == "2.000 / 3.000"
    assert pruned["sparsity encoder / blocks / model"] == "0.500 / 0.600 / 0.400"
    assert teacher["sparsity encoder / blocks / model"] == "0.000 / 0.000 / 0.000"
    assert pruned["GMACs 10 s / 30 s"] == "0.600 / 2.500"
    assert teacher["RTF"] == "0.1000" and pruned["RTF"] == "0.0500 (features excluded)"
    assert teacher["memory MiB"] == "600" and pruned["memory MiB"] == "500"


def test_committed_results_need_no_transcripts(systems: list[tuple[str, Path]]) -> None:
    found = report.collect(systems, SETS, "greedy_search")
    for _, place in systems:
        for path in (place / "greedy_search").glob("*.txt"):
            path.unlink()
    with pytest.raises(UserError):
        report.collect(systems, SETS, "greedy_search")
    measured = report.collect(systems, SETS, "greedy_search", texts=False)
    assert report.table(measured, SETS) == report.table(found, SETS)
    assert report.differences(measured) == report.differences(found) != ""
    assert all(one.complete and one.transcripts is None for one in measured)


def test_the_load_under_which_times_were_measured_is_told(systems: list[tuple[str, Path]]) -> None:
    found = report.collect(systems, SETS, "greedy_search")
    assert report.load_note(found) == "The load of the machine while RTFs were measured is not known."
    teacher, pruned = (place for _, place in systems)
    for place, load in ((teacher, 1.3), (pruned, 4.2)):
        decoded(place, "test-clean", [0, 0, 1, 0, 0], made={"load_average": load, "processors": 2})
    found = report.collect(systems, SETS, "greedy_search")
    rows = cells(report.table(found, SETS))
    assert rows["teacher"]["RTF"] == "0.1000" and rows["pruned"]["RTF"] == "0.0500 (busy)"
    text = report.document({"greedy_search": found}, SETS)
    assert "with a load average (running processes, over one minute) of 1.3 to 4.2 on 2 processors." in text
    assert "Those marked\n*busy* had more running processes than processors" in text
    quiet = report.load_note(found[:1])
    assert quiet.endswith("of 1.3 on 2 processors.") and "busy" not in quiet


def test_rows_say_what_they_are_and_where(systems: list[tuple[str, Path]]) -> None:
    found = report.collect(systems, SETS, "greedy_search")
    text = report.document({"greedy_search": found}, SETS, legend={"pruned": "pruned, and fine-tuned"})
    assert f"- **pruned** (`{systems[1][1]}`): pruned, and fine-tuned\n" in text
    assert f"- **teacher** (`{systems[0][1]}`)\n" in text


def test_the_printed_table_fits_a_terminal(systems: list[tuple[str, Path]]) -> None:
    found = report.collect(systems, SETS, "greedy_search")
    printed = report.table(found, SETS, "simple")
    assert max(map(len, printed.splitlines())) <= 120 < max(map(len, report.table(found, SETS).splitlines()))
    assert all(cell in printed for row in cells(report.table(found, SETS)).values() for cell in row.values())
    text = report.document({"greedy_search": found}, SETS, sections=["## Plot\n\n![a plot](plot.png)\n\nWords."])
    shown = terminal.shown(text)
    assert max(map(len, shown.splitlines())) <= 120
    assert all(row in shown for row in printed.splitlines()), "the same tables"
    assert "pruning.bin.decode" not in shown and "plot.png" not in shown and shown.endswith("## Plot\n\nWords.\n")


def test_differences_are_between_rows_and_columns(systems: list[tuple[str, Path]]) -> None:
    rows = cells(report.differences(report.collect(systems, SETS, "greedy_search")))
    assert list(rows) == ["pruned"] and rows["pruned"]["teacher"].startswith("15.00 (")
    assert report.differences(report.collect(systems[:1], SETS, "greedy_search")) == ""


def test_a_network_decoded_whole_and_in_chunks_has_two_rows(systems: list[tuple[str, Path]]) -> None:
    assert "latency ms" not in report.table(report.collect(systems, SETS, "greedy_search"), SETS)
    place = systems[0][1]
    for set_name, computing in zip(SETS, (11.2, 12.6)):
        decoded(place, set_name, [1, 1, 1, 1, 0], suffix="best-greedy_search-chunk-16-left-context-128",
                parameters={"chunk": [16, 128]}, chunk_ms=320, ahead_ms=130,
                computing_ms=computing)  # fmt: skip
    decoded(place, "test-clean", [1, 1, 1, 1, 0], suffix="best-greedy_search-chunk-32-left-context-0",
            parameters={"chunk": [32, 0]}, chunk_ms=640, computing_ms=None)  # fmt: skip
    rows = cells(report.table(report.collect(systems, SETS, "greedy_search"), SETS))
    chunks = "teacher, chunks of 320 ms and 2560 ms before"
    assert list(rows) == ["teacher", chunks, "teacher, chunks of 640 ms and all before", "pruned"]
    assert {name: row["latency ms"] for name, row in rows.items()} == {
        "teacher": "-", "pruned": "-", chunks: "450 + 13", "teacher, chunks of 640 ms and all before": "640 + ?",
    }  # fmt: skip
    assert rows[chunks]["pooled WER %"].startswith("20.00 (") and rows["teacher"]["pooled WER %"].startswith("10.00 (")


def test_the_newest_decoding_by_which_all_sets_were_decoded_counts(systems: list[tuple[str, Path]]) -> None:
    exp_dir, later = systems[0][1], "2024-05-02T10:00:00+00:00"
    decoded(exp_dir, "test-clean", [4, 4, 4, 4, 4], date=later, suffix="best-greedy_search-x")
    decoded(exp_dir, "test-clean", [0, 0, 0, 0, 0], date="2024-04-30T10:00:00+00:00", suffix="best-greedy_search-y")
    decoded(exp_dir, "test-clean-2", [0, 0, 0, 0, 0], date="2024-06-01T10:00:00+00:00")  # another set
    (system, _) = report.collect(systems, SETS, "greedy_search")
    assert rate(system, "test-clean") == 5.0, "the other set was not decoded with x"
    decoded(exp_dir, "test-other", [4, 4, 4, 4, 4], date="2024-04-30T10:00:00+00:00", suffix="best-greedy_search-x")
    (system, _) = report.collect(systems, SETS, "greedy_search")
    assert [rate(system, name) for name in SETS] == [100.0, 100.0]
    decoding_results.note_asked(decoding_results.path_of(exp_dir, "greedy_search", "test-clean", "best-greedy_search"))
    (system, _) = report.collect(systems, SETS, "greedy_search")
    assert rate(system, "test-clean") == 5.0 and system.decodings["test-clean"].provenance["date"] == MAY_1
    assert rate(system, "test-other") < 100.0


def test_a_row_of_language_models_has_one_setting(systems: list[tuple[str, Path]]) -> None:
    """The scales that were tried on dev do not mix with the one that decoded all sets."""
    exp_dir = systems[0][1]
    for scale, errors in (("0.2", [1, 0, 0, 0, 0]), ("0.6", [4, 4, 4, 4, 4])):
        later = f"2024-06-0{scale[-1]}T10:00:00+00:00"
        decoded(exp_dir, "dev", errors, date=later, suffix=f"best-greedy_search-scale-{scale}", lm="lm",
                lm_scale=float(scale), parameters={"chunk": [16, 128]})  # fmt: skip
    decoded(exp_dir, "test-clean", [1, 0, 0, 0, 0], suffix="best-greedy_search-scale-0.2", lm="lm", lm_scale=0.2,
            parameters={"chunk": [16, 128]})  # fmt: skip
    rows = cells(language_models.decodings(systems[:1], ["dev", "test-clean"]))
    row = rows["teacher, chunks of 320 ms and 2560 ms before"]
    assert row["weight"] == "0.2" and row["WER % dev"].startswith("5.00 (")
    with pytest.raises(UserError, match=r"was not decoded on all of dev, test-other with the same settings"):
        language_models.decodings(systems[:1], ["dev", "test-other"])


def test_the_weights_that_are_asked_for_count(systems: list[tuple[str, Path]]) -> None:
    exp_dir, later = systems[0][1], "2024-05-02T10:00:00+00:00"
    decoded(exp_dir, "test-clean", [4, 4, 4, 4, 4], date=later, suffix="epoch-1-greedy_search")
    decoded(exp_dir, "test-clean", [2, 2, 2, 2, 2], date=later, suffix="epoch-1-avg-1-use-averaged-model-greedy_search")
    decoded(exp_dir, "test-clean", [1, 1, 1, 1, 1], suffix="epoch-1-avg-1-greedy_search")

    def rates(**weights: int) -> list[float]:
        found = report.collect(systems, ["test-clean"], "greedy_search", **weights)
        return [rate(system, "test-clean") for system in found]

    assert rates()[0] == 5.0 and len(rates()) == 2
    assert rates(epoch=1) == [100.0] and rates(epoch=1, avg=1) == [50.0] and rates(epoch=2) == []


def test_what_was_not_measured_is_not_printed(systems: list[tuple[str, Path]], tmp_path: Path) -> None:
    write_json(tmp_path / "new" / FILE, {**HALF, "dense": DENSE})
    found = report.collect([*systems, ("new", tmp_path / "new")], [*SETS, "test-third"], "greedy_search")
    assert [system.name for system in found] == ["teacher", "pruned"]
    row = cells(report.table(found, [*SETS, "test-third"]))["teacher"]
    assert row["test-third WER %"] == row["pooled WER %"] == "-"
    assert report.collect(systems, SETS, "modified_beam_search") == []


def test_the_document_says_where_figures_come_from(systems: list[tuple[str, Path]]) -> None:
    found = report.collect(systems, SETS, "greedy_search")
    text = report.document({"greedy_search": found, "modified_beam_search": []}, SETS, "Mini")
    assert text.startswith("# Mini\n") and "## greedy_search" in text and "modified" not in text.split("commit")[0]
    assert "2 threads of Example CPU, batches of 200 s, torch 1.13.1; commit 0123456789ab-modified, 2024-05-01" in text
    assert "`python -m pruning.bin.decode --exp-dir exp/pruned`" in text
    assert text.count("decode --exp-dir exp/teacher") == 1  # both sets by one command


def test_rows_of_different_references_are_refused(systems: list[tuple[str, Path]]) -> None:
    decoded(systems[1][1], "test-clean", [0, 1])
    with pytest.raises(UserError, match="decodings of test-clean differ .*20 in teacher, 8 in pruned"):
        report.collect(systems, SETS, "greedy_search")


def test_missing_and_broken_input_is_named(systems: list[tuple[str, Path]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="experiment .*gone of system gone does not exist"):
        report.collect([("gone", tmp_path / "gone")], SETS, "greedy_search")
    directory = systems[0][1] / "greedy_search"
    (directory / "recogs-test-clean-best-greedy_search.txt").unlink()
    with pytest.raises(UserError, match="recogs-test-clean-best-greedy_search.txt cannot be read"):
        report.collect(systems, SETS, "greedy_search")
    (directory / "decode-test-clean-best-greedy_search.json").write_text('{"set": 1}')
    with pytest.raises(UserError, match="is not a measurement: it has no 'schema'; remove it and"):
        report.collect(systems, SETS, "greedy_search")
    (systems[1][1] / FILE).unlink()
    with pytest.raises(UserError, match=FILE):
        report.collect(systems[1:], SETS, "greedy_search")


def test_done_means_the_same_parameters_and_its_files(tmp_path: Path) -> None:
    decoded(tmp_path, "dev", [0, 1])
    path = decoding_results.path_of(tmp_path, "greedy_search", "dev", "best-greedy_search")
    assert decoding_results.is_done(path, {"max_duration": 200.0})
    assert not decoding_results.is_done(path, {"max_duration": 100.0})
    (tmp_path / "greedy_search" / "recogs-dev-best-greedy_search.txt").unlink()
    assert not decoding_results.is_done(path, {"max_duration": 200.0})
    assert not decoding_results.is_done(tmp_path / "none.json", {})


def test_fingerprints_follow_the_content(tmp_path: Path) -> None:
    import torch

    write_text(tmp_path / "a", "same")
    write_text(tmp_path / "b", "same")
    assert provenance.file_fingerprint(tmp_path / "a") == provenance.file_fingerprint(tmp_path / "b")
    write_text(tmp_path / "b", "other")
    assert provenance.file_fingerprint(tmp_path / "a") != provenance.file_fingerprint(tmp_path / "b")
    model = torch.nn.Linear(2, 2)
    before = provenance.weights_fingerprint(model)
    assert provenance.weights_fingerprint(model) == before
    with torch.no_grad():
        model.bias[0] += 1
    assert provenance.weights_fingerprint(model) != before


def test_the_environment_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = provenance.environment("pruning.bin.decode", ["--cuts", "a b"], "cpu")
    assert facts["command"] == "python -m pruning.bin.decode --cuts 'a b'"
    assert facts["processor"] and facts["threads"] >= 1 and 1 < facts["peak_memory_mib"] < 1e6
    monkeypatch.setenv("PATH", "")  # no git
    assert provenance.git_commit() == "unknown"


def test_only_changes_of_the_code_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is written again in the same checkout does not mark later measurements."""
    code, table = tmp_path / "pruning/provenance.py", tmp_path / "RESULTS.md"
    for path in (code, table):
        write_text(path, "old\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    monkeypatch.setattr(provenance, "__file__", str(code))
    commit = provenance.git_commit()
    write_text(table, "new\n")
    assert provenance.git_commit() == commit and len(commit) == 40
    write_text(code, "new\n")
    assert provenance.git_commit() == f"{commit}-modified"
