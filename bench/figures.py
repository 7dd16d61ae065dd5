# SPDX-License-Identifier: MIT
"""Medians, percentiles, the table and the aims: what each bench reports."""
import argparse
import json
import math
import os
import platform
import signal
import statistics
import sys


def summary(samples):
    """Of milliseconds, or whatever the unit is."""
    ordered = sorted(samples)
    rank = max(math.ceil(0.95 * len(ordered)) - 1, 0)  # nearest rank: a value that was measured
    return {"n": len(ordered), "median": round(statistics.median(ordered), 3),
            "p95": round(ordered[rank], 3), "min": round(ordered[0], 3),
            "max": round(ordered[-1], 3)}


def aim(name, value, limit, strict=False):
    """`value` should be at most `limit` (`strict`: less)."""
    value = round(value, 3)
    return {"name": name, "value": value, "aim": limit,
            "met": value < limit if strict else value <= limit}


def aim_at_least(name, value, limit):
    """`value` should be at least `limit`."""
    value = round(value, 3)
    return {"name": name, "value": value, "aim": limit, "at_least": True, "met": value >= limit}


def machine():
    return {"cpus": len(os.sched_getaffinity(0)), "kernel": platform.release(),
            "load_before": round(os.getloadavg()[0], 2)}


def table(header, rows):
    rows = [header, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    for row in rows:
        print("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w)
                        for i, (cell, w) in enumerate(zip(row, widths))).rstrip())


def print_aims(aims):
    print()
    for item in aims:
        verdict = "met" if item["met"] else "MISSED"
        at_least = "at least " if item.get("at_least") else ""
        print(f"{verdict:6}  {item['name']}: {item['value']} (aim {at_least}{item['aim']})")


def print_json(report):
    print(json.dumps(report, indent=2))


def some_of(known):
    """For argparse: words of these, with commas between."""
    def parse(text):
        words = text.split(",")
        for word in words:
            if word not in known:
                raise argparse.ArgumentTypeError(f"'{word}': must be of {', '.join(known)}")
        return [word for word in known if word in words]
    return parse


def end_on_signals():
    """Ctrl-C and its likes end a bench as an exception would: what it started is ended."""
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _frame: sys.exit(128 + number))


def progress(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)
