"""The table of intent classifiers: accuracy with its interval, size, computation, speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pruning.experiments.measurement import INTENTS, Measurement, path_of, sample
from pruning.models import facts
from pruning.reports import load
from pruning.reports.document import estimate, tabulated

NOTE = """\
Accuracy in percent of utterances; an intent is right if scenario and action are. The 95 % interval is from a bootstrap
that draws speakers, then their utterances. Intents that do not occur in training count as errors. Sizes and MACs (10 s
of audio) are for the encoder including its front end; the real-time factor is for the network alone; *busy*: measured
while the machine had more running processes than processors, so too high."""

FRESH = """\
The encoder of {names} was not pre-trained: these figures say nothing about pre-trained encoders."""


def table(systems: Sequence[tuple[str, Path]], sets: Sequence[str], style: str = "pipe") -> str:
    """Make the table, with a row for each system and set.

    Raises:
        UserError: a system was not classified.
    """
    rows = []
    for name, place in systems:
        size = facts.read_facts(place)
        for set_name in sets:
            found = Measurement.read(path_of(place, INTENTS, set_name), "classify it with pruning.bin.classify")
            value, low, high = (100 - bound for bound in sample([found]).interval)
            share = {
                what: 100 * (found.total(what) or 0.0) / len(found.utterances.ids) for what in ("scenario", "action")
            }
            rows.append({
                "system": name, "set": set_name, "intent %": estimate(value, (high, low)),
                "scenario %": f"{share['scenario']:.2f}", "action %": f"{share['action']:.2f}",
                "not in training": str(sum(found.facts["unseen_intents"].values())),
                "M parameters": f"{size['encoder_parameters'] / 1e6:.3f}",
                "GMACs 10 s": f"{size['macs_10s'] / 1e9:.3f}",
                "fewer MACs": f"{1 - size['macs_10s'] / size['dense']['macs_10s']:.1%}",
                "real-time factor": f"{found.facts['real_time_factor']:.4f}{load.mark([found])}",
            })  # fmt: skip
    return tabulated(rows, style)
