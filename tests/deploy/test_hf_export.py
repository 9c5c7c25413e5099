"""Hugging Face directories by the command: they are imported again bit for bit, and have a card."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from pruning.bin import export, import_hf
from pruning.deploy import model_card
from pruning.deploy.model_card import licence_of
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.experiments.measurement import WORD_ERRORS, Measurement, Utterances
from pruning.files import read_json, write_json, write_text
from pruning.importers import hf_source, small_network
from pruning.importers.encoder_decoder import load_encoder_decoder
from pruning.importers.small_network import SmallConfig
from pruning.kinds import kind as kinds
from pruning.models.encoder_decoder_config import FAMILY_NAMES, MOONSHINE
from pruning.provenance import file_fingerprint, weights_fingerprint
from pruning.speech.text.network_tokens import TOKENIZER

pytest.importorskip("tokenizers", reason="the extra 'hf' is not installed")
SOURCE = """# a network

Some network. Licence: MIT, Copyright of somebody.

Its matrices were dequantised from 8 bits. Others were not.
"""


def imported(place: Path, family: str = MOONSHINE) -> list[str]:
    """Import a small network whose directory says where it comes from; return the options of its export."""
    small_network.write(place / "source", ["Hello world."], SmallConfig(family, 16, 2, 300))
    (place / "source" / "SOURCE.md").write_text(SOURCE)
    write_json(place / "source" / "tokenizer_config.json", {"model_max_length": 194})
    import_hf.main(["--source", str(place / "source"), "--exp-dir", str(place / "exp")])
    return ["--exp-dir", str(place / "exp"), "--lang-dir", str(place / "exp" / "lang"), "--output", str(place / "hf"),
            "--hugging-face"]  # fmt: skip


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_directory_is_that_of_the_import(tmp_path: Path, family: str) -> None:
    export.main(imported(tmp_path, family))
    source, hf = tmp_path / "source", tmp_path / "hf"
    before, after = (load_encoder_decoder(place) for place in (source, hf))
    assert before.config == after.config
    tensors = after.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in before.state_dict().items())
    for name in (TOKENIZER, "tokenizer_config.json", "SOURCE.md"):
        assert (hf / name).read_bytes() == (source / name).read_bytes()
    assert read_json(hf / "generation_config.json") == read_json(source / "generation_config.json")
    assert read_json(hf / "preprocessor_config.json")["sampling_rate"] == 16000
    import_hf.main(["--source", str(hf), "--exp-dir", str(tmp_path / "again")])
    assert checkpoint.read_header(tmp_path / "again" / "best.safetensors")["pretrained"] == "hf"


def weights_of(exp: Path) -> str:
    return weights_fingerprint(kinds.load_network(exp))


def decoded(exp: Path, name: str, errors: list[int], weights: str, date: str = "2026-11-29", beam: int = 4) -> None:
    """Write a measurement of some utterances of 20 words."""
    Measurement(
        WORD_ERRORS, name, Utterances([f"{index}" for index in range(len(errors))], [""] * len(errors)),
        {"errors": errors, "words": [20] * len(errors)},
        parameters={"normalise": "english 1", "weights": weights, "max_duration": beam, "decoding": {"beam": beam}},
        facts={"method": "decoder_greedy_search"},
        provenance={"date": f"{date}T12:00:00+00:00", "command": f"python -m pruning.bin.decode --beam {beam}"},
    ).write(exp / "decoder_greedy_search" / f"decode-{name}-{date}-{beam}.json")  # fmt: skip


def test_the_card(tmp_path: Path) -> None:
    """Origin, licence, sums, error rates, data and commands, as far as they are known."""
    options = imported(tmp_path)
    exp = tmp_path / "exp"
    decoded(exp, "test-clean", [1, 2], weights_of(exp))
    decoded(exp, "test-clean", [9, 9], "others", "2026-11-30")  # a later decoding of another checkpoint
    write_json(exp / "run.json", {"inputs": {"train_cuts": ["x_cuts_train.jsonl.gz 0123456789ab"]}})
    write_text(tmp_path / "extracted" / "log" / "extract.log", "# python -m pruning.bin.extract --pruned x\n#\n")
    line = f"# python -m pruning.bin.finetune --init {tmp_path / 'extracted'} --exp-dir {exp}\n"
    write_text(exp / "log" / "train.log", line)
    export.main(options)
    card = (tmp_path / "hf" / "README.md").read_text()
    for text in (
        "license: mit\nbase_model: source\n", "Made from **source**, not pruned.", "| 7.50 %", "english 1",
        "Licence of source: MIT.", "SOURCE.md of source says: “Its matrices were dequantised from 8 bits.",
        "x_cuts_train.jsonl.gz 0123456789ab", "Measured with `python -m pruning.bin.decode --beam 4`",
        file_fingerprint(tmp_path / "hf" / "model.safetensors"),
        file_fingerprint(tmp_path / "source" / "model.safetensors"), " --hugging-face\n```",
    ):  # fmt: skip
        assert text in card, text
    assert card.index("pruning.bin.extract --pruned x") < card.index("pruning.bin.finetune --init")
    assert "45.00 %" not in card and "dense" not in card.lower()
    model_card.remove_card(tmp_path / "hf")
    assert not (tmp_path / "hf" / "README.md").exists(), "it would describe another network after the next export"


def pruned_of(place: Path, dense: Path) -> Path:
    """Return an experiment like ``dense``, of other weights, that its log says was made from it."""
    model, header = checkpoint.load_model(dense)
    with torch.no_grad():
        next(model.parameters()).mul_(2.0)
    structure = {"structure": {"groups": {}}}
    checkpoint.save_model(checkpoint.best_path(place / "small"), model, {**header, **structure})
    write_text(place / "small" / "log" / "train.log", f"# python -m pruning.bin.finetune --init {dense}\n")
    return place / "small"


def test_the_card_compares_with_the_dense_network(tmp_path: Path) -> None:
    """On the same sets with the same settings, with the weights that were pruned; else it says that it cannot."""
    imported(tmp_path)
    exp = tmp_path / "exp"
    small = pruned_of(tmp_path, exp)
    decoded(small, "test-clean", [2, 3, 4, 3], weights_of(small))
    decoded(small, "test-other", [5, 5], weights_of(small))
    decoded(exp, "test-clean", [9, 9, 9, 9], "others", "2026-11-30")
    decoded(exp, "test-clean", [8, 8, 8, 8], weights_of(exp), beam=5)
    model, header = checkpoint.load_model(small)

    def card() -> str:
        path = model_card.write_card(tmp_path / "out", small, model, header, exp / "lang", [], "export")
        return path.read_text()

    assert "The dense network, before pruning, was not measured on these sets" in card()
    assert "| dense" not in card()
    decoded(exp, "test-clean", [1, 1, 1, 1], weights_of(exp))
    rows = [line.split("|")[1:6] for line in card().splitlines() if line.startswith("| test")]
    assert [cell.strip() for cell in rows[0]] == ["test set", "word error rate", "dense", "difference", "words"]
    assert [cell.strip() for cell in rows[1][:3]] == ["test-clean", "15.00 %", "5.00 %"]
    value, low, high = map(float, re.findall(r"[\d.]+", rows[1][3]))
    assert low < value == 10.0 < high
    assert [cell.strip() for cell in rows[2]] == ["test-other", "25.00 %", "-", "-", "40"]
    assert "not measured" not in card()


def test_a_network_of_unknown_origin(tmp_path: Path) -> None:
    """A language directory of an earlier version has no files of the source: settings are made from the network."""
    options = imported(tmp_path)
    for path in (tmp_path / "exp" / "lang" / "source").iterdir():
        path.unlink()
    export.main(options)
    before, after = (load_encoder_decoder(tmp_path / name) for name in ("source", "hf"))
    assert before.config == after.config
    assert "license: other" in (tmp_path / "hf" / "README.md").read_text()


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ("Licence: MIT, Copyright (c) 2022.", "MIT"),
        ("A network of somebody. License: CC BY 4.0.\n", "CC BY 4.0"),
        ("The licence is unknown.", None),
    ],
)
def test_licences(tmp_path: Path, text: str, licence: str | None) -> None:
    (tmp_path / "README.md").write_text(text)
    hf_source.keep(tmp_path, tmp_path / "lang", {})
    assert licence_of(tmp_path / "lang") == licence


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--check", "--check has no effect with --hugging-face; leave one of them out"),
        ("--chunk-size=16", "--chunk-size has no effect with --hugging-face; leave one of them out"),
        ("other weights", "hf contains other weights, model-00001-of-00002.safetensors; give another --output"),
    ],
)
def test_what_is_refused(tmp_path: Path, option: str, message: str) -> None:
    options = imported(tmp_path)
    if option.startswith("--"):
        options.append(option)
    else:
        write_text(tmp_path / "hf" / "model-00001-of-00002.safetensors", "")
    with pytest.raises(UserError, match=message):
        export.main(options)
    assert not (tmp_path / "hf" / "config.json").exists()
