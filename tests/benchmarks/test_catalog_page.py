"""The page of shipped blueprints shows the catalog and the saved result."""

from pathlib import Path

import pytest

from benchmarks import catalog_page, kept
from benchmarks.result import BenchmarkError
from esper.blueprint import resolve, shipped


def test_committed_page_matches_catalog_and_result() -> None:
    assert catalog_page.DOCUMENT.read_text() == catalog_page.render(), (
        "run `python -m benchmarks figures`"
    )


def test_every_shipped_blueprint_has_a_row_for_each_kind_and_site() -> None:
    lines = catalog_page.render().splitlines()
    for blueprint in shipped():
        rows = [line for line in lines if line.startswith(f"| `{blueprint.blueprint_id}` |")]
        described, *measured = rows
        assert blueprint.summary in described
        sites = [
            catalog_page.site_of(kind, shape)
            for kind in blueprint.kinds
            for shape in catalog_page.SITES[kind]
        ]
        parameters = [f"{resolve(blueprint, site).params:,}" for site in sites]
        assert sorted(row.split(" | ")[2] for row in measured) == sorted(parameters)


def test_blueprint_without_a_figure_has_a_row_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = kept.result_file("catalog").read_text()
    before = catalog_page.render().count("not measured")
    monkeypatch.setitem(kept.FOLDERS, kept.BENCHMARKS, tmp_path)
    (tmp_path / "catalog.json").write_text(saved.replace('"identity-', '"another-'))
    rows = [line for line in catalog_page.render().splitlines() if "| `identity` |" in line]
    described, *costs = rows
    assert "not measured" not in described
    assert costs
    assert all(row.endswith("| not measured | not measured |") for row in costs)
    assert catalog_page.render().count("not measured") == before + 2 * len(costs)


def test_missing_result_is_an_error_that_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(kept.FOLDERS, kept.BENCHMARKS, tmp_path)
    with pytest.raises(BenchmarkError, match="measure it with `python -m benchmarks catalog"):
        catalog_page.render()


def test_quick_result_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = kept.result_file("catalog").read_text()
    monkeypatch.setitem(kept.FOLDERS, kept.BENCHMARKS, tmp_path)
    (tmp_path / "catalog.json").write_text(saved.replace('"quick": false', '"quick": true'))
    with pytest.raises(BenchmarkError, match="is from a quick run"):
        catalog_page.render()
