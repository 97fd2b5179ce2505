"""All that speaks Slurm."""
