"""Options of `esper train` for the policies of a run and their limits."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from esper.workers.cli.option_groups import config_help

if TYPE_CHECKING:
    from esper.topics.models import PolicySpec, Selection

PANEL = "Policy and limits"
NO_ATTENTION = "none"


def _option(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=PANEL, **more)


@dataclass(frozen=True)
class PolicyOptions:
    """How a run is to choose; None is the default of `esper.bandit`."""

    policy: Annotated[
        str | None,
        _option(
            help=f"{config_help('policy')} An unknown name prints the known ones.",
        ),
    ] = None
    policy_param: Annotated[
        list[str] | None,
        _option(
            metavar="NAME=NUMBER",
            help="Parameter of the policy, such as exploration=0.5; repeatable.",
        ),
    ] = None
    attention: Annotated[
        str | None,
        _option(
            help="Bandit policy that first chooses the site. `none`: the policy chooses among all "
            "pairs of site and blueprint.",
        ),
    ] = None
    max_params: Annotated[
        int | None,
        _option(min=1, help="Most parameters that all planted kernels may add; 80 % is used."),
    ] = None
    max_memory_ratio: Annotated[
        float | None,
        _option(
            help="Most peak memory of all planted kernels: the sum of their ratios to their "
            "layers'; 80 % is used."
        ),
    ] = None
    max_latency_ratio: Annotated[
        float | None,
        _option(
            help="Most step time of all planted kernels: the sum of their ratios to their "
            "layers'; 80 % is used."
        ),
    ] = None
    forbid: Annotated[
        list[str] | None,
        _option(metavar="BLUEPRINT", help="Never plant this blueprint; repeatable."),
    ] = None
    pin: Annotated[
        list[str] | None,
        _option(
            metavar="SITE=BLUEPRINT",
            help="Plant only this blueprint at this site; repeatable, for several blueprints.",
        ),
    ] = None
    dormant_reports: Annotated[
        int | None,
        _option(min=0, help="Reports for which a slot stays empty before a kernel is planted."),
    ] = None
    max_on_trial: Annotated[
        int | None, _option(min=1, max=64, help="Most kernels on trial at the same time.")
    ] = None
    tournament: Annotated[
        bool,
        _option(
            "--tournament",
            help="Try many kernels at the same time and keep the best few: four slots per site, a "
            "report every ten steps.",
        ),
    ] = False
    auditions: Annotated[
        bool | None,
        _option(
            "--auditions/--trials",
            help="Try every kernel beside the training once the host has plateaued, and plant only "
            "those that proved a gain, with the weights they learnt; or try a few at a time in "
            "the network. Default: auditions for mnist1d, else trials.",
        ),
    ] = None

    @property
    def given(self) -> list[str]:
        """Return the given options by their names on the command line."""
        return [
            f"--{option.name.replace('_', '-')}"
            for option in fields(self)
            if getattr(self, option.name) not in (None, False, [])
        ]

    def policy_and_selection(
        self, sites: Collection[str], *, auditions: bool = False
    ) -> "tuple[PolicySpec, Selection]":
        """Return the policy and the selection for a task with these sites.

        `auditions` says whether the task has auditions by default.

        Raises:
            BadParameter: a name or value is invalid; the message lists the valid ones.
        """
        from esper.bandit import TOURNAMENT, attention_for, default_selection, policy_for
        from esper.topics.models import SelectionLimits

        if self.tournament and self.auditions:
            raise typer.BadParameter("--tournament and --auditions exclude each other")
        selection = TOURNAMENT
        if not self.tournament:
            given = self.auditions
            selection = default_selection(auditions=auditions if given is None else given)
        try:
            policy, attention = self._policy(), self._attention(selection.attention)
            policy_for(policy)
            if attention is not None:
                attention_for(attention)
            limits = SelectionLimits(**dict(selection.limits) | self._limits(sites))
        except ValidationError as error:
            raise typer.BadParameter(_first_error(error)) from error
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        return policy, selection.model_copy(update={"attention": attention, "limits": limits})

    @property
    def report_every(self) -> int:
        """Return the steps between two reports."""
        from esper.bandit import TOURNAMENT_REPORT_EVERY
        from esper.workers.cli.train.trainer import REPORT_EVERY

        return TOURNAMENT_REPORT_EVERY if self.tournament else REPORT_EVERY

    @property
    def slots(self) -> int:
        """Return the slots per site."""
        from esper.bandit import TOURNAMENT_SLOTS
        from esper.workers.cli.train.trainer import SLOTS

        return TOURNAMENT_SLOTS if self.tournament else SLOTS

    def _policy(self) -> "PolicySpec":
        from esper.bandit import DEFAULT_POLICY
        from esper.topics.models import PolicySpec

        params = dict(_number(text) for text in self.policy_param or ())
        if self.policy in (None, DEFAULT_POLICY.name):
            return PolicySpec(name=DEFAULT_POLICY.name, params=DEFAULT_POLICY.params | params)
        return PolicySpec(name=self.policy, params=params)

    def _attention(self, default: "PolicySpec | None") -> "PolicySpec | None":
        from esper.topics.models import PolicySpec

        if self.attention is None:
            return default
        return None if self.attention == NO_ATTENTION else PolicySpec(name=self.attention)

    def _limits(self, sites: Collection[str]) -> dict[str, Any]:
        given = {
            "max_params": self.max_params,
            "max_memory_ratio": self.max_memory_ratio,
            "max_latency_ratio": self.max_latency_ratio,
            "dormant_reports": self.dormant_reports,
            "max_on_trial": self.max_on_trial,
            "forbidden": tuple(self.forbid) if self.forbid else None,
            "pinned": _pinned(self.pin, sites) if self.pin else None,
        }
        return {name: value for name, value in given.items() if value is not None}


def _pair(text: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise typer.BadParameter(f"{text!r} is invalid; write {form}")
    return name, value


def _number(text: str) -> tuple[str, float]:
    name, value = _pair(text, "NAME=NUMBER")
    try:
        return name, float(value)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is invalid; write NAME=NUMBER") from error


def _pinned(pins: Iterable[str], sites: Collection[str]) -> dict[str, tuple[str, ...]]:
    pinned: dict[str, tuple[str, ...]] = {}
    for text in pins:
        site, blueprint = _pair(text, "SITE=BLUEPRINT")
        if site not in sites:
            raise typer.BadParameter(f"no site {site!r}; use one of: {', '.join(sites)}")
        pinned[site] = (*pinned.get(site, ()), blueprint)
    return pinned


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    where = " ".join(str(part) for part in first["loc"] if part != "function-after")
    return f"{where}: {first['msg']}, not {first['input']!r}"
