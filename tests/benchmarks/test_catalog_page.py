"""The page of shipped blueprints says what the catalog and the kept result say."""

from pathlib import Path

import pytest

from benchmarks import catalog_page, figures
from benchmarks.result import BenchmarkError
from esper.blueprint import resolve, shipped


def test_the_committed_page_is_what_catalog_and_result_say() -> None:
    assert catalog_page.DOCUMENT.read_text() == catalog_page.render(), (
        "run `python -m benchmarks figures`; first `python -m benchmarks catalog --save` if a "
        "blueprint is new"
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


def test_a_page_without_a_result_is_an_error_that_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    with pytest.raises(BenchmarkError, match="measure it with `python -m benchmarks catalog"):
        catalog_page.render()


def test_a_page_of_a_quick_run_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = figures.result_file("catalog").read_text()
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    (tmp_path / "catalog.json").write_text(kept.replace('"quick": false', '"quick": true'))
    with pytest.raises(BenchmarkError, match="is of a quick run"):
        catalog_page.render()
