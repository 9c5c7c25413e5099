"""What can be done with a network, said by its kind and asked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass

from pruning.errors import UserError


@dataclass(frozen=True)
class Capabilities:
    """What can be done with a network.

    Attributes:
        techniques: of pruning, see `pruning.methods.names.TECHNIQUES`.
        repair: whether what follows cut units can be solved anew, by least squares.
        exports: forms of exported files, see `pruning.kinds.forms.FORMS`.
        decodings: methods of decoding, see `pruning.speech.decoding.config.SETTINGS`; none: it recognises no words.
    """

    techniques: tuple[str, ...] = ("structured",)
    repair: bool = False
    exports: tuple[str, ...] = ()
    decodings: tuple[str, ...] = ()

    def check_technique(self, technique: str, network: str) -> None:
        """Refuse a technique of pruning that is not among `techniques`.

        Args:
            technique: that is asked for.
            network: what it is asked for, in words.

        Raises:
            UserError: it is not.
        """
        if technique not in self.techniques:
            raise UserError(f"{network} cannot be pruned by technique {technique}",
                            f"choose from {', '.join(self.techniques)}")  # fmt: skip
