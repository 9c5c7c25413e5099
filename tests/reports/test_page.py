"""The page about a pruned network and its pictures."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from pruning.bin import page as command
from pruning.core.structure import KeptUnits, Structure
from pruning.errors import UserError
from pruning.files import read_json, write_json, write_text
from pruning.models.facts import FILE
from pruning.reports import pictures, worst_utterances
from pruning.reports.loss_curves import Training
from pruning.reports.report import collect
from pruning.speech.scoring.word_errors import Transcript
from tests.methods.test_l0 import network
from tests.reports.test_report import SETS, decoded, systems  # noqa: F401


def test_units_are_laid_out_by_layer_and_part() -> None:
    structure = Structure.dense(network().unit_groups())
    gone = {"encoder.layers.1.attention.heads": KeptUnits("heads", 4, ())}
    rows, columns, cells = pictures.grid(Structure({**structure.groups, **gone}))
    assert rows == ["subsampling convolution 1", "subsampling convolution 2",
                    "encoder layer 1", "encoder layer 2", "encoder layer 3"]  # fmt: skip
    assert columns == ["channels", "macaron FFN hidden units", "FFN hidden units", "self-attention heads",
                       "convolution channels"]  # fmt: skip
    assert cells["encoder layer 2", "self-attention heads"] == (0, 4)
    assert cells["encoder layer 3", "FFN hidden units"] == (64, 64)
    assert ("encoder layer 1", "self-attention") not in cells, "shown by its heads"
    modules_only = Structure({"encoder.layers.0.ffn": KeptUnits("ffn_module", 1, ())})
    assert pictures.grid(modules_only)[2] == {("encoder layer 1", "FFN"): (0, 1)}


def test_layers_of_the_frontend_have_rows_of_their_own() -> None:
    groups = {f"feature_extractor.conv_layers.{index}.channels": KeptUnits("frontend", 8, range(index))
              for index in range(3)}  # fmt: skip
    for index in range(2):
        groups[f"encoder.layers.{index}.attention.heads"] = KeptUnits("heads", 4, range(2))
        groups[f"encoder.layers.{index}.ffn.hidden"] = KeptUnits("ffn", 16, range(9))
    rows, columns, cells = pictures.grid(Structure(groups))
    assert rows == [*(f"front end convolution {number}" for number in (1, 2, 3)), "encoder layer 1", "encoder layer 2"]
    assert cells["front end convolution 2", "channels"] == (1, 8) and ("encoder layer 2", "channels") not in cells
    assert len(cells) == len(groups), "no group hides another"


def test_sets_that_share_ids_are_kept_apart() -> None:
    """A clean and a noisy copy: the noisy one has different errors in both systems."""
    words = ["A", "B"]
    teacher = [Transcript("u", words, words, "clean"), Transcript("u", words, ["A"], "noisy")]
    pruned = [Transcript("u", words, ["Z", "Z", "Z"], "noisy"), Transcript("u", words, ["X", "B"], "clean")]
    worst = worst_utterances.worst_utterances(teacher, pruned)
    assert [(one.first, one.second) for one in worst] == [(["A"], ["Z", "Z", "Z"]), (words, ["X", "B"])]


def test_the_worst_are_those_that_pruning_spoiled() -> None:
    def said(**hypotheses: str) -> list[Transcript]:
        return [Transcript(name, ["A", "B", "C"], words.split()) for name, words in hypotheses.items()]

    teacher = said(right="A B C", lost="A B C", both="A X X", little="A B X")
    pruned = said(right="A B C", lost="X X X", both="A X X", little="A X X", unknown="X X X")
    worst = worst_utterances.worst_utterances(teacher, pruned)
    assert [(wrong.id, wrong.errors) for wrong in worst] == [("lost", (0, 3)), ("little", (1, 2)), ("both", (2, 2))]


def test_the_page_and_the_picture(systems: list[tuple[str, Path]], tmp_path: Path) -> None:  # noqa: F811
    kinds = {"ffn": {"size": 3_000_000, "macs": 800_000_000}, "attention": {"size": 1_000_000, "macs": 0}}
    half = {"ffn": {"size": 1_000_000, "macs": 300_000_000}}
    for name, place in systems:
        facts = read_json(place / FILE)
        facts["dense"]["by_kind"], facts["by_kind"] = kinds, kinds if name == "teacher" else half
        write_json(place / FILE, facts)
        lines = [f'{{"kind": "dev", "step": {step}, "task": {1 / step}, "ctc": 0.0}}' for step in (10, 20, 30)]
        write_text(place / "metrics.jsonl", "\n".join(lines) + "\n")
    extracted = systems[1][1]
    write_json(extracted / "structure.json", Structure.dense(network().unit_groups()).to_dict())
    rows = [f"{name}={place}" for name, place in systems]
    arguments = ["--systems", *rows, "--sets", "test-clean", "test-other", "--structure", str(extracted)]
    command.main([*arguments, "--output", str(tmp_path / "index.html"), "--title", "Half <as> large"])
    text = (tmp_path / "index.html").read_text()
    assert "Half &lt;as&gt; large" in text and text.count("data:image/png;base64,") == 2
    assert "66.7%" in text and "100.0%" in text, "removed shares of the FFNs and of attention, which is removed"
    assert "<th>part" in text and "GMACs at 10 s before" in text and "parameters removed" in text
    whole = [cell.split("<")[0].strip() for cell in text.split("<td>all")[1].split("</tr>")[0].split(">")]
    assert [cell for cell in whole if cell] == ["4.000", "1.000", "75.0%", "0.800", "0.300", "62.5%"]
    assert '<span class="wrong">X</span>' in text and "test-other-4" in text
    assert "http" not in text.split("<body>")[0], "no external resources"
    assert (tmp_path / "index-structure.png").read_bytes().startswith(b"\x89PNG")


def test_worst_utterances_compare_two_networks(systems: list[tuple[str, Path]]) -> None:  # noqa: F811
    """Not the rows of one network, whole and in chunks; and both by the same chunks."""
    for _, place in systems:
        for set_name in SETS:
            decoded(place, set_name, [1, 1, 1, 1, 0], suffix="best-greedy_search-chunk-16-left-context-128",
                    parameters={"chunk": [16, 128]}, chunk_ms=320, computing_ms=None)  # fmt: skip
    rows = collect(systems, SETS, "greedy_search")
    assert [row.title for row in worst_utterances.compared(rows)] == ["teacher", "pruned"]
    pair = [row.title for row in worst_utterances.compared(rows[1:])]
    assert pair == [f"{name}, chunks of 320 ms and 2560 ms before" for name in ("teacher", "pruned")]
    with pytest.raises(UserError, match="needs a teacher and a pruned network that were decoded alike"):
        worst_utterances.compared(rows[:2])


def test_worst_utterances_say_how_they_were_chosen(systems: list[tuple[str, Path]]) -> None:  # noqa: F811
    rows = collect(systems, ["test-clean", "test-other"], "greedy_search")
    text = worst_utterances.section(rows)
    assert "The 6 utterances with most errors of pruned beyond those of teacher, of 6 in which\npruned errs (10" in text
    assert '<span class="wrong">***</span>: a word of the reference that\nis missing' in text
    worst = text.split("<tr>")[2]
    assert worst.count("<td>0 / 4</td>") == 1 and worst.count("<td>4 / 4</td>") == 1 and "test-other-4" in worst
    assert text.count('<th class="text">') == 3, "headers of texts are aligned like the texts"


CONFIG = """kind: transducer
loss: {simple_loss_scale: 0.25, ctc_weight: 0.5, warmup_steps: 100}
"""


def run(place: Path, steps: Sequence[int], config: str = CONFIG) -> Path:
    """A training run that logged its losses at these steps."""
    lines = [f'{{"kind": "dev", "step": {step}, "task": 2.0, "simple": 1.0, "ctc": 0.5, "distil_ctc": 1.0}}'
             for step in steps]  # fmt: skip
    write_text(place / "metrics.jsonl", "\n".join(lines) + "\n")
    write_text(place / "config.yaml", config)
    return place


def test_further_runs_follow_one_another(tmp_path: Path) -> None:
    runs = {name: pictures.read_metrics(run(tmp_path / name, steps))
            for name, steps in (("pruning", (20, 50)), ("fine-tuning", (30, 60)))}  # fmt: skip
    joined, begins = pictures.one_after_the_other(runs)
    steps = {name: [row["step"] for row in rows] for name, rows in joined.items()}
    assert steps == {"pruning": [20, 50], "fine-tuning": [80, 110]}
    assert begins == [0, 50]


def test_curves_say_what_losses_are_the_sum_of(tmp_path: Path) -> None:
    of_pruning = (
        f"{CONFIG}distillation: {{ctc_weight: 0.1, layers: [1], layer_weight: 0.2}}\nconstraint: {{size: 0.5}}\n"
    )
    teacher, pruned = run(tmp_path / "teacher", (10, 20)), run(tmp_path / "pruned", (10, 20), of_pruning)
    text = Training({"teacher": teacher}, {"pruning": pruned}).shown()
    assert "Unit: nats per encoder frame. " in text
    assert "<code>task = transducer + 0.25 simple + 0.5 ctc</code>: teacher, pruning" in text
    assert "<code>loss = task + 0.2 distil_layers + 0.1 distil_ctc</code>: pruning" in text
    assert text.count("<img") == 2 and "After the teacher: pruning" in text and "further steps" in text
    write_text(pruned / "config.yaml", "kind: transducer\nno_such_key: 1\n")
    assert Training({"pruning": pruned}).shown().count("<code>") == 0, "of another version"


def test_runs_after_the_teacher_are_not_drawn_among_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[list[str], list[int]]] = []
    monkeypatch.setattr(pictures, "training_curves", lambda runs, terms, of="", begins=(): (
        drawn.append((list(runs), list(begins))) or b""))  # fmt: skip
    places = {name: run(tmp_path / name, (10, 20)) for name in ("teacher", "pruned", "finetuned")}
    write_text(tmp_path / "RESULTS.md", "# Results\n")
    command.main(["--systems", f"teacher={places['teacher']}", f"pruned={places['finetuned']}",
                  "--further", f"pruning={places['pruned']}", f"fine-tuning={places['finetuned']}",
                  "--results", str(tmp_path / "RESULTS.md"), "--output", str(tmp_path / "index.html")])  # fmt: skip
    assert drawn == [(["teacher"], []), (["pruning", "fine-tuning"], [0, 20])]


def test_what_a_page_needs(systems: list[tuple[str, Path]], tmp_path: Path) -> None:  # noqa: F811
    one, place = f"teacher={systems[0][1]}", str(systems[0][1])
    common = ["--systems", one, "--structure", place, "--output", str(tmp_path / "index.html")]
    with pytest.raises(UserError, match="needs a teacher and a pruned network"):
        command.main([*common, "--sets", "test-clean"])
    with pytest.raises(UserError, match="no results given; give --results, or --sets"):
        command.main(common)
    with pytest.raises(UserError, match="none.md does not exist"):
        command.main([*common, "--results", str(tmp_path / "none.md")])
    with pytest.raises(UserError, match="metrics.jsonl cannot be read"):
        pictures.read_metrics(systems[0][1])


def test_the_page_of_any_report(tmp_path: Path) -> None:
    """Of intents or language models: the Markdown that their reports wrote, structure and curves."""
    place = tmp_path / "exp"
    write_json(place / "structure.json", Structure.dense(network().unit_groups()).to_dict())
    write_json(place / FILE, {"by_kind": {}, "dense": {"by_kind": {}}})
    write_text(place / "metrics.jsonl", '{"kind": "dev", "step": 1, "task": 1.0, "intent": 0.5}\n')
    write_text(tmp_path / "RESULTS.md", "## Intents\n\n| system | intent % |\n|---|---:|\n| a<b> | 40.1 |\n\n`x --y`\n")
    command.main(["--systems", f"pruned={place}", "--structure", str(place), "--results", str(tmp_path / "RESULTS.md"),
                  "--output", str(tmp_path / "index.html")])  # fmt: skip
    text = (tmp_path / "index.html").read_text()
    assert "<h2>Intents</h2>" in text and "40.1</td>" in text and "a&lt;b&gt;" in text and "<code>x --y</code>" in text
    assert text.count("data:image/png;base64,") == 2 and "Worst utterances" not in text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium is installed")
def test_a_browser_shows_the_page(tmp_path: Path) -> None:
    """Headless Chromium lays out every table and decodes every picture."""
    place = tmp_path / "exp"
    write_json(place / "structure.json", Structure.dense(network().unit_groups()).to_dict())
    write_json(place / FILE, {"by_kind": {}, "dense": {"by_kind": {}}})
    write_text(place / "metrics.jsonl", '{"kind": "dev", "step": 1, "task": 1.0}\n')
    write_text(tmp_path / "RESULTS.md", "# Results\n\n| system | WER % |\n|---|---:|\n| teacher | 9.39 |\n")
    command.main(["--systems", f"pruned={place}", "--structure", str(place), "--results", str(tmp_path / "RESULTS.md"),
                  "--output", str(tmp_path / "index.html")])  # fmt: skip
    script = """<script>onload = () => { document.title = [...document.images].map(i => i.naturalWidth > 100)
        + ' ' + document.querySelectorAll('td').length; }</script>"""
    page_of = tmp_path / "checked.html"
    page_of.write_text((tmp_path / "index.html").read_text().replace("</body>", f"{script}</body>"))
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
               "--disable-background-networking", "--virtual-time-budget=5000",
               f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page_of.as_uri()]  # fmt: skip
    done = subprocess.run(browser, capture_output=True, text=True, check=False, timeout=120)
    assert "<title>true,true 2</title>" in done.stdout, done.stderr[-500:]
