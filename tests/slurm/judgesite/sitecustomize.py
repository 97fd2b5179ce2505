"""Has judges ask without RAGAS in every Python that a test's job starts with this folder on PYTHONPATH."""

import fakeragas

fakeragas.take_place()
