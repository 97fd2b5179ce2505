"""The doors of the serving fleet: HTTP in front of the resident group, the generator's replicas and `search.answer`."""
