"""What the tests share: skipping what this environment lacks, and where to find data that is not in the repository."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path

import pytest

pytest_plugins = ["tests.corpus"]

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """One thread per process, so that the tests share a small machine and repeat bit for bit."""
    # a run in the background inherits an ignored SIGINT, and would hand it on to the processes that tests interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # read before the first import of torch; tests that start processes hand it on


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files whose tests wait or take long come first; tests marked ``k2`` are skipped where k2 is not installed."""
    first = [{str(item.path) for item in items if item.get_closest_marker(mark)} for mark in ("waits", "slow")]
    items.sort(key=lambda item: [str(item.path) not in paths for paths in first])  # stable
    if importlib.util.find_spec("k2") is not None:
        return
    skip = pytest.mark.skip(reason="k2 is not installed for this torch")
    for item in items:
        if item.get_closest_marker("k2") is not None:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real recordings: ``$PRUNING_TEST_DATA``, or ``shared/data`` beside the repository."""
    path = Path(os.environ.get("PRUNING_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no recordings at {path}; set PRUNING_TEST_DATA to a folder that holds an4/ and LibriSpeech/")
    return path
