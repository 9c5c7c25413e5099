"""Average checkpoints of a run into one file, which every command accepts as a checkpoint."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import Optional

from pruning.bin import command
from pruning.bin.arguments import boolean
from pruning.limits import COUNT

logger = logging.getLogger(__name__)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--exp-dir", required=True, help="experiment directory")
    parser.add_argument("--epoch", type=COUNT.parse, required=True, help="last epoch to average")
    parser.add_argument(
        "--avg", type=COUNT.parse, required=True, help="number of epochs to average, ending with --epoch"
    )
    parser.add_argument(
        "--use-averaged-model",
        type=boolean,
        default=True,
        metavar="true|false",
        help="true: average over all steps of these epochs; false: average only over their ends",
    )
    parser.add_argument("--output", required=True, help="checkpoint to write (.safetensors)")
    options = parser.parse_args(argv)

    from pruning.experiments import checkpoint

    model, header = checkpoint.load_model(options.exp_dir, options.epoch, options.avg, options.use_averaged_model)
    checkpoint.save_model(options.output, model, header)
    first, last = header["averaged_epochs"]
    logger.info("%s: average of epochs %d to %d of %s", options.output, first, last, options.exp_dir)


if __name__ == "__main__":
    command.run(main)
