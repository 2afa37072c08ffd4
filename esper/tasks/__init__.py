"""Shipped tasks: small, real, on every machine; each trains a host through the public API."""

from esper.tasks.digits import DigitsHost, DigitsResult, load_digits, train_digits

__all__ = ["DigitsHost", "DigitsResult", "load_digits", "train_digits"]
