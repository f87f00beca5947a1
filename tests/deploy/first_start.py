"""The script that makes secrets for docker-compose.yml, by its names."""

from __future__ import annotations

import runpy
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "first_start.py"
FIRST_START = runpy.run_path(str(SCRIPT))
