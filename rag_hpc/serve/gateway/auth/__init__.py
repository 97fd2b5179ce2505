"""Who may ask a gateway for what, and how often."""
