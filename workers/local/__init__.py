"""Real Kafka and Redis on this machine, from pip-installed packages: no Docker, Java or root.

In: a folder to live in (`ESPER_HOME`). Out: running servers on free loopback ports, topics, keys,
workers, and `stack.json`, which tells every other command where they are.
"""
