"""One file a stage: its config dataclass and its Stage class."""
