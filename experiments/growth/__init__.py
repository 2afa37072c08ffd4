"""Suites that train networks with and without growth, one CSV row per run.

A suite is a module with a `SUITE` and a row in `experiments.registry`. `experiments.evidence`
computes statistics and renders the page from the rows.
"""
