"""The default policies and selections of a run.

UCB1's exploration of 2 suits rewards in [0, 1] with a standard deviation of 1/2; for a standard
deviation s it is 8 s². Measured standard deviations are 0.035 for one blueprint at one site and
0.06 for one site with any blueprint (`python -m experiments convergence`).

`cost_spread` is small because the cost of a kernel hardly predicts its contribution. With a spread
of 0.2 the right kernel of the conv teacher was first tried at step 1,081 of 3,000 (median of 14
seeds), with 0.05 at step 691.
"""

from typing import Final

from esper.topics.models import (
    Auditions,
    Orchestration,
    PolicySpec,
    Priors,
    Selection,
    SelectionLimits,
)

DEFAULT_POLICY: Final = PolicySpec(name="ucb1", params={"exploration": 0.01})
"""The policy that scores blueprints."""

TRIALS: Final = Selection(
    priors=Priors(cost_spread=0.05),
    attention=PolicySpec(name="ucb1", params={"exploration": 0.03}),
    orchestration=Orchestration(),
)
"""Kernels are tried in the network, a few at a time."""

TOURNAMENT: Final = TRIALS.model_copy(
    update={
        "limits": SelectionLimits(max_on_trial=12, dormant_reports=0, embargo_reports=1000),
        "warmup_reports": 28,
        "trial_reports": 4,
        "keep_share": 0.5,
        "orchestration": Orchestration(reweight_reports=5),
    }
)
"""Many kernels on trial together from the first report; each kernel enters once, and few stay.

The best of about twenty selections, by probe loss on digits (docs/evidence.md).
"""

AUDITIONED: Final = Selection(
    limits=SelectionLimits(max_on_trial=1, dormant_reports=0),
    warmup_reports=10,
    keep_share=0.02,
    orchestration=Orchestration(),
    auditions=Auditions(),
)
"""Kernels are tried beside the training, and only those that proved a gain are planted."""


def default_selection(*, auditions: bool) -> Selection:
    """Return the selection of a run that names none, with samples for auditions or without."""
    return AUDITIONED if auditions else TRIALS


TOURNAMENT_REPORT_EVERY: Final = 10
TOURNAMENT_SLOTS: Final = 4
"""Reporting interval and slots per site that TOURNAMENT uses."""
