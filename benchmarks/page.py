"""The parts of the rendered Markdown pages that all renderers share."""

from collections.abc import Iterator, Sequence

from benchmarks.result import RATIO, SHARE, Figure, Result


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table that ends in a newline."""

    def lines() -> Iterator[str]:
        yield _line(columns)
        yield _line(["---"] * len(columns))
        yield from map(_line, rows)

    return "\n".join(lines()) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def image(title: str, path: str) -> str:
    """Return a Markdown image."""
    return f"![{title}]({path})"


def number(value: float) -> str:
    """Return a number with four significant digits, or without decimals from 1,000 on."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def with_unit(value: float, unit: str) -> str:
    """Return a number with its unit; ratios and shares have none."""
    return number(value) if unit in (RATIO, SHARE) else f"{number(value)} {unit}"


def middle_half(figure: Figure) -> str:
    """Return the 25th and 75th percentile."""
    return " to ".join(map(number, figure.spread))


def yes_or_no(reached: bool | None) -> str:
    """Return a table cell; empty without a goal."""
    return {True: "yes", False: "no", None: ""}[reached]


def goal_of(figure: Figure) -> str:
    """Return the limit of a figure's goal; empty without a goal."""
    if figure.goal is None:
        return ""
    return f"{'≤' if figure.goal.sense == 'at most' else '≥'} {number(figure.goal.limit)}"


def machine_of(result: Result) -> str:
    """Return the machine of a result."""
    return pairs(result.machine)


def commit_of(result: Result) -> str:
    """Return the commit of a result."""
    return f"{result.commit}{', with uncommitted changes' if result.modified else ''}"


def pairs(values: dict[str, object]) -> str:
    """Return `name value, name value`."""
    return ", ".join(f"{name} {value}" for name, value in values.items())
