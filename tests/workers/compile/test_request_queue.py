"""The fair queue: urgent items first, publishers in turn, items in order."""

from esper.workers.compile.request_queue import RequestQueue


def drained(queue: RequestQueue[str]) -> list[str]:
    items = []
    while (item := queue.pop()) is not None:
        items.append(item)
    return items


def test_publishers_take_turns() -> None:
    queue: RequestQueue[str] = RequestQueue()
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        queue.add(item, 1, item[0])
    assert drained(queue) == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_a_late_publisher_does_not_wait_for_the_queue_of_another() -> None:
    queue: RequestQueue[str] = RequestQueue()
    for number in range(1000):
        queue.add(f"a{number}", 1, "a")
    assert queue.pop() == "a0"
    queue.add("b", 1, "b")
    assert [queue.pop(), queue.pop()] == ["a1", "b"]


def test_urgent_items_come_first() -> None:
    queue: RequestQueue[str] = RequestQueue()
    queue.add("quiet", 2, "a")
    queue.add("live", 1, "a")
    queue.add("waits", 0, "a")
    assert drained(queue) == ["waits", "live", "quiet"]


def test_an_item_is_queued_once_and_can_become_more_urgent_only() -> None:
    queue: RequestQueue[str] = RequestQueue()
    queue.add("other", 1, "a")
    queue.add("item", 1, "a")
    queue.add("item", 2, "a")
    queue.add("item", 0, "b")
    assert len(queue) == 2
    assert drained(queue) == ["item", "other"]
    assert len(queue) == 0
