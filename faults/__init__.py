"""What Trunkline promises of answers, tried: processes die, stores go away, clients keep books (`scripts/faults`)."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""Where pods are started, so that `faults.tools` can be imported there."""
SERVER = "faults.tools:server"
"""The MCP server that the workers host beside the builtin one."""
TOOLSET = "faults"
EFFECTS_VARIABLE = "FAULTS_EFFECTS"
"""Environment variable that tells the tools where the effects service is: `host:port`."""
