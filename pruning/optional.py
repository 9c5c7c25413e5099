"""Packages of the extra ``export``, which only those need who take a network away."""

from __future__ import annotations

import importlib
from typing import Any

from pruning.errors import UserError


def package(name: str, use: str) -> Any:
    """Import a package (or a module of it) that may be missing.

    Raises:
        UserError: it is, naming what it was needed for.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        remedy = "install it: utils/setup_env.sh --extras export"
        raise UserError(f"{use} needs the package {name.split('.')[0]} ({error})", remedy) from None
