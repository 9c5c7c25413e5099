"""Console command: ``pruning NAME ARGUMENTS`` runs ``pruning.bin.NAME``; ``pruning`` alone lists the commands."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from pruning.bin import command
from pruning.errors import UserError


def available() -> dict[str, str]:
    """Return each command with the first line of its docstring, read without importing it."""
    table = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if "main" in functions and path.stem != "__main__":
            table[path.stem] = (ast.get_docstring(tree) or "").split("\n", 1)[0]
    return table


def dispatch(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command that the first argument names, with the remaining arguments.

    Raises:
        UserError: the command does not exist.
    """
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    commands = available()
    if name in ("-h", "--help"):
        print("usage: pruning COMMAND [ARGUMENT]...  (pruning COMMAND --help describes a command)")
        width = max(map(len, commands)) + 2
        for known, says in commands.items():
            print(f"  {known:<{width}}{says}")
        return
    if name not in commands:
        raise UserError(f"unknown command {name}", f"use one of: {', '.join(commands)}")
    sys.argv[0] = f"pruning {name}"  # the program name that argparse prints
    importlib.import_module(f"pruning.bin.{name}").main(rest)


def main() -> None:
    """Run the console command."""
    command.run(dispatch)


if __name__ == "__main__":
    main()
