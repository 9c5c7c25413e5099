"""Packages that only some need: those who take a network away, or decode with graphs of n-gram models."""

from __future__ import annotations

import importlib
from typing import Any, Optional

from pruning.errors import UserError


def package(name: str, use: str, extra: Optional[str] = "export") -> Any:
    """Import a package (or a module of it) that may be missing.

    Args:
        name: of the module.
        use: what it is needed for.
        extra: the set of packages that it comes with; None: with torch itself, as k2.

    Raises:
        UserError: it is missing, naming what it was needed for.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        top = name.split(".")[0]
        remedy = f"install it: utils/setup_env.sh --extras {extra}" if extra else f"install {top} for this torch"
        raise UserError(f"{use} needs the package {top} ({error})", remedy) from None
