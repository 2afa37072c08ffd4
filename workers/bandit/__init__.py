"""The bandit worker: reports in from `seed-metrics`, decisions out to `adaptation-decision`.

The state of each run is kept in a table with a changelog topic, so that a restarted worker
continues where the broker's committed offset stands. Closed runs go to the memory in Redis.
"""

from esper.workers.bandit.run_table import EndedRun, RunEnd
from esper.workers.bandit.worker import BATCH_RECORDS, run_bandit_worker

__all__ = ["BATCH_RECORDS", "EndedRun", "RunEnd", "run_bandit_worker"]
