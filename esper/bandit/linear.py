"""A linear model of rewards, learnt one trial at a time."""

from pydantic import BaseModel, ConfigDict


class LinearModel(BaseModel):
    """Bayesian linear regression with unit prior precision, as sums over trials.

    `precision` holds the rows of the lower triangle of Σ x xᵀ, `response` is Σ reward · x.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: tuple[tuple[float, ...], ...] = ()
    response: tuple[float, ...] = ()

    def after(self, features: list[float], reward: float) -> "LinearModel":
        """Return the model after one more trial."""
        raise NotImplementedError
