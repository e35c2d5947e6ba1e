"""`python -m runner.config DIR`: writes the reference of experiment files, as `make docs` does."""

import sys
from collections.abc import Sequence
from pathlib import Path

from runner.config.reference import PAGE, SCHEMA, json_schema, reference_page


def main(argv: Sequence[str]) -> int:
    """Writes both files into a folder."""
    (folder,) = argv
    for name, content in ((PAGE, reference_page()), (SCHEMA, json_schema())):
        Path(folder, name).write_text(content, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
