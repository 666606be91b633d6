"""Runs the cases of a client, one after the other, and says how many of them passed; the runner compares that with cases.json."""

import os
import sys
import traceback


def prove(client, cases, make):
    """`cases`: functions whose docstrings name them; `make`: gives one its world, a context manager."""
    passed = 0
    for case in cases:
        print(f"# {client}: {case.__doc__}", flush=True)
        try:
            with make() as world:
                case(world)
            passed += 1
        except Exception:
            print(f"not ok {client}: {case.__doc__}\n{traceback.format_exc()}", flush=True)
    print(f"{passed} cases of client {client}", flush=True)
    return passed == len(cases)


def finish(results):
    """Ends the process: well if all of them are true."""
    sys.stdout.flush()
    # Threads of the clients don't keep the process.
    os._exit(0 if all(results) else 1)
