"""What a worker raised is said first, whatever Spark, py4j, Connect and torchrun wrap it in."""

import pickle

import pytest

from sie_spark.platform.errors import (
    WORKERS_PYTHON,
    DataError,
    ModelError,
    cause_of,
    worker_error,
    worker_said,
)

FRAMES = """Traceback (most recent call last):
  File "/x/pyspark.zip/pyspark/worker.py", line 3602, in main
    func, profiler, deserializer, serializer = read_udfs(
                                               ^^^^^^^^^^
  File "/x/y.py", line 454, in loads
    return cloudpickle.loads(obj, encoding=encoding)
"""
JVM = """ SQLSTATE: 38000
\tat org.apache.spark.api.python.BasePythonRunner$ReaderIterator.handlePythonException(PythonRunner.scala:665)
\tat org.apache.spark.util.SparkErrorUtils.tryWithSafeFinally(SparkErrorUtils.scala:86)
\tat org.apache.spark.sql.execution.QueryExecution$.withInternalError(QueryExecution.scala:872)
"""
CALL = "An error occurred while calling o234.collectToPython.\n: org.apache.spark.SparkException: Job aborted due to stage"
BARRIER = " failure: Could not recover from a failed barrier ResultStage. Most recent failure reason: Stage failed.\n"
PACKED = "org.apache.spark.api.python.PythonException: [PYTHON_EXCEPTION] An exception was thrown from the Python worker: "
LOST = " failure: Task 0 in stage 5.0 failed 4 times, most recent failure: Lost task 0.3 in stage 5.0 (TID 27) (h executor 0): "


def classic(raised: str) -> str:
    return f"An exception was thrown from the Python worker:\n{FRAMES}{raised}"


def connect(raised: str) -> str:
    return f"\n  An exception was thrown from the Python worker. Please see the stack trace below.\n[X] {FRAMES}{raised}\n{JVM}"


def barrier(raised: str) -> str:
    return f"{CALL}{BARRIER}{PACKED}{FRAMES}{raised}\n{JVM}"


def ranks(raised: str) -> str:
    """A task of TorchDistributor, whose torchrun started a rank that raised."""
    rank = "".join(f"[rank0]: {line}\n" for line in f"{FRAMES}{raised}".splitlines())
    torchrun = f"{FRAMES}torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n=====\nrank_main FAILED\n"
    command = (
        "RuntimeError: Command ['python', '-m', 'x'] failed with return code 1. The last 100 lines are:\n"
    )
    return barrier(
        f"{command}W1128 torchrun: setting OMP_NUM_THREADS\n{rank}E1128 failed (exitcode: 1)\n{torchrun}"
    )


@pytest.mark.parametrize("wrapped", [classic, connect, barrier, ranks])
@pytest.mark.parametrize(
    ("raised", "said", "remedy"),
    [
        ("ModuleNotFoundError: No module named 'sie_spark'", "No module named 'sie_spark'", WORKERS_PYTHON),
        ("ModuleNotFoundError: No module named 'torch'", "No module named 'torch'", WORKERS_PYTHON),
        ("ValueError: bad: price is -3", "ValueError: bad: price is -3", "look"),
        (
            "their.package.Odd: a name without an ending",
            "their.package.Odd: a name without an ending",
            "look",
        ),
        ("AssertionError", "AssertionError", "look"),
        ("sie_spark.platform.errors.ModelError: p of 3 is not finite", "p of 3 is not finite", "mend"),
        (f"KeyError: 'a'\n\nDuring handling of it:\n\n{FRAMES}OSError: no room", "OSError: no room", "look"),
    ],
)
def test_what_a_worker_raised_is_said_in_one_line(wrapped, raised: str, said: str, remedy: str) -> None:
    error = Exception(wrapped(raised))
    assert worker_said(error) == cause_of(error) == said
    found = worker_error(error, "scoring", remedy="mend", otherwise="look")
    assert isinstance(found, ModelError) and str(found).endswith(said) and found.remedy == remedy
    assert str(found).startswith("scoring failed") and "org.apache" not in str(found)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (f"{CALL}{LOST}org.apache.spark.SparkException: Python worker exited\n{JVM}Caused by: java.io.EOFException\n", "Python worker exited"),
        (f"Job aborted due to stage{BARRIER}org.apache.spark.SparkException: Python worker exited\n{JVM}", "Python worker exited"),
        (f'{CALL}{LOST}java.io.IOException: Cannot run program "environment/bin/python": error=2\n{JVM}', 'Cannot run program "environment/bin/python": error=2'),
        ("[PATH_NOT_FOUND] Path does not exist: x\n\tat org.y", "[PATH_NOT_FOUND] Path does not exist: x"),
        ("", "Exception"),
    ],
)  # fmt: skip
def test_where_no_worker_spoke_the_jvm_says_why(text: str, cause: str) -> None:
    error = Exception(text)
    assert worker_said(error) is None and cause_of(error) == cause
    lacking = "Cannot run" in cause
    found = worker_error(error, "scoring", remedy="mend", otherwise="look")
    assert found.remedy == (WORKERS_PYTHON if lacking else "look")


def test_an_error_comes_whole_out_of_another_process() -> None:
    there = pickle.loads(pickle.dumps(DataError("no row is left", remedy="keep more")))
    assert (type(there), str(there), there.remedy) == (DataError, "no row is left", "keep more")
