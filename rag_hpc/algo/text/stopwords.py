"""English words that carry no meaning of their own."""

_WORDS = """
a an and any are as at be been but by can could did do does for from had has have how i if in into is it its may might
must no not of on one or our shall should so some such than that the their them then there these they this those to was
we were what when where which while who whom whose why will with would you your
"""
STOP_WORDS = frozenset(_WORDS.split())
