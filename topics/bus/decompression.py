"""A bound on decompressed batches: a few compressed kilobytes can stand for gigabytes."""

import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import cramjam

from esper.errors import EsperError

MAX_BATCH_BYTES: Final = 64 * 1024 * 1024
"""Largest decompressed batch that is read; a record has at most 4 MiB when it is compressed."""

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
"""Codecs in the attributes of a batch (Kafka protocol, record batch)."""

GZIP_RATIO: Final = 1032
LZ4_RATIO: Final = 255
"""Largest ratio that the format allows: smaller data need not be tried."""

FIRST_RATIO, FIRST_BYTES, GROWTH = 10, 4096, 8
"""Sizes of the buffers that are tried: `FIRST_RATIO` times the data, then `GROWTH` times that."""

BUFFER_FULL: Final = "failed to write whole buffer"
"""What cramjam's errors say when a buffer is too small."""

_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES: Final = 16


class BatchTooLarge(EsperError):
    """A batch decompresses to more than `MAX_BATCH_BYTES`."""

    def __init__(self) -> None:
        super().__init__(f"it decompresses to more than {MAX_BATCH_BYTES >> 20} MiB")


def require_bounded(codec: int, data: memoryview) -> None:
    """Raise BatchTooLarge if compressed data holds more than `MAX_BATCH_BYTES`.

    Allocates no more than that. Damaged data may raise other errors of the codec.
    """
    check = _CHECKS.get(codec)
    if check is not None:
        check(data)


def _check_gzip(data: memoryview) -> None:
    if len(data) * GZIP_RATIO <= MAX_BATCH_BYTES:
        return
    left, rest = MAX_BATCH_BYTES, bytes(data)
    while rest:
        member = zlib.decompressobj(wbits=31)
        left -= len(member.decompress(rest, left + 1))
        if left < 0:
            raise BatchTooLarge
        rest = member.unused_data


def _check_snappy(data: memoryview) -> None:
    total = 0
    if bytes(data[: len(_XERIAL)]) == _XERIAL:
        position = _XERIAL_HEADER_BYTES
        while position < len(data):
            (size,) = struct.unpack_from("!I", data, position)
            position += 4
            total += cramjam.snappy.decompress_raw_len(bytes(data[position : position + size]))
            position += size
    else:
        total = cramjam.snappy.decompress_raw_len(bytes(data))
    if total > MAX_BATCH_BYTES:
        raise BatchTooLarge


def _check_lz4(data: memoryview) -> None:
    if len(data) * LZ4_RATIO > MAX_BATCH_BYTES:
        _check_by_trial(cramjam.lz4.decompress_into, data)


def _check_zstd(data: memoryview) -> None:
    _check_by_trial(cramjam.zstd.decompress_into, data)


def _check_by_trial(decompress_into: Callable[[bytes, bytearray], int], data: memoryview) -> None:
    """Decompress into buffers that grow up to the bound; most data fit the first one."""
    size = min(FIRST_RATIO * len(data) + FIRST_BYTES, MAX_BATCH_BYTES)
    while True:
        try:
            decompress_into(bytes(data), bytearray(size))
        except cramjam.DecompressionError as error:
            if BUFFER_FULL not in str(error):
                return  # Damaged before the bound: reading the batch raises this error again.
            if size == MAX_BATCH_BYTES:
                raise BatchTooLarge from error
        else:
            return
        size = min(GROWTH * size, MAX_BATCH_BYTES)


_CHECKS: Final[Mapping[int, Callable[[memoryview], None]]] = {
    GZIP: _check_gzip,
    SNAPPY: _check_snappy,
    LZ4: _check_lz4,
    ZSTD: _check_zstd,
}
