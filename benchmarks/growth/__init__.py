"""Whether growth helps: experiments with controls, a row for every run, and what follows from them.

`python -m benchmarks growth --suite NAME` runs what has no row yet; `--page` renders the page from
the rows. A suite is a module and a row in `suites`.
"""
