"""Write the golden files anew: python -m tests.golden.update [--same-version]

A stage whose output changed at the same version is refused, since runs made before would be resumed with other bytes:
raise its `version` first. --same-version takes it all the same, for a new fixed corpus or before the first release.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))  # as pytest's `pythonpath` does


def main(argv: list[str]) -> int:
    """Return 0 when the files are written, 1 when a version has to be raised first."""
    os.environ["OMP_NUM_THREADS"] = "1"
    from tests.golden import golden

    was, found, values = golden.read(golden.HASHES), golden.entries(), golden.values()
    changed = [told for name in found if (told := golden.complaint(name, was, found)) and told.startswith("output of")]
    if changed and "--same-version" not in argv:
        print("\n".join(changed), file=sys.stderr)
        return 1
    for path, content in ((golden.HASHES, found), (golden.VALUES, values)):
        path.write_text(json.dumps(content, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")
        print(f"{path}: {len(content)} stages")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
