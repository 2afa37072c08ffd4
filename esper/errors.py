"""The root of Esper's exceptions: one `except esper.EsperError` catches them all.

Each package derives its own exceptions from `EsperError`. The message of each is one line:
what failed, the value, the remedy.
"""


class EsperError(Exception):
    """Any error that Esper raises on purpose."""
