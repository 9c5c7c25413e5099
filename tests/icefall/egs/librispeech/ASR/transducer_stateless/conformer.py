"""The stand-in of a standard Conformer."""

from icefall.standard import Conformer

__all__ = ["Conformer"]
