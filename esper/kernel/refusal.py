"""The exceptions for artifacts that this process refuses to run."""

from esper.errors import EsperError


class ArtifactRefused(EsperError):
    """This process refuses to run an artifact or a plan; the message gives the reason."""


class BadSignature(ArtifactRefused):
    """The trusted key did not sign these bytes."""
