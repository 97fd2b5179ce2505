"""Answers: whether they cite the right page, hold the answer, and are refused where there is none."""
