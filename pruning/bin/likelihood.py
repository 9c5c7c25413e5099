"""Measure the negative log-likelihood per token of test transcripts under a transducer, over the whole lattice.

Writes EXP/likelihood/likelihood-SET.json. A set that was already measured with the same weights is not measured again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning import provenance
from pruning.bin import arguments, command
from pruning.limits import COUNT, POSITIVE
from pruning.speech.data import manifests

logger = logging.getLogger(__name__)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument(
        "--exp-dir", type=Path, required=True, help="experiment directory; its best checkpoint is measured"
    )
    parser.add_argument(
        "--cuts", type=Path, nargs="+", required=True, help="cut manifests with features, one per test set"
    )
    parser.add_argument("--lang-dir", required=True, help="directory with bpe.model and tokens.txt")
    parser.add_argument("--max-duration", type=POSITIVE.parse, default=100.0, help="seconds of audio in a batch")
    parser.add_argument("--num-threads", type=COUNT.parse, default=1, help="number of threads")
    options = parser.parse_args(argv)

    import torch

    from pruning.experiments.measurement import LIKELIHOOD, Measurement, Utterances, Value, is_done, path_of
    from pruning.kinds.transducer import TransducerKind
    from pruning.speech.data import checks
    from pruning.speech.data.batches import evaluation_batches
    from pruning.speech.data.data_config import DataConfig
    from pruning.speech.scoring.likelihood import likelihoods
    from pruning.speech.text.bpe import Tokenizer

    torch.set_num_threads(options.num_threads)
    tokenizer = Tokenizer(options.lang_dir)
    model, header = TransducerKind.load_network(options.exp_dir, tokenizer)
    weights, trained = provenance.weights_fingerprint(model), checks.TrainedOn.of(str(options.exp_dir), header)
    for cuts in options.cuts:
        name = manifests.set_name_of(cuts)
        path = path_of(options.exp_dir, LIKELIHOOD, name)
        (cuts,) = manifests.check_exists([cuts])
        made_of = {"weights": weights, "bpe_model": tokenizer.fingerprint, "cuts": provenance.file_fingerprint(cuts)}
        if is_done(path, made_of):
            logger.info("%s is done", path)
            continue
        checks.check_test_set(cuts, tokenizer, model.encoder.bins, trained=trained)
        data = DataConfig(max_duration=options.max_duration, num_workers=0)
        found = {one.id: one for one in likelihoods(model.eval(), evaluation_batches(data, [cuts], tokenizer))}
        ordered, utterances = [found[name] for name in sorted(found)], Utterances.of(manifests.speakers(cuts))
        columns: dict[str, list[Value]] = {
            "nll": [round(one.nll, 4) if math.isfinite(one.nll) else None for one in ordered],
            "tokens": [one.tokens for one in ordered],
        }
        made = provenance.environment("pruning.bin.likelihood", argv, "cpu")
        measured = Measurement(LIKELIHOOD, name, utterances, columns, parameters=made_of, provenance=made)
        measured.write(path)
        nats, tokens = measured.known_totals("nll", "tokens")
        counted = sum(math.isfinite(one.nll) for one in ordered)
        logger.info("%s: %.4f nats per token over %d of %d utterances", name, nats / max(1, tokens), counted,
                    len(ordered))  # fmt: skip


if __name__ == "__main__":
    command.run(main)
