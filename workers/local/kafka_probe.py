"""Check over the Kafka protocol whether a broker serves in a working cluster."""

from __future__ import annotations

import socket
import struct
from typing import BinaryIO

ANSWER_TIMEOUT_S = 2.0

DESCRIBE_CLUSTER = 60
VERSION = 0
CORRELATION_ID = 1
CLIENT_ID = b"esper-probe"
NO_TAGS = b"\x00"
MORE = 0x80

# https://kafka.apache.org/protocol, DescribeCluster: request header v2 (the client id has a 16-bit
# length, unlike the compact strings of the body), then `include_cluster_authorized_operations`.
_REQUEST = (
    struct.pack(">hhih", DESCRIBE_CLUSTER, VERSION, CORRELATION_ID, len(CLIENT_ID))
    + CLIENT_ID
    + NO_TAGS
    + b"\x00"
    + NO_TAGS
)


def is_answering(bootstrap_servers: str) -> bool:
    """Return whether one of `host:port,host:port` answers DescribeCluster with a broker.

    An open port is not enough: a starting broker accepts connections before it serves.
    """
    return any(_is_answering(address) for address in bootstrap_servers.split(","))


def _is_answering(address: str) -> bool:
    host, _, port = address.strip().rpartition(":")
    try:
        with socket.create_connection((host, int(port)), ANSWER_TIMEOUT_S) as connection:
            connection.sendall(struct.pack(">i", len(_REQUEST)) + _REQUEST)
            with connection.makefile("rb") as reply:
                return _live_brokers(reply) > 0
    except (OSError, EOFError):
        return False


def _live_brokers(reply: BinaryIO) -> int:
    """Return the number of brokers in a DescribeCluster v0 response; 0 if it reports an error."""
    _exactly(reply, 4 + 4)  # size, correlation id
    _uvarint(reply)  # header tags
    _exactly(reply, 4)  # throttle time
    (error_code,) = struct.unpack(">h", _exactly(reply, 2))
    if error_code != 0:
        return 0
    _compact_string(reply)  # error message
    _compact_string(reply)  # cluster id
    _exactly(reply, 4)  # controller id
    return max(0, _uvarint(reply) - 1)


def _compact_string(reply: BinaryIO) -> bytes:
    """Read a string that starts with its length plus one; 0 stands for null."""
    return _exactly(reply, max(0, _uvarint(reply) - 1))


def _uvarint(reply: BinaryIO) -> int:
    """Read an unsigned integer in groups of seven bits, lowest first."""
    value = shift = 0
    while True:
        (byte,) = _exactly(reply, 1)
        value |= (byte & ~MORE) << shift
        if not byte & MORE:
            return value
        shift += 7


def _exactly(reply: BinaryIO, size: int) -> bytes:
    data = reply.read(size)
    if len(data) < size:
        raise EOFError(f"broker closed the connection after {len(data)} of {size} bytes")
    return data
