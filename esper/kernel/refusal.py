"""The exceptions for artifacts that this process refuses to run."""

from esper.errors import EsperError


class ArtifactRefused(EsperError):
    """This process refuses to run an artifact or a plan; the message gives the reason."""
