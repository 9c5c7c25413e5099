"""Classify the intents of test sets with an encoder with an intent head, and report the accuracy.

The result of each set goes to EXP/intents/intents-SET.json: the intent found for every utterance, the accuracy of
scenario, action and both, and the real-time factor. Intents that do not occur in training cannot be found: they count
as errors and are reported. A set that was already classified with the same weights is not classified again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from pruning import provenance
from pruning.bin import arguments, command
from pruning.errors import UserError
from pruning.files import read_json, write_json
from pruning.limits import COUNT, POSITIVE
from pruning.speech.data import manifests
from pruning.speech.text.intents import Intent, Intents, accuracy, intent_of

if TYPE_CHECKING:
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
    from pruning.experiments.decoding_results import intents_path
    from pruning.kinds.encoder_head import EncoderHeadKind
    from pruning.models.speech_model import INTENT

    torch.set_num_threads(options.num_threads)
    known = Intents(options.lang_dir)
    model, _ = EncoderHeadKind.load_network(options.exp_dir, known)
    if model.config.task != INTENT:
        raise UserError(f"{options.exp_dir} contains a network for {model.config.task}", "give a network for intents")
    model = model.to(options.device).eval()
    weights = provenance.file_fingerprint(checkpoint.file_of(options.exp_dir))
    for cuts in options.cuts:
        path = intents_path(options.exp_dir, manifests.set_name_of(cuts))
        made_of = {"weights": weights, "intents": known.fingerprint, "cuts": provenance.file_fingerprint(cuts),
                   "max_duration": options.max_duration, "threads": options.num_threads}  # fmt: skip
        if path.is_file() and read_json(path).get("parameters") == made_of:
            logger.info("%s is done", path)
            continue
        found = classify(model, cuts, known, options.max_duration, options.device)
        found |= {"parameters": made_of, **provenance.environment("pruning.bin.classify", argv, options.device)}
        write_json(path, found)
        _log(manifests.set_name_of(cuts), found)


def classify(model: SpeechModel, cuts: Path, known: Intents, max_duration: float, device: str) -> dict[str, Any]:
    """Classify every utterance of a set; return the intents, their accuracy and the time taken.

    Raises:
        UserError: a cut has no intent, or its input cannot be read.
    """
    import numpy as np
    import torch

    from pruning.kinds.encoder_head import source_of
    from pruning.speech.data.batches import evaluation_batches
    from pruning.speech.data.data_config import DataConfig
    from pruning.speech.scoring.bootstrap import Design

    wanted = {cut.id: intent_of(cut) for cut in manifests.iterate_cuts(cuts)}
    speakers, set_name = manifests.speakers(cuts), manifests.set_name_of(cuts)
    data = DataConfig(max_duration=max_duration, num_workers=0)
    found: dict[str, Intent] = {}
    computing = audio = 0.0
    for batch in evaluation_batches(data, [cuts], known, source=source_of(model)):
        batch = batch.to(device)
        started = time.perf_counter()
        with torch.no_grad():
            best = model(batch.features, batch.lengths).logits.argmax(dim=1).tolist()
        computing += time.perf_counter() - started
        audio += batch.seconds
        found.update(zip(batch.ids, (known.table[number] for number in best)))
    ids = sorted(wanted)
    result = accuracy([wanted[name] for name in ids], [found[name] for name in ids], known)
    right = [int(wanted[name] == found[name]) for name in ids]
    design = Design.of_sets((set_name, name, speakers[name]) for name in ids)
    interval = design.rate(1 - np.array(right, dtype=float), np.ones(len(ids))).interval
    return {
        "set": set_name,
        "utterances": result.utterances,
        "accuracy": {"intent": result.intent, "scenario": result.scenario, "action": result.action},
        "interval": [1 - interval.high / 100, 1 - interval.low / 100],  # interval of the intent accuracy
        "unseen": result.unseen,
        "unseen_intents": result.unseen_intents,
        "seconds": computing,
        "audio_seconds": audio,
        "real_time_factor": computing / audio,
        "ids": ids,
        "speakers": [speakers[name] for name in ids],
        "right": right,
        "found": [str(found[name]) for name in ids],
    }


def _log(name: str, found: dict[str, Any]) -> None:
    shares = ", ".join(f"{what} {100 * share:.2f} %" for what, share in found["accuracy"].items())
    low, high = (100 * bound for bound in found["interval"])
    logger.info("%s: accuracy of %s (intent: %.2f to %.2f) over %d utterances; real-time factor %.4f", name, shares,
                low, high, found["utterances"], found["real_time_factor"])  # fmt: skip
    if found["unseen"]:
        named = ", ".join(f"{intent} ({count})" for intent, count in found["unseen_intents"].items())
        logger.warning("%s: %d utterances have intents that do not occur in training; they count as errors: %s", name,
                       found["unseen"], named)  # fmt: skip


if __name__ == "__main__":
    command.run(main)
