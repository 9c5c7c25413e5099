"""A small Whisper or Moonshine with random weights and with tokens of a text, written as Hugging Face writes them.

It stands in for a pre-trained network where none is at hand: recipes on synthetic speech, and tests.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors.torch import save_file

from pruning.files import PathLike, atomic_path, write_json
from pruning.importers.encoder_decoder import configuration, their_name
from pruning.importers.hf_directory import CONFIG
from pruning.importers.hf_source import GENERATION
from pruning.limits import Count, OneOf, Range, Seed, check_fields
from pruning.models.encoder_decoder import EncoderDecoder
from pruning.models.names import FAMILY_NAMES, MOONSHINE, WHISPER
from pruning.optional import package
from pruning.speech.text.network_tokens import TOKENIZER

_SYMBOLS = {MOONSHINE: ("<unk>", "<s>", "</s>"),
            WHISPER: ("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>")}  # fmt: skip
"""Special tokens: those of Moonshine come first, those of Whisper last."""


@dataclass(frozen=True)
class SmallConfig:
    """What a small network is like.

    Attributes:
        family: ``whisper`` or ``moonshine``.
        width: dimension of the residual streams, a multiple of 16.
        layers: number of layers of each part.
        vocab_size: largest number of tokens.
        seconds: window of a Whisper.
        seed: seed of the weights.
    """

    family: Annotated[str, OneOf(FAMILY_NAMES)] = MOONSHINE
    width: Annotated[int, OneOf(tuple(range(16, 513, 16)))] = 48
    layers: Count = 2
    vocab_size: Count = 400
    seconds: Annotated[int, Range(int, least=1, most=30)] = 30
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_fields(self)


def write(directory: PathLike, texts: Iterable[str], config: SmallConfig) -> None:
    """Write a network to a directory: configuration, weights and tokens.

    Args:
        directory: directory to write.
        texts: transcripts from which the tokens are made.
        config: what the network is like.

    Raises:
        UserError: the package tokenizers is not installed.
    """
    family, place = config.family, Path(directory)
    tokenizer = _tokenizer(texts, family, config.vocab_size)
    values = (_moonshine if family == MOONSHINE else _whisper)(tokenizer, config)
    torch.manual_seed(config.seed)
    model = EncoderDecoder(configuration(values))
    tensors = {f"model.{their_name(name, family)}": tensor.detach().clone()
               for name, tensor in model.state_dict().items()}  # fmt: skip
    with atomic_path(place / TOKENIZER) as temporary:
        tokenizer.save(str(temporary))
    with atomic_path(place / "model.safetensors") as temporary:
        save_file(tensors, str(temporary))
    write_json(place / GENERATION, {name: values[name] for name in ("decoder_start_token_id", "eos_token_id")})
    write_json(place / CONFIG, values)


def _tokenizer(texts: Iterable[str], family: str, vocab_size: int) -> Any:
    """Return byte-level word pieces of texts, with the special tokens of a family."""
    library = package("tokenizers", "a network with its own tokens", "hf")
    pieces = library.Tokenizer(library.models.BPE())
    level = library.pre_tokenizers.ByteLevel
    pieces.pre_tokenizer = level(add_prefix_space=family == MOONSHINE)
    pieces.decoder = library.decoders.ByteLevel()
    symbols = list(_SYMBOLS[family])
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=symbols if family == MOONSHINE else [],
        initial_alphabet=level.alphabet(), show_progress=False,
    )  # fmt: skip
    pieces.train_from_iterator(iter(texts), trainer)
    if family == WHISPER:
        pieces.add_special_tokens(symbols)
    return pieces


def _moonshine(tokenizer: Any, config: SmallConfig) -> dict[str, Any]:
    width, layers = config.width, config.layers
    start, end = (tokenizer.token_to_id(symbol) for symbol in _SYMBOLS[MOONSHINE][1:])
    return {
        "architectures": ["MoonshineForConditionalGeneration"], "model_type": MOONSHINE,
        "vocab_size": tokenizer.get_vocab_size(), "hidden_size": width, "intermediate_size": 4 * width,
        "encoder_num_hidden_layers": layers, "decoder_num_hidden_layers": layers, "encoder_num_attention_heads": 4,
        "decoder_num_attention_heads": 4, "partial_rotary_factor": 0.5,
        "tie_word_embeddings": True, "decoder_start_token_id": start, "eos_token_id": end, "pad_token_id": end,
    }  # fmt: skip


def _whisper(tokenizer: Any, config: SmallConfig) -> dict[str, Any]:
    width, layers = config.width, config.layers
    end, start, _ = (tokenizer.token_to_id(symbol) for symbol in _SYMBOLS[WHISPER])
    return {
        "architectures": ["WhisperForConditionalGeneration"], "model_type": WHISPER,
        "vocab_size": tokenizer.get_vocab_size(), "num_mel_bins": 80, "d_model": width, "encoder_layers": layers,
        "decoder_layers": layers, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width, "max_source_positions": 50 * config.seconds,
        "max_target_positions": 448, "tie_word_embeddings": True, "decoder_start_token_id": start,
        "eos_token_id": end, "pad_token_id": end,
    }  # fmt: skip
