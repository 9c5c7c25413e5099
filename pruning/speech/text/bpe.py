"""Word pieces: train and use a sentencepiece model in a language directory laid out as in icefall."""

from __future__ import annotations

import hashlib
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

from pruning import files
from pruning.errors import UserError
from pruning.speech.text.names import MODEL_TYPES

if TYPE_CHECKING:
    import numpy as np

BLANK, SOS_EOS, UNKNOWN = "<blk>", "<sos/eos>", "<unk>"
BLANK_ID, UNKNOWN_ID = 0, 2
TABLE = "tokens.txt"
_WORD_MARK = "▁"
_UNKNOWN_WORDS = (UNKNOWN, "<UNK>")
"""Words of transcripts that stand for one that nobody understood, as in TED-LIUM and Kaldi's texts."""
_SKIPPED = "▅"
"""A character for whose sake sentencepiece drops a sentence from training and says nothing."""
_PART_BYTES = 4000
"""Longest part in bytes that is given to sentencepiece, which silently drops sentences of more than 4192 bytes."""
_SHOWN = 60
"""Number of characters of a text that error messages show."""


class Tokenizer:
    """Convert words to token ids and back with ``bpe.model`` of a language directory.

    Args:
        lang_dir: language directory with ``bpe.model`` and, as in icefall, ``tokens.txt``.

    Attributes:
        vocab_size: number of tokens, blank (0) included.
        unknown_id: id of ``<unk>``: 2 in models of `train` and of icefall, another if other symbols precede it.
        fingerprint: SHA-256 of ``bpe.model``, in hexadecimal.

    Raises:
        UserError: the model is missing or broken, its token 0 is not blank, or ``tokens.txt`` is from another model.
    """

    def __init__(self, lang_dir: files.PathLike) -> None:
        import sentencepiece

        self.lang_dir = Path(lang_dir)
        path = self.lang_dir / "bpe.model"
        remedy = "create the language directory with local/train_bpe.py"
        try:
            serialized = path.read_bytes()
        except OSError:
            raise UserError(f"{path} does not exist or cannot be read", remedy) from None
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=serialized)
        except RuntimeError:
            raise UserError(f"{path} is not a sentencepiece model", remedy) from None
        self.vocab_size: int = self._processor.get_piece_size()
        self.fingerprint = hashlib.sha256(serialized).hexdigest()
        if self.vocab_size == 0 or self._processor.id_to_piece(BLANK_ID) != BLANK:
            raise UserError(f"{path} does not have {BLANK} as token 0", remedy)
        self.unknown_id: int = self._processor.unk_id()
        mark = self._processor.piece_to_id(_WORD_MARK)
        self._mark = None if mark == self.unknown_id else mark
        named = {BLANK: BLANK_ID, SOS_EOS: self._processor.piece_to_id(SOS_EOS)}
        self._no_words = {token: name for name, token in named.items() if token != self.unknown_id}
        self.check_table(self.lang_dir / TABLE, "create both again with local/train_bpe.py")

    @property
    def path(self) -> Path:
        """Path of the model."""
        return self.lang_dir / "bpe.model"

    def encode(self, text: str) -> list[int]:
        """Return the token ids of ``text``; unknown characters become ``<unk>``, and the word ``<unk>`` is one token.

        Raises:
            UserError: the text contains the symbol of blank or of sentence ends, which cannot occur in a transcript, or
                is in word pieces already.
        """
        return self._checked(text, self._processor.encode(text))

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Run `encode` on many texts in parallel."""
        return [self._checked(text, row) for text, row in zip(texts, self._processor.encode(list(texts)))]

    def _checked(self, text: str, tokens: list[int]) -> list[int]:
        """Return the ``tokens`` that sentencepiece gives for ``text``, but one token for the word ``<unk>``."""
        for symbol, name in self._no_words.items():
            if symbol in tokens:
                raise UserError(f"the text {text[:_SHOWN]!r} contains the symbol {name}", "remove it from the text")
        _check_words(text)
        if not any(word in text for word in _UNKNOWN_WORDS):
            return tokens
        found: list[int] = []
        for unknown, group in itertools.groupby(text.split(), _UNKNOWN_WORDS.__contains__):
            words = list(group)
            found += [self.unknown_id] * len(words) if unknown else self._processor.encode(" ".join(words))
        return found

    def spell(self, text: str) -> str:
        """Return ``text`` as its tokens spell it: sentencepiece rewrites some letters and does not cover others."""
        return self.decode(self.encode(text))

    def count_unknown(self, tokens: Union[Sequence[int], np.ndarray]) -> tuple[int, int]:
        """Return the number of ``<unk>`` in ``tokens`` and the number of tokens; word marks are not counted."""
        import numpy as np

        ids = np.asarray(tokens, dtype=np.int64)
        marks = 0 if self._mark is None else int((ids == self._mark).sum())
        return int((ids == self.unknown_id).sum()), len(ids) - marks

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the words that ``tokens`` spell, separated by single spaces; blanks are skipped."""
        return " ".join(self._processor.decode([int(token) for token in tokens if token > BLANK_ID]).split())

    def tokens(self) -> list[str]:
        """Return all tokens in order of their ids."""
        return [self._processor.id_to_piece(index) for index in range(self.vocab_size)]

    @property
    def boundaries(self) -> tuple[int, int]:
        """Token before and behind a sentence: ``<sos/eos>``, or blank if the model has no such token."""
        pieces = self.tokens()
        boundary = pieces.index(SOS_EOS) if SOS_EOS in pieces else BLANK_ID
        return boundary, boundary

    @property
    def joint(self) -> None:
        """None: language models over these tokens are trained on single sentences."""
        return None

    def begins(self) -> np.ndarray:
        """Return whether each token begins a word, ``(V,)`` bool."""
        import numpy as np

        return np.array([piece.startswith(_WORD_MARK) for piece in self.tokens()])

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint records, for ``check_matches``."""
        return {"vocab_size": self.vocab_size, "sha256": self.fingerprint}

    @property
    def form(self) -> None:
        """None: transcripts have no tokens around their text."""
        return None

    @property
    def speller(self) -> Tokenizer:
        """The tokeniser itself."""
        return self

    def targets(self, cut: object, text: str) -> list[int]:
        """Return the tokens of a transcript, see `encode`."""
        return self.encode(text)

    def check_matches(self, recorded: dict[str, Any], name: str = "the checkpoint") -> None:
        """Check that a checkpoint was trained with this model.

        Args:
            recorded: result of ``describe`` when the checkpoint was trained; missing keys are not compared.
            name: name of the checkpoint for the error message.

        Raises:
            UserError: the size or the fingerprint differs.
        """
        size, fingerprint = recorded.get("vocab_size"), recorded.get("sha256")
        remedy = "give the --lang-dir that it was trained with"
        if size is not None and size != self.vocab_size:
            raise UserError(f"{self.lang_dir} has {self.vocab_size} tokens but {name} has {size}", remedy)
        if fingerprint is not None and fingerprint != self.fingerprint:
            raise UserError(f"{self.lang_dir / 'bpe.model'} is not the model of {name}", remedy)

    def check_table(self, path: Path, remedy: str) -> None:
        """Compare ``tokens.txt`` with the model, if the file exists.

        Raises:
            UserError: its tokens or their ids differ.
        """
        if not path.is_file():
            return
        lines = [line.split() for line in files.read_lines(path) if line.strip()]
        # tokens.txt may end with disambiguation symbols such as #0, which are not tokens of the model.
        table = [(line[0], line[1]) for line in lines if len(line) == 2 and not re.fullmatch(r"#\d+", line[0])]
        if table != [(token, str(index)) for index, token in enumerate(self.tokens())]:
            raise UserError(f"{path} does not match {self.path}", remedy)


def _check_words(text: str) -> None:
    if _WORD_MARK in text:
        what = f"the text {text[:_SHOWN]!r} contains {_WORD_MARK}, which marks the beginning of a word in word pieces"
        raise UserError(what, "give words instead of word pieces")


def train(texts: Iterable[str], lang_dir: files.PathLike, vocab_size: Optional[int], model_type: str) -> Tokenizer:
    """Train a sentencepiece model and write ``bpe.model`` and ``tokens.txt``, with the same ids as icefall.

    Args:
        texts: transcripts, one utterance each.
        lang_dir: directory to write; nothing is done if it has ``bpe.model`` and ``tokens.txt`` of this type and size.
        vocab_size: number of tokens, the three special ones included; None (only for ``char``): one per character.
        model_type: ``unigram`` (icefall's), ``bpe``, ``char`` or ``word``.

    Raises:
        UserError: the text is empty, in word pieces already, or has too few different pieces for ``vocab_size``, an
            option is wrong, or the directory has tokens of another type or number.
    """
    import sentencepiece

    if model_type not in MODEL_TYPES:
        raise UserError(f"unknown token type {model_type!r}", f"choose one of {', '.join(MODEL_TYPES)}")
    directory = Path(lang_dir)
    if (directory / "bpe.model").is_file() and (directory / "tokens.txt").is_file():
        return _existing(directory, vocab_size, model_type)
    if vocab_size is None and model_type != "char":
        raise UserError(f"{model_type} tokens need a vocabulary size", "give --vocab-size")
    model = io.BytesIO()
    sentences = _Counted(texts)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            vocab_size=vocab_size or 2**16,
            hard_vocab_limit=vocab_size is not None,  # if not: one token per character
            model_type=model_type,
            character_coverage=1.0,
            input_sentence_size=0,
            user_defined_symbols=[BLANK, SOS_EOS],
            unk_id=UNKNOWN_ID,
            bos_id=-1,
            eos_id=-1,
            num_threads=1,  # another order of summation could give another model
            minloglevel=2,
        )
    except (RuntimeError, ValueError, OSError) as error:
        if sentences.fault is not None:
            raise sentences.fault from None
        raise _explained(error, sentences.count, vocab_size) from None
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokens.txt").unlink(missing_ok=True)  # from an earlier model, it would not match
    with files.atomic_path(directory / "bpe.model") as temporary:
        temporary.write_bytes(model.getvalue())
    tokens = Tokenizer(directory).tokens()
    files.write_text(directory / "tokens.txt", "".join(f"{token} {index}\n" for index, token in enumerate(tokens)))
    return Tokenizer(directory)


class _Counted:
    """Iterate over texts, count them, and keep the error that stops the iteration: sentencepiece hides it."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.count = 0
        self.fault: Optional[UserError] = None

    def __iter__(self) -> Iterator[str]:
        try:
            for text in self._texts:
                self.count += 1
                _check_words(text)
                yield from _parts(text)
        except UserError as error:
            self.fault = error
            raise


def _parts(text: str) -> Iterator[str]:
    """Split a text into parts short enough that sentencepiece does not drop them, between words if there are spaces.

    Pieces do not cross words, so splitting between words does not change them. ``<unk>`` is left out: it is
    not spelled.
    """
    part: list[str] = []
    size = 0
    for word in text.replace(_SKIPPED, " ").split(" "):
        if word in _UNKNOWN_WORDS:
            continue
        step = len(word) if len(word.encode()) < _PART_BYTES else _PART_BYTES // 4  # a character takes up to 4 bytes
        for start in range(0, max(1, len(word)), max(1, step)):
            some = word[start : start + step]
            length = len(some.encode()) + 1
            if size + length > _PART_BYTES and part:
                yield " ".join(part)
                part, size = [], 0
            part.append(some)
            size += length
    yield " ".join(part)


def _existing(directory: Path, vocab_size: Optional[int], model_type: str) -> Tokenizer:
    tokenizer = Tokenizer(directory)
    remedy = "remove it or give another --lang-dir"
    if vocab_size is not None and tokenizer.vocab_size != vocab_size:
        raise UserError(f"{directory} has {tokenizer.vocab_size} tokens, not {vocab_size}", remedy)
    found = _model_type((directory / "bpe.model").read_bytes())
    if found != model_type:
        raise UserError(f"{directory} has tokens of type {found}, not {model_type}", remedy)
    return tokenizer


def _model_type(serialized: bytes) -> str:
    """Return the model type (one of ``MODEL_TYPES``) of a sentencepiece model."""
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = sentencepiece_model_pb2  # typed Any: its classes are created at import
    number = proto.ModelProto.FromString(serialized).trainer_spec.model_type
    return proto.TrainerSpec.ModelType.Name(number).lower()


def _explained(error: Exception, sentences: int, vocab_size: Optional[int]) -> UserError:
    """Translate an error of sentencepiece into a `UserError`."""
    limit = re.search(r"value <= (\d+)", str(error))
    if sentences == 0:
        return UserError("no transcripts to train tokens on", "check the training cuts")
    if limit:
        what = f"the text supports at most {limit.group(1)} tokens, not {vocab_size}"
        return UserError(what, f"give --vocab-size {limit.group(1)} or less")
    return UserError(f"sentencepiece cannot train {vocab_size} tokens ({error})", "check --vocab-size and the text")
