"""The command that rescores n-best lists, with networks and n-grams: weights chosen on dev, results, bad input."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
import torch

from pruning import registry
from pruning.bin import lm_report
from pruning.bin import rescore as command
from pruning.errors import UserError
from pruning.experiments import checkpoint, rescoring_results
from pruning.models.transformer_lm import TransformerLM
from pruning.models.transformer_lm_config import LanguageModelConfig
from pruning.speech.decoding.n_best import Entry, read_nbest, write_nbest
from pruning.speech.ngrams.arpa import write
from pruning.speech.ngrams.kneser_ney import estimate
from pruning.speech.text import network_tokens
from pruning.speech.text.transcript_form import TranscriptForm
from pruning.speech.text.written_form import sentence
from tests.kinds.test_language_model import work

__all__ = ["work"]


def test_the_command_chooses_its_weight_on_dev(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The recogniser gives sentences of the training text a slightly lower score than nonsense."""
    from tests.speech.text.test_sentences import lines

    spoken = {f"u{index}": line for index, line in enumerate(lines(340)[300:]) if len(line.split()) > 3}
    entries = []
    for name, line in spoken.items():
        wrong = " ".join(reversed(line.split()))
        entries += [Entry(name, -1.0, line), Entry(name, -0.5, wrong)]
    write_nbest(tmp_path / "nbest.txt", entries)
    (tmp_path / "text").write_text("".join(f"{name} {line}\n" for name, line in spoken.items()))
    common = ["--nbest", str(tmp_path / "nbest.txt"), "--references", str(tmp_path / "text"),
              "--output", str(tmp_path / "again.txt")]  # fmt: skip
    tuned = ["--dev-nbest", str(tmp_path / "nbest.txt"), "--dev-references", str(tmp_path / "text")]
    write(estimate(lines(300), 2), tmp_path / "lm.arpa")
    network = ["--lm-exp-dir", str(work / "dense"), "--lang-dir", str(work / "lang")]
    for model in (network, ["--arpa", str(tmp_path / "lm.arpa")]):
        command.main([*common, *model, *tuned, "--lm-scales", "0", "0.5"])
        printed = capsys.readouterr().out
        assert (
            "dev, scale 0.5, word bonus 0: WER 0.00 %" in printed
            and f"changed for {len(spoken)} of {len(spoken)} utterances" in printed
        )
        assert printed.strip().endswith("-> 0.00 %")
        assert [entries[0].text for entries in read_nbest(tmp_path / "again.txt").values()] == list(spoken.values())
    command.main([*common, *network, "--lm-scale", "0"])
    assert "scale 0, word bonus 0: the best hypothesis changed for 0 of" in capsys.readouterr().out


def test_what_does_not_fit_is_refused(work: Path, tmp_path: Path) -> None:
    (tmp_path / "nbest.txt").write_text("a -1 ДВА\n")
    (tmp_path / "text").write_text("b ONE\n")
    common = ["--nbest", str(tmp_path / "nbest.txt"), "--output", str(tmp_path / "out.txt")]
    network = ["--lm-exp-dir", str(work / "dense"), "--lang-dir", str(work / "lang")]
    for options, message in [
        ([*network, "--lm-scale", "1"], "the hypothesis 'ДВА' contains characters that the word pieces do not cover"),
        (["--lm-scale", "1"], "give exactly one of --lm-exp-dir and --arpa"),
        (network, "give either --lm-scale, or both --dev-nbest and --dev-references"),
        ([*network, "--lm-scale", "1", "--references", str(tmp_path / "text")], "has no reference for a"),
    ]:
        with pytest.raises(UserError, match=message):
            command.main([*common, *options])
    assert not (tmp_path / "out.txt").exists()


def run(place: Path, nbest: str, references: str, *options: str) -> None:
    (place / "nbest.txt").write_text(nbest)
    (place / "text").write_text(references)
    command.main(["--nbest", str(place / "nbest.txt"), "--references", str(place / "text"), "--arpa",
                  str(place / "lm.arpa"), "--output", str(place / "out.txt"), *options])  # fmt: skip


