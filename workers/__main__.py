"""Run the `esper` command: `python -m esper.workers`."""

from esper.workers.cli import main

main()
