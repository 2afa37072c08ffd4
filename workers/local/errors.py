"""What can go wrong with local services."""


class LocalServiceError(RuntimeError):
    """Root of this package's errors; the message is one line that names the remedy."""


class StartError(LocalServiceError):
    """A service did not come up; carries the end of its log."""


class StopError(LocalServiceError):
    """A process survived SIGKILL."""


class MissingPackageError(LocalServiceError):
    """A pip package that provides a server is not installed."""


class DownloadError(LocalServiceError):
    """The Kafka jars could not be fetched, or are not the pinned ones."""


class PortError(LocalServiceError):
    """No free loopback port was found, or a remembered port is taken by someone else."""


class NotRunningError(LocalServiceError):
    """A service was named that the stack does not run."""


class StateError(LocalServiceError):
    """The file that says what runs cannot be read."""
