"""The processes of Esper: two workers, the `esper` command, and local services for one machine.

- `bandit`: reports in, decisions out.
- `compile`: blueprints and runs in, signed kernels out.
- `faust`: the Faust app both workers run on, and the guards that keep it from losing records.
- `cli`: the `esper` command, `esper train` and `esper demo` included.
- `local`: Kafka, Redis and the workers as processes on this machine.
"""
