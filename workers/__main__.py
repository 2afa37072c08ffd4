"""`python -m workers` is the `esper` command."""

from workers.cli import main

main()
