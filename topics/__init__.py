"""The wire: the topics, the events on them, their bytes, and the Kafka client.

Public modules: `models` (the events), `catalog` (the topics), `codec` (events to bytes and back),
`bus` (producer and consumer) and `asyncapi` (the contract as documents). The rest of Esper imports
from these modules; they import nothing from it but `esper.errors`.
"""
