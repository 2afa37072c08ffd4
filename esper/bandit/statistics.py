"""What a run remembers of one arm."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ArmStatistics:
    """Times tried and the mean reward, in [0, 1]."""

    pulls: int = 0
    mean: float = 0.0

    def after(self, reward: float) -> "ArmStatistics":
        """Return the statistics with one more reward.

        Raises:
            ValueError: the reward is not in [0, 1].
        """
        if not 0.0 <= reward <= 1.0:
            raise ValueError(f"reward {reward!r} is not in [0, 1]; normalise it with reward_of")
        pulls = self.pulls + 1
        return ArmStatistics(pulls, self.mean + (reward - self.mean) / pulls)
