"""Import of an encoder-decoder by one command: an experiment that reloads, its tokens, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.bin import import_hf
from pruning.core.cost import CostModel
from pruning.errors import UserError
from pruning.experiments import checkpoint
from pruning.files import read_json, write_json
from pruning.importers import hf_source, hf_tokens, small_network
from pruning.importers.encoder_decoder import load_encoder_decoder
from pruning.importers.hf_tokens import Speech
from pruning.importers.small_network import SmallConfig
from pruning.models.encoder_decoder import EncoderDecoder
from pruning.models.encoder_decoder_config import EncoderDecoderConfig
from pruning.speech.text.network_tokens import TOKENIZER, NetworkTokens
from tests.models.encoder_decoders import WHISPER, transcripts, utterances

tokenizers = pytest.importorskip("tokenizers", reason="the extra 'hf' is not installed")
TEXTS = ["Hello world.", "It isn't much, is it?", "Seventy-one birds."]


def source(place: Path, family: str = "moonshine", **changes: Any) -> Path:
    small_network.write(place / "source", TEXTS, SmallConfig(family, 16, 1, 300))
    config = place / "source" / "config.json"
    write_json(config, {**read_json(config), **changes})
    return place / "source"


def imported(place: Path, *options: str) -> None:
    import_hf.main(["--source", str(place / "source"), "--exp-dir", str(place / "exp"), *options])


@pytest.mark.parametrize("family", ["moonshine", "whisper"])
def test_an_experiment_reloads(tmp_path: Path, family: str) -> None:
    source(tmp_path, family)
    imported(tmp_path)
    assert (tmp_path / "exp" / ".done").is_file()
    model, header = checkpoint.load_model(tmp_path / "exp")
    assert isinstance(model, EncoderDecoder) and header["pretrained"] == "source"
    NetworkTokens(tmp_path / "exp" / "lang").check_matches(header["tokenizer"])
    theirs = load_encoder_decoder(tmp_path / "source")
    with torch.no_grad():
        expected, found = (one(*utterances(one), transcripts(one)) for one in (theirs, model))
    assert torch.equal(expected, found)
    facts = read_json(tmp_path / "exp" / "model.json")
    parts = [facts[f"{part}_parameters"] for part in ("encoder", "decoder")]
    assert sum(parts) == facts["parameters"] and facts["tokens_10s"] == 34
    whole = facts["by_kind"]
    assert sum(facts[f"{part}macs_10s"] for part in ("", "decoder_", "output_")) == sum(
        row["macs"] for row in whole.values()
    )
    before = (tmp_path / "exp" / "best.safetensors").stat().st_mtime_ns
    imported(tmp_path)
    assert (tmp_path / "exp" / "best.safetensors").stat().st_mtime_ns == before, "an import that exists is kept"


def test_another_network_is_not_overwritten(tmp_path: Path) -> None:
    source(tmp_path)
    imported(tmp_path)
    small_network.write(tmp_path / "source", TEXTS, SmallConfig(width=16, layers=1, vocab_size=300, seed=1))
    with pytest.raises(UserError, match="exp contains another network; remove it, or give another directory"):
        imported(tmp_path)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("moonshine", {"model_type": "bart"}, "unsupported model_type 'bart'; give a checkpoint of whisper or"),
        ("moonshine", "weights", "has neither model.safetensors nor pytorch_model.bin"),
        ("moonshine", "tokens", "tokenizer.json does not exist; give a directory that contains"),
        ("whisper", "other tokens", "has 5 tokens, but the network has"),
    ],
)
def test_what_cannot_be_imported(tmp_path: Path, family: str, change: Any, message: str) -> None:
    place = source(tmp_path, family, **(change if isinstance(change, dict) else {}))
    if change == "weights":
        (place / "model.safetensors").unlink()
    elif change == "tokens":
        (place / TOKENIZER).unlink()
    elif change == "other tokens":
        pieces = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate("abcde")}, "a"))
        pieces.save(str(place / TOKENIZER))
    with pytest.raises(UserError, match=message):
        imported(tmp_path)
    assert not (tmp_path / "exp" / "best.safetensors").exists()


@pytest.mark.parametrize(
    ("several", "said", "speech", "symbols", "before"),
    [
        (False, {}, Speech(), ("<|notimestamps|>",), " "),
        (True, {}, Speech(), ("<|en|>", "<|transcribe|>", "<|notimestamps|>"), " "),
        (
            True,
            {"language": "ja", "task": None},
            Speech("de", "translate"),
            ("<|de|>", "<|translate|>", "<|notimestamps|>"),
            " ",
        ),
        (
            True,
            {"language": "<|de|>", "task": "translate"},
            Speech(),
            ("<|de|>", "<|translate|>", "<|notimestamps|>"),
            " ",
        ),
        (True, {"language": "ja"}, Speech(), ("<|ja|>", "<|transcribe|>", "<|notimestamps|>"), ""),
        (True, {"language": "ja"}, Speech(task="translate"), ("<|ja|>", "<|translate|>", "<|notimestamps|>"), " "),
    ],
)
def test_prompts(
    tmp_path: Path, several: bool, said: dict[str, Any], speech: Speech, symbols: tuple[str, ...], before: str
) -> None:
    """A Whisper of several languages is told the language and the task; Japanese texts begin without a space."""
    place = source(tmp_path, "whisper")
    pieces = tokenizers.Tokenizer.from_file(str(place / TOKENIZER))
    pieces.add_special_tokens(["<|en|>", "<|de|>", "<|ja|>", "<|transcribe|>", "<|translate|>"])
    pieces.save(str(place / TOKENIZER))
    size = pieces.get_vocab_size()
    values = {**read_json(place / "config.json"), "vocab_size": size}
    settings = {"is_multilingual": several, "suppress_tokens": [-1, 3, size + 9], "begin_suppress_tokens": [4], **said}
    write_json(place / hf_source.GENERATION, settings)
    config = load_config(values)
    tokens = hf_tokens.write_lang_dir(place, config, tmp_path / "lang", speech)
    form = tokens.form
    assert tokens.speech == (dict(zip(("language", "task"), (one.strip("<|>") for one in symbols))) if several else {})
    assert form.start == (values["decoder_start_token_id"], *(pieces.token_to_id(symbol) for symbol in symbols))
    assert (form.end, form.suppressed, form.suppressed_first, form.before) == (
        values["eos_token_id"],
        (3,),
        (4,),
        before,
    )
    if several:
        with pytest.raises(
            UserError, match=r"has no token <\|xx\|>; give a language of the network by its code, such as"
        ):
            hf_tokens.write_lang_dir(place, config, tmp_path / "other", Speech("xx"))
        write_json(place / hf_source.GENERATION, {**settings, "language": "german"})
        with pytest.raises(UserError, match="asks for the language 'german'; give its code as --language, such as de"):
            hf_tokens.write_lang_dir(place, config, tmp_path / "other")
    else:
        with pytest.raises(UserError, match="the network only transcribes English; leave out --language and --task"):
            hf_tokens.write_lang_dir(place, config, tmp_path / "other", Speech("de"))


def test_embeddings_may_be_padded(tmp_path: Path) -> None:
    """Numbers without a token are never chosen; more than a thousandth of them is another tokenizer."""
    small_network.write(tmp_path / "source", TEXTS, SmallConfig("moonshine", 16, 1, 1200))
    place, values = tmp_path / "source", read_json(tmp_path / "source" / "config.json")
    pieces = tokenizers.Tokenizer.from_file(str(place / TOKENIZER))
    pieces.add_tokens([f"word{number}" for number in range(2000 - pieces.get_vocab_size())])
    pieces.save(str(place / TOKENIZER))
    form = hf_tokens.write_lang_dir(place, load_config({**values, "vocab_size": 2002}), tmp_path / "lang").form
    assert form.vocab_size == 2002 and form.suppressed[-2:] == (2000, 2001)
    with pytest.raises(UserError, match="has 2000 tokens, but the network has 2003"):
        hf_tokens.write_lang_dir(place, load_config({**values, "vocab_size": 2003}), tmp_path / "other")


VERSIONS = {"tiny.en": (50256, 99), "base": (50257, 99), "large-v3": (50257, 100)}
"""Ordinary tokens of published versions of Whisper, and their languages."""


def of_version(place: Path, words: int, languages: int, stamps: int = 1501) -> dict[str, Any]:
    """Write tokens with the numbers of a version of Whisper; return the settings that name some of them."""
    pieces = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{one}": one for one in range(words)}, "w0"))
    codes = ["en", "zh", "de", *(f"{chr(97 + one // 26)}{chr(97 + one % 26)}x" for one in range(languages - 3))]
    tasks = ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    pieces.add_special_tokens([f"<|{one}|>" for one in ("endoftext", "startoftranscript", *codes, *tasks)])
    pieces.add_tokens([f"<|{one / 50:.2f}|>" for one in range(stamps)])
    place.mkdir(exist_ok=True)
    pieces.save(str(place / TOKENIZER))
    size = words + languages + 8 + 1501
    return {"vocab_size": size, "eos_token_id": words, "decoder_start_token_id": words + 1,
            "no_timestamps_token_id": words + languages + 7}  # fmt: skip


def whisper_of(values: dict[str, Any]) -> EncoderDecoderConfig:
    return load_config({**WHISPER, **values})


@pytest.mark.parametrize("tokens", VERSIONS)
@pytest.mark.parametrize("network", VERSIONS)
def test_versions_of_whisper_differ_by_a_token(tmp_path: Path, network: str, tokens: str) -> None:
    config = whisper_of(of_version(tmp_path / "own", *VERSIONS[network]))
    of_version(tmp_path / "given", *VERSIONS[tokens])
    if tokens == network:
        start = hf_tokens.write_lang_dir(tmp_path / "given", config, tmp_path / "lang").form.start
        assert len(start) == (2 if network == "tiny.en" else 4)
        return
    with pytest.raises(UserError, match="tokens, but the network has 518"):
        hf_tokens.write_lang_dir(tmp_path / "given", config, tmp_path / "lang")


def test_tokens_of_whisper_have_the_numbers_of_the_network(tmp_path: Path) -> None:
    values = of_version(tmp_path, *VERSIONS["base"], stamps=0)
    config = whisper_of(values)
    write_json(tmp_path / hf_source.GENERATION, values)
    assert hf_tokens.write_lang_dir(tmp_path, config, tmp_path / "lang").form.start[0] == 50258, "older files of tokens"
    write_json(tmp_path / hf_source.GENERATION, {"no_timestamps_token_id": 50364})
    of_version(tmp_path, *VERSIONS["base"])
    with pytest.raises(UserError, match=r"has <.0.00.> as token 50364, which is <.notimestamps.> in the network; give"):
        hf_tokens.write_lang_dir(tmp_path, config, tmp_path / "other")
    of_version(tmp_path, 50256, 100)
    with pytest.raises(UserError, match=r"has <.en.> as token 50258, which is <.startoftranscript.> in the network"):
        hf_tokens.write_lang_dir(tmp_path, config, tmp_path / "other")


def with_settings(directory: Path, config: dict[str, Any], generation: dict[str, Any]) -> EncoderDecoderConfig:
    """Write tokens of whisper-base and settings, whose forced tokens are given by their names."""
    network = whisper_of(of_version(directory, *VERSIONS["base"]))
    pieces = tokenizers.Tokenizer.from_file(str(directory / TOKENIZER))

    def numbered(value: Any) -> Any:
        if isinstance(value, list):
            return [numbered(one) for one in value]
        return pieces.token_to_id(f"<|{value}|>") if isinstance(value, str) else value

    for name, settings in (("config.json", config), (hf_source.GENERATION, generation)):
        forced = {key: numbered(value) for key, value in settings.items() if key == hf_tokens.FORCED}
        write_json(directory / name, {**settings, **forced})
    return network


@pytest.mark.parametrize(
    ("config", "generation", "symbols"),
    [
        ({}, {"forced_decoder_ids": [[1, "de"], [2, "transcribe"], [3, "notimestamps"]]}, "de transcribe"),
        ({}, {"forced_decoder_ids": [[1, None], [2, "translate"]]}, "en translate"),
        ({}, {"forced_decoder_ids": [[1, "de"], [2, "translate"]], "language": "zh", "task": None}, "zh translate"),
        ({"forced_decoder_ids": [[1, "zh"], [2, "transcribe"]]}, {}, "zh transcribe"),
        ({"forced_decoder_ids": [[1, "zh"]]}, {"forced_decoder_ids": None, "task": "translate"}, "en translate"),
    ],
)
def test_older_settings_name_language_and_task_by_tokens(
    tmp_path: Path,
    config: dict[str, Any],
    generation: dict[str, Any],
    symbols: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = with_settings(tmp_path, config, generation)
    caplog.set_level("INFO")
    found = hf_tokens.write_lang_dir(tmp_path, network, tmp_path / "lang").speech
    assert " ".join(found.values()) == symbols
    begins = " ".join(f"<|{one}|>" for one in (*symbols.split(), "notimestamps"))
    assert caplog.text.count(f"transcripts begin with {begins}") == 1
    given = hf_tokens.write_lang_dir(tmp_path, network, tmp_path / "other", Speech("en", "translate"))
    assert given.speech == {"language": "en", "task": "translate"}


@pytest.mark.parametrize(
    ("forced", "message"),
    [
        ([[1, "translate"]], "asks for the language <.translate.>, token 50358; correct it in generation_config"),
        ([[2, "de"]], "asks for the task <.de.>, token 50261; correct it in generation_config.json or config.json"),
        ([1, 2], "is not a list of places and tokens; correct it in"),
        ([[1, -1]], "asks for the language None, token -1"),
    ],
)
def test_older_settings_that_are_broken(tmp_path: Path, forced: list[Any], message: str) -> None:
    network = with_settings(tmp_path, {}, {hf_tokens.FORCED: forced})
    with pytest.raises(UserError, match=message):
        hf_tokens.write_lang_dir(tmp_path, network, tmp_path / "lang")


def test_a_missing_tokenizer_is_named_before_weights_are_read(tmp_path: Path) -> None:
    place = source(tmp_path)
    (place / TOKENIZER).unlink()
    (place / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="tokenizer.json does not exist; give a directory that contains the network's"):
        imported(tmp_path)
    write_json(place / "vocab.json", {})
    with pytest.raises(UserError, match="does not exist; write it with transformers: AutoTokenizer.from_pretrained"):
        imported(tmp_path)


def load_config(values: dict[str, Any]) -> Any:
    from pruning.importers.encoder_decoder import configuration

    return configuration(values)


def test_the_tail_of_a_window_stays_with_the_network(tmp_path: Path) -> None:
    source(tmp_path, "whisper")
    imported(tmp_path, "--tail", "0.5")
    model, header = checkpoint.load_model(tmp_path / "exp")
    assert isinstance(model, EncoderDecoder) and model.encoder.window == (3000, 0.5)
    facts = read_json(tmp_path / "exp" / "model.json")
    assert header["hugging_face"]["tail"] == 0.5 and facts["tokens_10s"] == 34, "silence has no tokens"
    with pytest.raises(UserError, match="exp contains another network"):
        imported(tmp_path)
    source(tmp_path)
    with pytest.raises(UserError, match="takes samples, so that its recordings have no tail; leave out the tail"):
        imported(tmp_path, "--tail", "0.5")


def test_moonshine_has_one_language(tmp_path: Path) -> None:
    source(tmp_path)
    with pytest.raises(UserError, match="has one language and one task; leave out --language and --task"):
        imported(tmp_path, "--language", "en")


def test_tokens_of_a_second_are_a_setting(tmp_path: Path) -> None:
    source(tmp_path)
    imported(tmp_path, "--tokens-per-second", "5")
    model, _ = checkpoint.load_model(tmp_path / "exp")
    facts = read_json(tmp_path / "exp" / "model.json")
    assert isinstance(model, EncoderDecoder) and (facts["tokens_10s"], facts["tokens_30s"]) == (50, 150)
    costs = CostModel(model.unit_groups(), model.cost_terms(160000, tokens=50))
    by_kind = {kind: int(row["macs"]) for kind, row in costs.by_kind(costs.dense_counts()).items()}
    assert facts["output_macs_10s"] == by_kind["output"] == 50 * model.config.vocab_size * model.config.decoder.d_model
    assert facts["decoder_macs_10s"] == sum(macs for kind, macs in by_kind.items() if kind.startswith("decoder_"))
    with pytest.raises(UserError, match="exp contains another network"):
        imported(tmp_path)
