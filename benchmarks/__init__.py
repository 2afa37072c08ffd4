"""Every figure that this project states, one command each: `python -m benchmarks NAME`.

A benchmark is a module with `run(quick) -> Measured`. What its command writes as JSON under
`results/` is all that `docs/figures.md` is rendered from. Ratios have both sides from one run.
"""
