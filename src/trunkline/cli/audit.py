"""`trunkline audit`: a tenant's audit log."""

from __future__ import annotations

import typer

from trunkline.cli.environment import WHERE

app = typer.Typer(help=f"A tenant's audit log. {WHERE}", rich_markup_mode=None)
