"""Capabilities of a network, declared by its kind and checked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass

from pruning.errors import UserError


@dataclass(frozen=True)
class Capabilities:
    """What a network supports.

    Attributes:
        techniques: pruning techniques, out of `pruning.methods.names.TECHNIQUES`.
        repair: whether the weights after cut units can be repaired by least squares.
        exports: forms of exported files, out of `pruning.kinds.forms.FORMS`.
        decodings: decoding methods, out of `pruning.speech.decoding.config.SETTINGS`; empty if the network does not
            recognise words.
    """

    techniques: tuple[str, ...] = ("structured",)
    repair: bool = False
    exports: tuple[str, ...] = ()
    decodings: tuple[str, ...] = ()

    def check_technique(self, technique: str, network: str) -> None:
        """Refuse a pruning technique that is not among `techniques`.

        Args:
            technique: requested technique.
            network: description of the network, for the message.

        Raises:
            UserError: the network does not support the technique.
        """
        if technique not in self.techniques:
            raise UserError(f"{network} does not support technique {technique}",
                            f"choose one of {', '.join(self.techniques)}")  # fmt: skip
