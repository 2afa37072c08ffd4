"""Errors of local services."""

from esper.errors import EsperError


class LocalServiceError(EsperError, RuntimeError):
    """Base class of this package's errors; the message is one line with the remedy."""


class StartError(LocalServiceError):
    """A service did not start; the message has the end of its log."""


class StopError(LocalServiceError):
    """A process survived SIGKILL."""


class MissingPackageError(LocalServiceError):
    """A pip package that provides a server is not installed."""


class DownloadError(LocalServiceError):
    """The Kafka jars could not be downloaded, or differ from the pinned ones."""


class PortError(LocalServiceError):
    """No loopback port is free, or another process uses a service's port."""


class NotRunningError(LocalServiceError):
    """The stack does not run the named service."""


class StateError(LocalServiceError):
    """`stack.json` cannot be read."""
