"""Entry of every task of the bundle: the stage is the first parameter, the rest are the flags of ``sie``."""

import sys

from sie_spark.cli import main

if __name__ == "__main__":
    status = main(sys.argv[1:])
    if status:
        raise SystemExit(status)  # returning is success: SystemExit(0) counts as a failure there
