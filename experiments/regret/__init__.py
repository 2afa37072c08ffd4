"""Regret of every policy on simulated bandits whose best arm is known; page `docs/regret.md`."""
