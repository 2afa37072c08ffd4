"""The vocabulary check of `make check` refuses every phrase that its list bans."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / ".vocabulary" / "codespell.cfg"
PHRASES = [
    line.split("->")[0] for line in (ROOT / ".vocabulary" / "phrases.txt").read_text().splitlines()
]


def check(text: str, tmp_path: Path) -> "subprocess.CompletedProcess[str]":
    file = tmp_path / "text.md"
    file.write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "codespell_lib", "--config", str(CONFIG), str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_banned_phrase_is_found(tmp_path: Path) -> None:
    text = "".join(f"before {phrase} after\n" for phrase in PHRASES)
    found = check(text, tmp_path)
    assert found.returncode > 0
    missed = [
        phrase
        for number, phrase in enumerate(PHRASES, start=1)
        if f":{number}: " not in found.stdout
    ]
    assert not missed


@pytest.mark.parametrize("name", ["seed_garden", "_inbox", "Retrace"])
def test_old_names_are_found_inside_identifiers(name: str, tmp_path: Path) -> None:
    assert check(f"{name} = 1\n", tmp_path).returncode > 0


def test_plain_sentences_pass(tmp_path: Path) -> None:
    assert (
        check(
            "Return the seeds of a site; raise KeyError if a slot is empty.\n", tmp_path
        ).returncode
        == 0
    )
