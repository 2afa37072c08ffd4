"""docs/operations.md lists exactly the metrics that the workers serve."""

import re
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram

from esper.workers.faust import metrics


def test_the_operations_page_lists_every_metric_and_no_other(root: Path) -> None:
    page = (root / "docs" / "operations.md").read_text()
    listed = re.findall(r"^\| `(esper_\w+)` \| (\w+) \|", page, flags=re.MULTILINE)
    assert sorted(listed) == sorted(served())


def served() -> list[tuple[str, str]]:
    """Name and type of each metric of the workers, as a scrape shows them."""
    collectors = [m for m in vars(metrics).values() if isinstance(m, Counter | Gauge | Histogram)]
    families = [family for collector in collectors for family in collector.describe()]
    return [(f.name + "_total" * (f.type == "counter"), f.type) for f in families]
