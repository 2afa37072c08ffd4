"""`wait_until` returns what it waited for, and names what did not come."""

import pytest

from tests.waiting import wait_until


def test_the_first_true_result_is_returned() -> None:
    results = iter([None, 0, "record"])
    assert wait_until(lambda: next(results), "a record", poll_s=0) == "record"


def test_the_error_names_what_did_not_come() -> None:
    with pytest.raises(
        AssertionError, match=r"within 0 s this did not come: a record; result=\[\]"
    ):
        wait_until(list, "a record", timeout_s=0)