def test_every_reference_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Utterances without hypotheses count as deleted, in the printed WER and in tuning the weight."""
    write(estimate(["ONE TWO", "TWO ONE"], 2), tmp_path / "lm.arpa")
    run(tmp_path, "a -1 ONE TWO\n", "a ONE TWO\nb ONE TWO\n", "--lm-scale", "0")
    assert "WER 50.00 % -> 50.00 %" in capsys.readouterr().out
    assert "1 of 2 utterances of" in caplog.text and "(first: b)" in caplog.text
    tuned = ["--dev-nbest", str(tmp_path / "nbest.txt"), "--dev-references", str(tmp_path / "text")]
    run(tmp_path, "a -1 ONE TWO\n", "a ONE TWO\nb ONE TWO\n", *tuned)
    assert "dev, scale 0, word bonus 0: WER 50.00 %" in capsys.readouterr().out
    for references, message in [("a\n", "contains no words"), ("a ONE\na TWO\n", "line 2 repeats a")]:
        with pytest.raises(UserError, match=message):
            run(tmp_path, "a -1 ONE\n", references, "--lm-scale", "0")
    for scale in ("-1", "nan", "inf"):
        with pytest.raises(SystemExit):
            run(tmp_path, "a -1 ONE\n", "a ONE\n", "--lm-scale", scale)
        assert f"argument --lm-scale: must be at least 0, got {float(scale)}" in capsys.readouterr().err


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_references_and_hypotheses_are_compared_in_one_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], forms: tuple[str, str]
) -> None:
    of_list, of_text = (unicodedata.normalize(form, "ÉTÉ 한국") for form in forms)
    write(estimate(["ÉTÉ 한국"], 2), tmp_path / "lm.arpa")
    run(tmp_path, f"a -1 {of_list}\na -2 AUTRE\n", f"a {of_text}\n", "--lm-scale", "0.1")
    assert "WER 0.00 % -> 0.00 %" in capsys.readouterr().out


def test_an_arpa_file_without_probability_of_unknown_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """<unk> has -inf: a weight of 0, which tuning always tries, changes nothing."""
    write(estimate(["ONE TWO", "TWO ONE"], 2), tmp_path / "lm.arpa")
    text = (tmp_path / "lm.arpa").read_text()
    (tmp_path / "lm.arpa").write_text(re.sub(r"^\S+\t<unk>", "-inf\t<unk>", text, flags=re.M))
    lists = "a -1 ONE TWO\na -2 ONE\nb -1 SIX TEN\nb -2 TEN SIX\n"
    for scale in ("0", "0.5"):
        run(tmp_path, lists, "a ONE TWO\nb SIX TEN\n", "--lm-scale", scale)
        assert (
            f"scale {scale}, word bonus 0: the best hypothesis changed for 0 of 2 utterances" in capsys.readouterr().out
        )
        assert [entries[0].text for entries in read_nbest(tmp_path / "out.txt").values()] == ["ONE TWO", "SIX TEN"]


LISTS = ("1-2-0000 -1.0 ONE TWO\n1-2-0000 -1.2 TWO ONE\n1-2-0000 -1.4 ONE  TWO\n1-2-0001 -0.5 TWO\n"
         "1-2-0001 -0.6 TWO ONE\n3-4-0000 -1 ONE\n3-4-0000 -2\n")  # fmt: skip
TEXT = "1-2-0000 TWO ONE\n1-2-0001 TWO ONE\n3-4-0000 ONE\n"


def test_results_are_kept_shown_and_not_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """With a bigram and without, and the table of both."""
    caplog.set_level("INFO")
    write(estimate(["TWO ONE"] * 30 + ["ONE"] * 10, 2), tmp_path / "lm.arpa")
    (tmp_path / "nbest.txt").write_text(LISTS)
    (tmp_path / "text").write_text(TEXT)
    (tmp_path / "utt2dur").write_text("1-2-0000 2.0\n1-2-0001 1\n3-4-0000 1\n")
    (tmp_path / "utt2spk").write_text("1-2-0000 1\n1-2-0001 1\n3-4-0000 3\n")
    files = {key: str(tmp_path / name) for key, name in
             (("--nbest", "nbest.txt"), ("--references", "text"), ("--utt2dur", "utt2dur"), ("--utt2spk", "utt2spk"),
              ("--dev-nbest", "nbest.txt"), ("--dev-references", "text"))}  # fmt: skip
    common = [*(word for pair in files.items() for word in pair), "--form", "words"]
    ngram = ["--arpa", str(tmp_path / "lm.arpa"), "--lm-scales", "0", "0.5", "--word-bonuses", "-1", "0", "1"]
    for name, model in (("none", ["--without-lm", "--word-bonuses", "0"]), ("2-gram", ngram)):
        command.main([*common, *model, "--exp-dir", str(tmp_path / name), "--set", "test"])
    printed = capsys.readouterr().out
    assert "7 hypotheses, 6 different, 0 left out" in printed and "oracle WER of the list 0.00 %" in printed
    assert "WER 60.00 % -> 0.00 %" in printed and "word bonus 0: WER 0.00 %" in printed
    assert caplog.text.count("1 empty hypotheses") == 4 and "at the edge" in caplog.text
    found = rescoring_results.read(tmp_path / "2-gram", "test")
    assert found.columns == {"errors": [0, 0, 0], "words": [2, 2, 1], "oracle_errors": [0, 0, 0]}
    assert found.utterances.speakers == ["1", "1", "3"]
    facts = {"lm": "lm", "lm_scale": 0.5, "word_bonus": 0.0, "audio_seconds": 4.0, "unique": 6, "form": "words"}
    assert facts.items() <= found.facts.items() and found.facts["real_time_factor"] > 0
    assert len(read_nbest(tmp_path / "2-gram" / "rescored-test.txt")["1-2-0000"]) == 2
    before = (tmp_path / "2-gram" / "rescore-test.json").read_bytes()
    command.main([*common, *ngram, "--exp-dir", str(tmp_path / "2-gram"), "--set", "test"])
    assert "rescore-test.json is done" in caplog.text
    assert (tmp_path / "2-gram" / "rescore-test.json").read_bytes() == before
    lm_report.main(["--rescored", f"no LM={tmp_path / 'none'}", f"2-gram={tmp_path / '2-gram'}", "--sets", "test",
                    "--output", str(tmp_path / "RESULTS.md")])  # fmt: skip
    table = (tmp_path / "RESULTS.md").read_text()
    assert re.search(r"\| no LM +\| +0 \| +0 \| words +\| +0 \| +60.00 \(", table)
    assert re.search(r"\| 2-gram +\| +0.5 \| +0 .*\| +0.00 \(0.00 to 0.00\) \| +-60.00 \(", table)
    assert re.search(r"\| +0.00 +\| +0.0[0-9]+[ (busy)]* +\|", table), "oracle and real-time factor"


def test_tables_of_other_utterances_and_missing_places_are_named(tmp_path: Path) -> None:
    write(estimate(["ONE TWO"], 2), tmp_path / "lm.arpa")
    (tmp_path / "utt2dur").write_text("b 2.0\n")
    (tmp_path / "zero").write_text("a 0\n")
    for options, message in [
        (["--lm-scale", "1", "--utt2dur", str(tmp_path / "utt2dur")], "the duration of a is unknown"),
        (["--lm-scale", "1", "--utt2dur", str(tmp_path / "zero")], "the duration of a is '0'"),
        (["--lm-scale", "1", "--utt2spk", str(tmp_path / "gone")], "gone does not exist"),
        (["--lm-scale", "1", "--context", "1"], "--context needs a language model of running text"),
        (["--lm-scale", "1", "--without-lm"], "give exactly one of"),
    ]:
        with pytest.raises(UserError, match=message):
            run(tmp_path, "a -1 ONE\n", "a ONE\n", *options)
    with pytest.raises(UserError, match="no list to rescore"):
        command.main(["--arpa", "x", "--lm-scale", "1"])
    with pytest.raises(UserError, match="no place for the re-ranked list"):
        command.main(["--arpa", "x", "--lm-scale", "1", "--nbest", "x"])


def test_hypotheses_that_are_equal_after_the_normaliser_are_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("whisper_normalizer")
    write(estimate(["ONE TWO"], 2), tmp_path / "lm.arpa")
    run(tmp_path, "a -1 Can't.\na -2 can not\n", "a CAN NOT\n", "--lm-scale", "0", "--normalise", "english")
    assert "2 hypotheses, 1 different" in capsys.readouterr().out


SPOKEN = ["the old man went home", "he went there", "so did the old dog", "and he said no"]


def running(place: Path) -> TransformerLM:
    """Write an experiment of a language model of running text, with random weights and its own tokens."""
    tokenizers = pytest.importorskip("tokenizers", reason="the extra 'hf' is not installed")
    pieces = tokenizers.Tokenizer(tokenizers.models.BPE())
    pieces.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = tokenizers.decoders.ByteLevel()
    letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=262, special_tokens=["<|endoftext|>"], show_progress=False,
                                             initial_alphabet=letters)  # fmt: skip
    pieces.train_from_iterator([sentence(text) for text in SPOKEN], trainer)
    pieces.save(str(place / "tokenizer.json"))
    tokens = network_tokens.write(place / "lm" / "lang", place / "tokenizer.json",
                                  TranscriptForm(pieces.get_vocab_size(), (0,), 0))  # fmt: skip
    torch.manual_seed(0)
    model = TransformerLM(LanguageModelConfig(12, 2, 4, (2,), (16,), tokens.vocab_size, positions=64)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    header = {"model": registry.describe(model), "tokenizer": tokens.describe()}
    checkpoint.save_model(checkpoint.best_path(place / "lm"), model, header)
    return model


def test_a_language_model_of_running_text_reads_earlier_hypotheses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """The scores in the list are those of a pass over start, context and text, as sentences."""
    model, tokens = running(tmp_path), network_tokens.NetworkTokens(tmp_path / "lm" / "lang")
    names = ["1-1-0000", "1-1-0001", "2-1-0000", "2-1-0001"]
    lists = [f"{name} -1 {text.upper()}\n{name} -1.5 {text.upper()} NOT\n" for name, text in zip(names, SPOKEN)]
    (tmp_path / "nbest.txt").write_text("".join(lists))
    common = ["--nbest", str(tmp_path / "nbest.txt"), "--output", str(tmp_path / "out.txt"), "--lm-exp-dir",
              str(tmp_path / "lm"), "--lm-scale", "0.5", "--word-bonus", "0.1", "--context", "3"]  # fmt: skip

    def check(room: int = 64, *options: str) -> None:
        command.main([*common, "--form", "sentence", *options])
        before: dict[str, str] = {}
        for name, entries in read_nbest(tmp_path / "out.txt").items():
            context = tokens.encode(before[name[:3]]) if name[:3] in before else []
            for entry in entries:
                text = tokens.encode(f"{' ' if context else ''}{sentence(entry.text)}")
                longest = max(len(tokens.encode(f" {sentence(one.text)}")) for one in entries)
                history = [0, *context[max(0, len(context) - (room - longest)) :]]
                log_probs = model.log_probs(torch.tensor([history + text]))[0, len(history) - 1 : -1].detach()
                of_lm = float(log_probs.gather(1, torch.tensor(text)[:, None]).sum())
                own = -1.5 if entry.text.endswith(" NOT") else -1.0
                assert entry.score == pytest.approx(own + 0.5 * of_lm + 0.1 * len(entry.text.split()), abs=1e-3)
            before[name[:3]] = sentence(entries[0].text)

    check()
    assert "contexts were cut" not in caplog.text and "times as many" in capsys.readouterr().out
    check(30, "--max-length", "30")
    assert "of 2 contexts were cut to what the language model takes" in caplog.text
    with pytest.raises(UserError, match="has .* tokens, but the language model takes 5"):
        command.main([*common, "--max-length", "5"])
    with pytest.raises(UserError, match="the recording of utterance 1-1-0000 is unknown"):
        command.main([*common, "--recording-pattern", "(x).*"])
    (tmp_path / "nbest.txt").write_text("a -1 THE <|endoftext|>\n")
    with pytest.raises(UserError, match="contains the symbol <.endoftext.>"):
        command.main([*common, "--context", "0"])


def test_tokens_of_another_network_are_refused(work: Path, tmp_path: Path) -> None:
    running(tmp_path)
    (tmp_path / "nbest.txt").write_text("a -1 ONE\n")
    for network, lang, message in [
        (work / "dense", tmp_path / "lm" / "lang", "tokens but the checkpoint has 28"),
        (tmp_path / "lm", work / "lang", "has 28 tokens but the checkpoint has"),
    ]:
        with pytest.raises(UserError, match=message):
            command.main(["--nbest", str(tmp_path / "nbest.txt"), "--output", str(tmp_path / "out.txt"), "--lm-scale",
                          "1", "--lm-exp-dir", str(network), "--lang-dir", str(lang)])  # fmt: skip
