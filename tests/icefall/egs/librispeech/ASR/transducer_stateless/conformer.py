"""Stand-in for a standard Conformer."""

from icefall.standard import Conformer

__all__ = ["Conformer"]
