"""The bound on decompressed batches, for every codec."""

import gzip

import cramjam
import pytest
from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode

from esper.topics.bus.decompression import (
    GZIP,
    LZ4,
    MAX_BATCH_BYTES,
    SNAPPY,
    ZSTD,
    BatchTooLarge,
    require_bounded,
)

CODECS = {
    "gzip": (GZIP, gzip_encode),
    "snappy": (SNAPPY, snappy_encode),
    "raw snappy": (SNAPPY, lambda data: bytes(cramjam.snappy.compress_raw(data))),
    "lz4": (LZ4, lz4_encode),
    "zstd": (ZSTD, zstd_encode),
}


@pytest.mark.parametrize("name", CODECS)
def test_data_up_to_the_bound_pass_and_one_byte_more_does_not(name: str) -> None:
    codec, encode = CODECS[name]
    require_bounded(codec, memoryview(encode(bytes(MAX_BATCH_BYTES))))
    with pytest.raises(BatchTooLarge, match="more than 64 MiB"):
        require_bounded(codec, memoryview(encode(bytes(MAX_BATCH_BYTES + 1))))


def test_members_of_a_gzip_stream_count_together() -> None:
    half = gzip.compress(bytes(MAX_BATCH_BYTES // 2 + 1))
    with pytest.raises(BatchTooLarge):
        require_bounded(GZIP, memoryview(half + half))


def test_without_a_codec_nothing_is_checked() -> None:
    require_bounded(0, memoryview(b"anything"))
