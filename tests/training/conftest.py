"""What the training tests share: one thread for tensors as small as these."""

from tests.seed.conftest import one_thread

__all__ = ["one_thread"]
