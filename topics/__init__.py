"""What crosses the wire: the topics, the events on them, their bytes, and the bus.

Everything another process can observe of Esper is defined here; the domain (`esper`) and the
processes (`workers`) import from this package and never the other way round.
"""
