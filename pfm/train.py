"""What `accelerate launch pfm/train.py` starts; the same command as `pfm train`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python put this folder first on the path; the checkout belongs there
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from pfm.training.launcher import watch_launcher

    watch_launcher()  # from the first moment: what follows imports for seconds
    from pfm.cli import run
    from pfm.commands.train import train

    sys.exit(run(train, name="pfm train"))
