"""The properties that every result has."""

import math

import orjson

from benchmarks.goals import GOALS
from benchmarks.result import Measurement, Result


def check(name: str, measured: Measurement) -> None:
    """Assert the properties of a measurement's JSON."""
    result = Result(
        name=name, quick=True, machine={}, commit="unknown", modified=False, **dict(measured)
    )
    written = orjson.loads(result.to_json())
    figures = {figure["key"]: figure for figure in written["figures"]}

    assert Result.model_validate(written).to_json() == result.to_json()
    assert len(figures) == len(written["figures"]), "two figures have the same key"
    for figure in figures.values():
        assert figure["title"] and figure["unit"] and figure["n"] >= 1
        low, high = figure["spread"]
        assert low <= figure["median"] <= high <= figure["worst"]
        assert low <= figure["p90"] <= figure["worst"]
        assert all(map(math.isfinite, (low, high, figure["worst"])))
        assert ("reached" in figure) == ("goal" in figure)
        sides = figure.get("sides", {})
        assert all(side["n"] == figure["n"] for side in sides.values())
        assert len(sides) == (2 if figure["unit"] == "ratio" and sides else 0)
    for row in GOALS:
        if row.name == name:
            assert all("goal" in figures[key] for key in row.figures)
