"""Names of what networks are narrowed in. Needs no torch."""

from __future__ import annotations

NARROW = ("units", "width")
"""What a uniform network has less of, see `pruning.models.uniform.narrowed_config`."""
