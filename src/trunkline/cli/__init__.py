"""The command `trunkline`: one module per group of commands, and heavy imports only inside them.

`import mcp` alone costs a second, and `trunkline --help` must not.
"""

from __future__ import annotations

from trunkline.cli.command import main

__all__ = ["main"]
