"""Timing benchmarks: `python -m benchmarks NAME` measures, `figures` renders the pages.

A benchmark is a module with `run(quick) -> Measurement` and a row in `registry`. Saved results are
JSON files in `results/`; `docs/figures.md` and `docs/catalog.md` are rendered from them alone.
Experiments about growth and policies are in the `experiments` package, which uses this one.
"""
