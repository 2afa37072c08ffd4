"""One thread for these tests: their tensors are too small for several."""

from tests.seed.conftest import one_thread

__all__ = ["one_thread"]
