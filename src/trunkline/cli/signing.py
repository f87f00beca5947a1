"""`trunkline signing`: the keys that sign API keys."""

from __future__ import annotations

import typer

from trunkline.cli.environment import WHERE

app = typer.Typer(help=f"The keys that sign API keys. {WHERE}", rich_markup_mode=None)
