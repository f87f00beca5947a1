"""`trunkline operator`: operators of the deployment, and sign-up codes."""

from __future__ import annotations

import typer

from trunkline.cli.environment import WHERE

app = typer.Typer(help=f"Operators of the deployment, and sign-up codes. {WHERE}", rich_markup_mode=None)
