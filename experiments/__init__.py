"""Experiments about growth and policies: `python -m experiments NAME`.

Two kinds: measurements, which save one JSON result (`regret`, `convergence`), and suites, which
append a CSV row per training run (`known-answer`, `digits`, `charlm`, `race`). Results are in
`results/`; `python -m experiments pages` renders `docs/regret.md` and `docs/evidence.md` from them.
"""
