"""Random faults at every process of a stack: what must hold afterwards, and how fast it recovers.

`run` starts Kafka, Redis, PostgreSQL, three compile and two bandit workers under the supervisor of
`esper up`, and two trainers. `faults` kills, stops and ends them; `probes` measure meanwhile;
`verdict` reads the topics at the end.
"""

from benchmarks.chaos.run import run

__all__ = ["run"]
