"""What the checks of a run's files cost."""
