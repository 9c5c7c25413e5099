#!/usr/bin/env python3
"""Print the URL of the newest k2 wheel on a page of wheels that fits this Python and the installed torch."""

from __future__ import annotations

import argparse
import platform
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from typing import Optional

WHEEL = re.compile(
    r"k2-(?P<version>[0-9][\w.]*)\+(?P<device>cpu|cuda[\d.]+)\.torch(?P<torch>\d[\d.]*)"
    r"-(?P<python>cp\d+)-cp\d+-(?P<platform>[\w.]+)\.whl$"
)


def newest(page: str, torch: str, cuda: Optional[str], python: str, machine: str) -> Optional[str]:
    """Return the link on ``page`` to the newest wheel that fits; None if there is none.

    Args:
        page: HTML with links to wheels named ``k2-VERSION+cuda12.8.torch2.8.0-cp311-cp311-PLATFORM.whl``.
        torch: version without its local part, e.g. ``2.8.0``.
        cuda: CUDA version that torch was built for, e.g. ``12.8``; None for a CPU build.
        python: Python tag, e.g. ``cp311``.
        machine: machine type, e.g. ``x86_64``.
    """
    found = []
    for link in re.findall(r"""href=["']([^"']+\.whl)""", page):
        match = WHEEL.search(urllib.parse.unquote(link).rsplit("/", 1)[-1])
        wanted = (f"cuda{cuda}" if cuda else "cpu", torch, python)
        if match and (match["device"], match["torch"], match["python"]) == wanted and machine in match["platform"]:
            order = [int(number) for number in re.findall(r"\d+", match["version"])]
            found.append((order, link))
    return max(found)[1] if found else None


def main() -> None:
    """Print the URL, or fail with one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", required=True, help="URL of the page, e.g. https://k2-fsa.github.io/k2/cuda.html")
    index = parser.parse_args().index
    import torch

    try:
        with urllib.request.urlopen(index, timeout=60) as stream:
            page = stream.read().decode("utf-8", "replace")
    except (urllib.error.URLError, OSError, ValueError) as error:
        sys.exit(f"error: cannot read {index} ({error}); check the URL and the network")
    version, cuda = torch.__version__.split("+")[0], torch.version.cuda
    python = "cp" + "".join(platform.python_version_tuple()[:2])
    link = newest(page, version, cuda, python, platform.machine())
    if link is None:
        device = f"CUDA {cuda}" if cuda else "no CUDA"
        sys.exit(f"error: {index} has no k2 for torch {version}, {device}, {python}; choose a --torch that it lists")
    print(urllib.parse.urljoin(index, link))


if __name__ == "__main__":
    main()
