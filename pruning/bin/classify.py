"""Classify the intents of test sets with an encoder with an intent head, and report the accuracy.

The measurement of each set goes to EXP/intents/intents-SET.json: the intent found for every utterance, whether its
scenario, its action and both are right, and the real-time factor. Intents that do not occur in training cannot be
found: they count as errors and are reported. A set that was already classified with the same weights is not classified
again.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from pruning import provenance
from pruning.bin import arguments, command
from pruning.errors import UserError
from pruning.limits import COUNT, POSITIVE
from pruning.speech.data import manifests
from pruning.speech.text.intents import Intent, Intents, compared, intent_of, unseen

if TYPE_CHECKING:
    from pruning.experiments.measurement import Measurement
    from pruning.models.speech_model import SpeechModel

logger = logging.getLogger(__name__)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--exp-dir", type=Path, required=True, help="experiment directory; its best checkpoint is used")
    parser.add_argument("--cuts", type=Path, nargs="+", required=True, help="cuts with intents, one file per test set")
    parser.add_argument("--lang-dir", type=Path, required=True, help="directory with intents.txt")
    parser.add_argument("--max-duration", type=POSITIVE.parse, default=100.0, help="seconds of audio in a batch")
    parser.add_argument("--num-threads", type=COUNT.parse, default=1, help="number of threads")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args(argv)
    manifests.check_exists(options.cuts)
    arguments.check_device(options.device)

    import torch

    from pruning.experiments import checkpoint
    from pruning.experiments.measurement import INTENTS, is_done, path_of
    from pruning.kinds.encoder_head import EncoderHeadKind
    from pruning.models.speech_model import INTENT
    from pruning.speech.data.checks import TrainedOn

    torch.set_num_threads(options.num_threads)
    known = Intents(options.lang_dir)
    model, header = EncoderHeadKind.load_network(options.exp_dir, known)
    if model.config.task != INTENT:
        raise UserError(f"{options.exp_dir} contains a network for {model.config.task}", "give a network for intents")
    model = model.to(options.device).eval()
    weights = provenance.file_fingerprint(checkpoint.file_of(options.exp_dir))
    EncoderHeadKind.check_files(model, options.cuts, TrainedOn.of(str(options.exp_dir), header))
    for cuts in options.cuts:
        path = path_of(options.exp_dir, INTENTS, manifests.set_name_of(cuts))
        made_of = {"weights": weights, "intents": known.fingerprint, "cuts": provenance.file_fingerprint(cuts),
                   "max_duration": options.max_duration, "threads": options.num_threads}  # fmt: skip
        if is_done(path, made_of):
            logger.info("%s is done", path)
            continue
        found = classify(model, cuts, known, options.max_duration, options.device)
        made = provenance.environment("pruning.bin.classify", argv, options.device)
        dataclasses.replace(found, parameters=made_of, provenance=made).write(path)
        _log(found)


def classify(model: SpeechModel, cuts: Path, known: Intents, max_duration: float, device: str) -> Measurement:
    """Classify every utterance of a set; return the intents, which are right, and the time taken.

    Raises:
        UserError: a cut has no intent, or its input cannot be read.
    """
    import torch

    from pruning.experiments.measurement import INTENTS, Measurement, Utterances, Value
    from pruning.kinds.heard import source_of
    from pruning.speech.data.batches import evaluation_batches
    from pruning.speech.data.data_config import DataConfig

    wanted = {cut.id: intent_of(cut) for cut in manifests.iterate_cuts(cuts)}
    data = DataConfig(max_duration=max_duration, num_workers=0)
    found: dict[str, Intent] = {}
    computing = audio = 0.0
    for batch in evaluation_batches(data, [cuts], known, source=source_of(model.encoder)):
        batch = batch.to(device)
        started = time.perf_counter()
        with torch.no_grad():
            best = model(batch.features, batch.lengths).logits.argmax(dim=1).tolist()
        computing += time.perf_counter() - started
        audio += batch.seconds
        found.update(zip(batch.ids, (known.table[number] for number in best)))
    utterances = Utterances.of(manifests.speakers(cuts))
    have = [found[name] for name in utterances.ids]
    columns: dict[str, Sequence[Value]] = {**compared((wanted[name] for name in utterances.ids), have)}
    columns["found"] = [str(intent) for intent in have]
    facts = {"unseen_intents": unseen(wanted.values(), known), "seconds": computing, "audio_seconds": audio,
             "real_time_factor": computing / audio}  # fmt: skip
    return Measurement(INTENTS, manifests.set_name_of(cuts), utterances, columns, facts=facts)


def _log(found: Measurement) -> None:
    from pruning.experiments.measurement import sample

    errors, count = sample([found]).interval, len(found.utterances.ids)
    shares = ", ".join(f"{what} {100 * (found.total(what) or 0) / count:.2f} %" for what in ("scenario", "action"))
    logger.info("%s: accuracy of intent %.2f %% (%.2f to %.2f), %s over %d utterances; real-time factor %.4f",
                found.set, 100 - errors.value, 100 - errors.high, 100 - errors.low, shares, count,
                found.facts["real_time_factor"])  # fmt: skip
    strange = found.facts["unseen_intents"]
    if strange:
        named = ", ".join(f"{intent} ({count})" for intent, count in strange.items())
        logger.warning("%s: %d utterances have intents that do not occur in training; they count as errors: %s",
                       found.set, sum(strange.values()), named)  # fmt: skip


if __name__ == "__main__":
    command.run(main)
