"""Esper's processes: the Faust workers, the local services, and the `esper` command."""
