"""How a run chooses unless it is told.

The 2 of UCB1's paper is for rewards that spread over all of [0, 1], by a standard deviation of 1/2;
for one of s it is 8 s². Rewards of one blueprint at one site were seen to spread by 0.035, those of
a site with whatever is planted there by 0.06 (`python -m experiments convergence`).

What a kernel costs says little of what it gives. Where the dearest one was expected to earn 0.2
less than the cheapest, the right one of the conv teacher was first tried at step 1,081 of 3,000,
the median of 14 seeds, and at 691 where 0.05 less was expected.
"""

from typing import Final

from esper.topics.models import Orchestration, PolicySpec, Priors, Selection, SelectionLimits

DEFAULT_POLICY: Final = PolicySpec(name="ucb1", params={"exploration": 0.01})
"""What chooses the blueprint."""

DEFAULT_SELECTION: Final = Selection(
    priors=Priors(cost_spread=0.05),
    attention=PolicySpec(name="ucb1", params={"exploration": 0.03}),
    orchestration=Orchestration(),
)
"""What chooses the seed, what no decision may break, and what the run intends."""

TOURNAMENT: Final = DEFAULT_SELECTION.model_copy(
    update={
        "limits": SelectionLimits(max_on_trial=12, dormant_reports=0, embargo_reports=1000),
        "warmup_reports": 28,
        "trial_reports": 4,
        "keep_share": 0.5,
        "orchestration": Orchestration(reweight_reports=5),
    }
)
"""Many kernels on trial at once from the first report on; each enters once, and few stay.

The best of some twenty selections, by probe loss on digits (docs/evidence.md).
"""

TOURNAMENT_REPORT_EVERY: Final = 10
TOURNAMENT_SLOTS: Final = 4
"""With which it was: steps between two reports, and seeds of each site."""
