"""Prune without training: score units on some batches, cut them out at once, and repair what follows the cut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import arguments, command, extract, prune
from pruning.errors import UserError
from pruning.limits import COUNT, NATURAL
from pruning.methods.names import TECHNIQUES, WITHOUT_LEARNING

PRUNED = "pruned"
"""Directory in ``--exp-dir`` of the scored network."""


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = arguments.parser(__doc__ or "", "It runs the commands prune, without steps of learning, and extract.")
    arguments.add_run(parser)
    parser.add_argument("--teacher", required=True, help="checkpoint or experiment directory of the dense network")
    parser.add_argument("--method", required=True, choices=WITHOUT_LEARNING, help="what scores units")
    parser.add_argument(
        "--technique",
        choices=[name for name in TECHNIQUES if name != "unstructured"],
        default=TECHNIQUES[0],
        help="what is removed: units, or rank-1 components (method magnitude: plain SVD; wanda: activation-weighted)",
    )
    parser.add_argument("--batches", type=COUNT.parse, default=20, help="number of batches that are scored")
    parser.add_argument(
        "--repair",
        type=NATURAL.parse,
        metavar="UTTERANCES",
        help="least-squares repair on this number of utterances or sentences; 0: none; default: 300 for units",
    )
    parser.add_argument("--round-to", type=COUNT.parse, default=1, help="round kept counts to multiples of this number")
    options = arguments.parse_run(parser, argv)
    low_rank = options.technique == "low_rank"
    if low_rank and options.repair:
        raise UserError("--repair works only for units", "leave it out (low_rank with wanda is already the "
                        "least-squares solution)")  # fmt: skip
    repair = options.repair if options.repair is not None else 0 if low_rank else 300
    form, pruned = arguments.data_form(options), Path(options.exp_dir) / PRUNED
    train, dev = (getattr(options, f"{part}_{form}") for part in ("train", "dev"))
    data = [f"--train-{form}", *train, "--lang-dir", options.lang_dir]
    steps = options.batches + 1  # the last step cuts
    settings = [f"trainer.max_steps={steps}", f"trainer.valid_interval={steps}", "trainer.num_epochs=null",
                "trainer.optimiser.lr=0", "constraint.ramp=one_shot",
                f"constraint.ramp_share={options.batches / steps}"]  # fmt: skip
    if low_rank:
        settings.append(f"low_rank.calibration_batches={options.batches}")
    prune.main(["--config", options.config, "--exp-dir", str(pruned), "--teacher", options.teacher, "--method",
                options.method, "--technique", options.technique, *data, f"--dev-{form}", *dev, *settings,
                *options.overrides])  # fmt: skip
    extract.main(["--pruned", str(pruned), "--exp-dir", options.exp_dir, "--round-to", str(options.round_to),
                  "--repair", str(repair), *data])  # fmt: skip


if __name__ == "__main__":
    command.run(main)
