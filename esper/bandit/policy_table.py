"""Print the table of policies in `docs/choosing.md`: `python -m esper.bandit.policy_table`."""

from dataclasses import fields

from esper.bandit.policies import POLICIES

HEAD = "| policy | parameters | source | use it when |\n| --- | --- | --- | --- |\n"


def policy_table() -> str:
    """Return a Markdown table with a row per policy, in the order of `POLICIES`.

    Parameters are listed with their defaults.
    """
    return HEAD + "".join(_row(name) for name in POLICIES)


def _row(name: str) -> str:
    policy = POLICIES[name]()
    parameters = ", ".join(
        f"`{field.name}` {getattr(policy, field.name):g}"
        for field in fields(policy)  # type: ignore[arg-type]
    )
    cells = (f"`{name}`", parameters, policy.source, policy.use_when)
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|\n"


if __name__ == "__main__":
    print(policy_table(), end="")
