"""Shared fixtures: skip tests that this environment cannot run, and find data outside the repository."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import pruning  # noqa: F401  # before torch: it chooses the code path of MKL

pytest_plugins = ["tests.corpus"]

REPOSITORY = Path(__file__).resolve().parent.parent

# Loaded before any test is imported. Examples are the same in every run, and none fails because it is slow; for other
# examples: pytest --hypothesis-profile default
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """Use one thread per process, so that tests share a small machine and repeat bit for bit."""
    # a background run inherits an ignored SIGINT and would pass it on to the processes that tests interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # read before the first import of torch; inherited by processes that tests start


def _seed(name: str) -> None:
    """Seed the global generators of Python, numpy and torch."""
    import numpy as np
    import torch

    seed = zlib.crc32(name.encode())
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> None:
    """Let a fixture draw the same numbers in every run, independent of what its process did before.

    The numbers differ from those of tests and of other fixtures: otherwise weights and inputs could be equal, and
    training that forgets to seed would seem to repeat what a fixture trained.
    """
    _seed(fixturedef.argname)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Let a test draw the same numbers in every run, independent of earlier tests; see `pytest_fixture_setup`."""
    _seed("the test itself")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run files whose tests wait or take long first; skip tests marked ``k2`` if k2 is not installed."""
    first = [
        {str(item.path) for item in items if item.get_closest_marker(mark)}
        for mark in ("waits", "long", "slow", "processes")
    ]
    items.sort(key=lambda item: [str(item.path) not in paths for paths in first])  # stable
    if importlib.util.find_spec("k2") is not None:
        return
    skip = pytest.mark.skip(reason="k2 is not installed for this torch")
    for item in items:
        if item.get_closest_marker("k2") is not None:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder with real recordings: ``$PRUNING_TEST_DATA``, or ``shared/data``."""
    path = Path(os.environ.get("PRUNING_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no recordings at {path}; set PRUNING_TEST_DATA to a folder with an4/ and LibriSpeech/")
    return path
