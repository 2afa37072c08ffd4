"""`python -m esper.workers` is the `esper` command."""

from esper.workers.cli import main

main()
