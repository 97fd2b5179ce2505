"""The main text of HTML pages."""
