"""Export of a transducer: ONNX as sherpa-onnx's offline transducer loads it, and TorchScript.

`encoder.onnx` takes ``x (N, T, C)`` and ``x_lens (N,)`` and gives ``encoder_out (N, T', J)``, projected by the joiner
already, and ``encoder_out_lens``; `decoder.onnx` takes ``y (N, context)`` and gives ``decoder_out (N, J)``;
`joiner.onnx` takes ``encoder_out (N, J)`` and ``decoder_out (N, J)`` and gives ``logit (N, V)``: the names and metadata
of icefall's ``export-onnx.py``.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from pruning.core.distillation import frame_mask
from pruning.deploy import onnx_files
from pruning.deploy.exported import ExportedTransducer
from pruning.files import PathLike, atomic_path
from pruning.models.facts import frames_of
from pruning.models.subsampling import SHORTEST
from pruning.models.transducer import Transducer
from pruning.speech.data.batches import Batch
from pruning.speech.decoding.greedy import greedy_search

_TRACED_SECONDS = 5.0


class ExportedEncoder(nn.Module):
    """Encoder and the joiner's projection of its output."""

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.encoder, self.projection = model.encoder, model.joiner.encoder_proj

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, T, C)``, ``(N,)`` -> ``(N, T', J)``, ``(N,)``."""
        encoded = self.encoder(onnx_files.padded(x, SHORTEST), x_lens)
        return self.projection(encoded.output), encoded.lengths


class ExportedDecoder(nn.Module):
    """Decoder and the joiner's projection of its output."""

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.decoder, self.projection = model.decoder, model.joiner.decoder_proj

    def forward(self, y: Tensor) -> Tensor:
        """Contexts ``(N, context)`` int64 -> ``(N, J)``."""
        return self.projection(self.decoder(y, pad=False)).squeeze(1)


class ExportedJoiner(nn.Module):
    """The joiner without its projections."""

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.joiner = copy.deepcopy(model.joiner)
        self.joiner.encoder_proj = self.joiner.decoder_proj = nn.Identity()  # they are with encoder and decoder

    def forward(self, encoder_out: Tensor, decoder_out: Tensor) -> Tensor:
        """``(N, J)``, ``(N, J)`` -> logits ``(N, V)``."""
        return self.joiner(encoder_out, decoder_out, project=False)


def parts(model: Transducer) -> dict[str, onnx_files.Part]:
    """Encoder, decoder and joiner, with what sherpa-onnx reads from each and a few words more."""
    config = model.config
    frames = frames_of(_TRACED_SECONDS)
    features = torch.randn(2, frames, config.encoder.feature_dim, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([frames, frames * 3 // 4])
    contexts = torch.ones(2, config.context_size, dtype=torch.int64)
    joined = torch.zeros(2, config.joiner_dim)
    n, n_t = {0: "N"}, {0: "N", 1: "T"}
    common = {**onnx_files.AUTHOR, "comment": "pruned Conformer transducer"}
    return {
        "encoder": onnx_files.Part(
            ExportedEncoder(model), (features, lengths), {"x": n_t, "x_lens": n},
            {"encoder_out": n_t, "encoder_out_lens": n},
            {"model_type": "conformer", "feature_dim": str(config.encoder.feature_dim), **common},
        ),
        "decoder": onnx_files.Part(
            ExportedDecoder(model), (contexts,), {"y": n}, {"decoder_out": n},
            {"context_size": str(config.context_size), "vocab_size": str(config.vocab_size), **common},
        ),
        "joiner": onnx_files.Part(
            ExportedJoiner(model), (joined, joined), {"encoder_out": n, "decoder_out": n}, {"logit": n},
            {"joiner_dim": str(config.joiner_dim), **common},
        ),
    }  # fmt: skip


def export_onnx(
    model: Transducer, directory: PathLike, lang_dir: Optional[PathLike] = None, int8: bool = True
) -> list[Path]:
    """Write ``{encoder,decoder,joiner}.onnx``, their int8 forms, and ``tokens.txt``; see `onnx_files.write`.

    Args:
        model: an extracted or dense network; irregular layers and removed modules are as good as any.
        directory, lang_dir, int8: as there.
    """
    return onnx_files.write(parts(model.eval()), directory, lang_dir, int8)


class Agreement(NamedTuple):
    """How an exported network compares with PyTorch's on the same features.

    Attributes:
        difference: largest difference of projected encoder outputs on valid frames, relative to the largest output.
        utterances: compared.
        differing: ids of those whose greedy hypotheses differ.
    """

    difference: float
    utterances: int
    differing: list[str]


@torch.no_grad()
def agreement(model: Transducer, exported: ExportedTransducer, batches: Iterable[Batch]) -> Agreement:
    """Compare outputs and greedy hypotheses, batch by batch."""
    difference, differing, count = onnx_files.Difference(), list[str](), 0
    for batch in batches:
        encoded = model.eval()(batch.features, batch.lengths)
        wanted = model.joiner.encoder_proj(encoded.output)
        got = exported.encoder(batch.features, batch.lengths)
        valid = frame_mask(encoded.lengths, wanted.shape[1])
        difference.add(got.output[:, : wanted.shape[1]][valid], wanted[valid])  # none: fewer than 7 frames
        pairs = zip(batch.ids, greedy_search(model, encoded.output, encoded.lengths),
                    greedy_search(exported, got.output, got.lengths))  # type: ignore[arg-type]
        differing += [name for name, ours, theirs in pairs if ours != theirs]
        count += len(batch.ids)
    return Agreement(difference.relative, count, differing)


@torch.no_grad()
def export_torchscript(model: Transducer, directory: PathLike) -> list[Path]:
    """Write ``{encoder,decoder,joiner}.pt``, traced modules with the interface of the ONNX files."""
    written = []
    for name, part in parts(model.eval()).items():
        path = Path(directory) / f"{name}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(part.module.eval(), part.inputs)
        with atomic_path(path) as temporary:
            torch.jit.save(traced, str(temporary))
        written.append(path)
    return written
