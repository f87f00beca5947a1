"""`python -m trunkline` is the command `trunkline`: how `trunkline dev` starts its API and workers."""

from trunkline.cli import main

main()
