"""Law: this starts the agent that a versions folder's `current` names, and nothing older.

python launcher.py VERSIONS ARGUMENTS_OF_PYTHON…
"""

import os
import sys
from pathlib import Path


def main() -> None:
    versions, *arguments = sys.argv[1:]
    os.environ["PYTHONPATH"] = str((Path(versions) / "current").resolve())
    os.execv(sys.executable, [sys.executable, "-P", *arguments])


if __name__ == "__main__":
    main()
