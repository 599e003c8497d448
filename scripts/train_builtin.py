"""Train the built-in story model and its draft, and install both as package data.

Usage: ``python scripts/train_builtin.py [--texts FOLDER] [--steps N] [--compile]``, with burnish installed. Run again
after an interruption and it goes on from the last checkpoint, to the same weights (same machine, same options). The
parts are in scripts/builtin/, the command in scripts/builtin/main.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.builtin.main import main

if __name__ == "__main__":
    main()
