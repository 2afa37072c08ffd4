"""Statistics over the rows of the growth suites, and the rendered page `docs/evidence.md`."""
