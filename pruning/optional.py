"""Optional imports."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from functools import lru_cache
from typing import Any, Optional

from pruning.errors import UserError

logger = logging.getLogger(__name__)


def package(name: str, use: str, extra: Optional[str] = "export") -> Any:
    """Import an optional package, or a module of it.

    Args:
        name: name of the module.
        use: what the module is needed for, for the error message.
        extra: name of the extra that installs it; None if it must match the installed torch, such as k2.

    Raises:
        UserError: the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        top = name.split(".")[0]
        remedy = f"install it: utils/setup_env.sh --extras {extra}" if extra else f"install {top} for this torch"
        raise UserError(f"{use} needs the package {top} ({error})", remedy) from None


@lru_cache(maxsize=1)
def k2_is_installed() -> bool:
    """Return whether k2 can be imported. Warn once if it is installed but built for another torch."""
    if importlib.util.find_spec("k2") is None:
        return False
    try:
        importlib.import_module("k2")
    except (ImportError, OSError, RuntimeError) as error:
        logger.warning("k2 is installed but cannot be imported (%s); install the one built for this torch", error)
        return False
    return True
