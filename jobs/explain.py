"""spark-submit entry of 'sie explain': the same flags, the same JSON line."""

import sys

from sie_spark.cli import main

if __name__ == "__main__":
    status = main(["explain", *sys.argv[1:]])
    if status:
        raise SystemExit(status)  # returning is success: some schedulers count SystemExit(0) as failure
