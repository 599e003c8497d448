"""The process in which a model is measured: opens models as they are served."""

from burnish.assemble import open_measured
from burnish.measure.bench import run_child

MEASURED = "burnish.cli.measured"

if __name__ == "__main__":
    run_child(open_measured)
