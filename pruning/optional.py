"""Packages that only some need: those who take a network away, or decode with graphs of n-gram models."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from functools import lru_cache
from typing import Any, Optional

from pruning.errors import UserError

logger = logging.getLogger(__name__)


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


@lru_cache(maxsize=1)
def k2_is_installed() -> bool:
    """Whether k2 can be imported; one that was built for another torch cannot, and is told of once."""
    if importlib.util.find_spec("k2") is None:
        return False
    try:
        importlib.import_module("k2")
    except (ImportError, OSError, RuntimeError) as error:
        logger.warning("k2 is installed but cannot be imported (%s); install the one built for this torch", error)
        return False
    return True
