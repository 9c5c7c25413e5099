"""Estimate what the training runs of a recipe will cost, from a few timed steps, before any run is started.

State and activations are per device, in float32 (bf16 halves most activations). The size of the corpus is read from the
cuts if they exist, otherwise taken from LibriSpeech's published sizes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from pruning.bin import arguments, command
from pruning.core.names import COSTS
from pruning.errors import UserError
from pruning.limits import COUNT, NON_NEGATIVE, Range
from pruning.provenance import processor_name
from pruning.speech.corpora.sizes import librispeech_size

if TYPE_CHECKING:
    from pruning.kinds.transducer import RunConfig
    from pruning.measure.plan import Corpus, RunPlan


def _corpus(paths: Optional[Sequence[str]], parts: Optional[Sequence[str]], copies: int) -> tuple[Corpus, str]:
    """Return the size of the training data and its source in words."""
    from pruning.measure.plan import Corpus
    from pruning.speech.data import contents

    if paths and all(Path(path).exists() for path in paths):
        found = [contents.describe(path) for path in paths]
        count = sum(part.cuts for part in found)
        if not count:
            raise UserError(f"{', '.join(map(str, paths))} contain no cuts", "run the feature stage")
        return Corpus(contents.total_hours(found), count), "cuts"
    if not parts:
        missing = [path for path in paths or [] if not Path(path).exists()] or ["the training cuts"]
        raise UserError(f"{' '.join(missing)} do not exist", "run the feature stage, or give --parts")
    hours, count = librispeech_size(parts)
    return Corpus(hours * copies, count * copies), "published sizes" + (f", {copies} speeds" if copies > 1 else "")


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "")
    parser.add_argument("--teacher-config", required=True, help="configuration of the teacher, with key 'model'")
    parser.add_argument("--prune-config", help="configuration of pruning")
    parser.add_argument("--finetune-config", help="configuration of fine-tuning")
    parser.add_argument("--uniform-config", help="configuration for training the uniform network from scratch")
    parser.add_argument("--train-cuts", nargs="+", help="cut manifests for training")
    parser.add_argument("--parts", nargs="+", help="LibriSpeech parts, used if the cuts do not exist yet")
    parser.add_argument(
        "--copies", type=COUNT.parse, default=1, help="with --parts: number of speeds of speed perturbation"
    )
    parser.add_argument(
        "--lang-dir", help="lang dir, which gives the vocabulary size; without it, --vocab-size is used"
    )
    parser.add_argument(
        "--vocab-size",
        type=Range(int, least=2).parse,
        default=500,
        help="number of word pieces, used if --lang-dir does not exist yet",
    )
    parser.add_argument(
        "--processes", type=COUNT.parse, default=1, help="number of training processes, each with one device"
    )
    help_text = "seconds of audio in a timed batch; times are scaled to data.max_duration"
    parser.add_argument("--timed-seconds", type=NON_NEGATIVE.parse, default=30.0, help=help_text)
    parser.add_argument("--output", help="also write the plan to this Markdown file")
    parser.add_argument("--title", default="Plan", help="heading of that file")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="override a key of the teacher's configuration"
    )
    options = parser.parse_intermixed_args(argv)

    from pruning import configuration
    from pruning.kinds.transducer import RunConfig
    from pruning.reports import document
    from pruning.speech.text.bpe import Tokenizer

    corpus, source = _corpus(options.train_cuts, options.parts, options.copies)
    teacher_config = configuration.load(RunConfig, options.teacher_config, options.overrides)
    if teacher_config.model is None:
        raise UserError(f"{options.teacher_config} has no key 'model'", "give the dimensions of the network there")
    vocab = options.vocab_size
    if options.lang_dir and Path(options.lang_dir).exists():
        vocab = Tokenizer(options.lang_dir).vocab_size
    about = [
        f"training data: {corpus.hours:.1f} h, {corpus.utterances} utterances ({source})",
        f"timed on {_device()}, {options.processes} process(es); hours assume that all devices are like it",
    ]
    print("\n".join(about), flush=True)
    plans = _plans(options, teacher_config, corpus, vocab)
    total = f"total {sum(plan.hours for plan in plans):.1f} hours; pruned networks count as uniform ones of target size"
    print(_tabulated(plans, "simple"), total, sep="\n")
    if options.output is not None:
        body = "\n\n".join([".\n".join(about) + ".", _tabulated(plans, "pipe"), total.capitalize() + "."])
        document.write_section(options.output, options.title, body, "pruning.bin.plan", argv)


def _tabulated(plans: Sequence[RunPlan], style: str) -> str:
    from tabulate import tabulate

    from pruning.measure.plan import table

    headers, rows = table(plans)
    alignment = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(rows, headers, style, colalign=alignment, disable_numparse=True)


def _plans(options: argparse.Namespace, teacher_config: RunConfig, corpus: Corpus, vocab: int) -> list[RunPlan]:
    """Make one plan for each given configuration."""
    from pruning import configuration
    from pruning.core.uniform import uniform_structure
    from pruning.kinds.transducer import PruneConfig, RunConfig
    from pruning.measure.plan import plan_run
    from pruning.models.facts import cost_model
    from pruning.models.transducer import Transducer

    assert teacher_config.model is not None
    dense = Transducer(replace(teacher_config.model, vocab_size=vocab))

    def estimate(name: str, network: Transducer, config: RunConfig, teacher: Optional[Transducer] = None) -> RunPlan:
        print(f"{datetime.now():%F %T} timing some steps of {name}", file=sys.stderr, flush=True)
        return plan_run(name, network, config, teacher=teacher, corpus=corpus, processes=options.processes,
                        timed_seconds=options.timed_seconds)  # fmt: skip

    plans = [estimate("teacher", dense, teacher_config)]
    targets = {"size": 0.5}
    if options.prune_config:
        prune = configuration.load(PruneConfig, options.prune_config)
        targets = {cost: goal for cost, goal in prune.constraint.goals().items() if cost in COSTS} or targets
        plans.append(estimate("pruning", dense, prune))
    cost, target = next(iter(targets.items()))
    costs = cost_model(dense, 10.0)
    structure = uniform_structure(dense.unit_groups(), costs, cost, (1 - target) * costs.dense[cost])
    for name, path in (("fine-tuning", options.finetune_config), ("uniform", options.uniform_config)):
        if path:
            config = configuration.load(RunConfig, path)
            small = dense.shrink(structure)
            plans.append(estimate(name, small, config, teacher=dense))
    return plans


def _device() -> str:
    """Describe the device that steps are timed on."""
    import torch

    if torch.cuda.is_available():
        return processor_name("cuda")
    return f"{processor_name()}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    command.run(main)
