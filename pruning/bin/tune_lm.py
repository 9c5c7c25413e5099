"""Choose the weights of a language model in decoding: search a grid for the lowest WER on development sets.

Decodes with every pair of --lm-scales and --ilm-scales through pruning.bin.decode, which does not repeat finished work.
Writes EXP/METHOD/lm-scales-NAME.json, for --scales-from of pruning.bin.decode on the test sets. Of equal WERs, the one
with the smaller weights is chosen. All other options are passed on to pruning.bin.decode.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import arguments, command, decode
from pruning.errors import UserError
from pruning.experiments import decoding_results
from pruning.experiments.measurement import Measurement
from pruning.files import write_json
from pruning.limits import NON_NEGATIVE
from pruning.speech.data.manifests import set_name_of
from pruning.speech.decoding.config import WEIGHT_OF, WITH_LM

logger = logging.getLogger(__name__)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--exp-dir", type=Path, required=True, help="experiment directory of the transducer")
    parser.add_argument(
        "--lm-exp-dir", type=Path, help="experiment directory of the language model, for decoding methods with one"
    )
    parser.add_argument(
        "--graph", type=Path, help="graph, for decoding methods with one; default: the one in --lang-dir"
    )
    parser.add_argument(
        "--lm-name", help="name of language model or graph in file names; default: that of --lm-exp-dir, or ngram"
    )
    parser.add_argument(
        "--cuts", type=Path, nargs="+", required=True, help="cuts with features, one file per development set"
    )
    parser.add_argument("--lang-dir", type=Path, required=True, help="directory with bpe.model and tokens.txt")
    parser.add_argument("--method", choices=tuple(WEIGHT_OF), required=True, help="decoding method")
    parser.add_argument(
        "--lm-scales", type=NON_NEGATIVE.parse, nargs="+", default=[0.0, 0.1, 0.2, 0.3, 0.4, 0.6], help="weights to try"
    )
    parser.add_argument("--ilm-scales", type=NON_NEGATIVE.parse, nargs="+", default=[0.0],
                        help="weights of the internal language model to try")  # fmt: skip
    options, others = parser.parse_known_args(argv)
    name = options.lm_name or (options.lm_exp_dir.name if options.lm_exp_dir is not None else "ngram")
    given = [word for key in ("lm_exp_dir", "graph") if getattr(options, key) is not None
             for word in (f"--{key.replace('_', '-')}", str(getattr(options, key)))]  # fmt: skip
    common = ["--exp-dir", str(options.exp_dir), *given, "--lm-name", name, "--cuts",
              *map(str, options.cuts), "--lang-dir", str(options.lang_dir), "--method", options.method,
              *(word for word in others if word != "--")]  # fmt: skip
    ilm_scales = sorted(options.ilm_scales) if options.method in WITH_LM else [0.0]
    tried = []
    for lm_scale, ilm_scale in itertools.product(sorted(options.lm_scales), ilm_scales):
        scales = {"lm_scale": lm_scale, "ilm_scale": ilm_scale}
        weight = f"--{WEIGHT_OF[options.method].replace('_', '-')}"
        decode.main([*common, weight, str(lm_scale), "--ilm-scale", str(ilm_scale)])
        found = _newest(options.exp_dir, options.method, [set_name_of(cuts) for cuts in options.cuts], name, scales)
        errors, words = (int(sum(one.total(key) or 0 for one in found)) for key in ("errors", "words"))
        tried.append({**scales, "errors": errors, "wer": 100.0 * errors / max(1, words)})
    best = min(tried, key=lambda one: one["errors"])
    write_json(options.exp_dir / options.method / f"lm-scales-{name}.json", {"best": best, "tried": tried})
    logger.info("%s with %s: WER %.2f %% on dev", options.method, name, best["wer"])
    print(f"weight {best['lm_scale']:g}, internal {best['ilm_scale']:g}")


def _newest(exp_dir: Path, method: str, sets: Sequence[str], name: str, scales: dict[str, float]) -> list[Measurement]:
    """Return the decodings with these scales, one for each set; the newest if there are several."""
    found = []
    for set_name in sets:
        of_set = (one for one in decoding_results.all_of(exp_dir, method, set_name)
                  if {"lm": name, **scales}.items() <= one.facts.items())  # fmt: skip
        newest = decoding_results.newest(of_set)
        if newest is None:
            what = f"{exp_dir / method} contains no decoding of {set_name} with {name}"
            raise UserError(what, "read the output above")
        found.append(newest)
    return found


if __name__ == "__main__":
    command.run(main)
