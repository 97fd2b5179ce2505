"""Pages of web sites."""
