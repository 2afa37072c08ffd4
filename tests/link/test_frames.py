"""Frames: whole again however they were cut; the process that sends them never loads torch."""

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from esper.link.frames import Frame, FrameReader, Kind

FRAMES = st.lists(
    st.builds(
        Frame,
        st.sampled_from(Kind),
        st.dictionaries(st.text(max_size=5), st.integers(0, 9), max_size=3),
        st.binary(max_size=300),
    ),
    max_size=5,
)


@given(FRAMES, st.integers(1, 64))
def test_frames_come_out_as_they_went_in_however_the_bytes_were_cut(
    frames: list[Frame], size: int
) -> None:
    data = b"".join(frame.packed() for frame in frames)
    reader = FrameReader()
    found = [
        frame
        for start in range(0, len(data), size)
        for frame in reader.feed(data[start : start + size])
    ]
    assert found == frames


def test_the_link_process_does_not_load_torch() -> None:
    lookup = "import sys, esper.link.sidecar; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", lookup], check=False).returncode == 0
