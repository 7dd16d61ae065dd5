#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""--report, --trace and --json of real migrations: those that go through and those that do not.

usage: report.py FERRY
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree

import ferry

QUICK = ("--bandwidth", "1M")  # the firmware's memory takes half a second
SLOW = ("--bandwidth", "64K")
PHASES = {
    "source": ["export", "wait", "hello", "copy", "last-state", "offer", "verdict", "journal",
               "away"],
    "destination": ["wait", "prepare", "wait", "hello", "load", "loaded", "resume", "confirm"],
}


class HostilePlace(ferry.Place):
    """Its second host's folder is named like markup, which the page must only show."""

    def __init__(self, program):
        super().__init__(program)
        self.b = os.path.join(self.folder, "<b>&'\"\u202e")


def run(place):
    place.must("run", "web", "--config", place.file("vm.json", ferry.IDLE_VM))


def read_page(place, name="r.html"):
    """Well-formed, complete, and nothing in it that a browser would fetch or run."""
    with open(os.path.join(place.folder, name), encoding="utf-8") as file:
        text = file.read()
    page = xml.etree.ElementTree.fromstring(text)
    tags = {element.tag for element in page.iter()}
    assert not tags & {"script", "img", "link", "iframe", "object", "a", "b>"}, tags
    for element in page.iter():
        for name in element.attrib:
            assert name not in ("src", "href", "srcset") and not name.startswith("on"), name
    assert "url(" not in text.replace("url(#reckoned)", "") and "@import" not in text
    return page


def text_of(page):
    return " ".join(" ".join(page.itertext()).split())


def read_trace(path):
    """By the rules of the trace event format: the events."""
    with open(path, encoding="utf-8") as file:
        trace = json.load(file)
    assert trace["otherData"]["schema"] == "ferry.trace.v1", trace["otherData"]
    for event in trace["traceEvents"]:
        assert event["ph"] in ("X", "C", "M", "i"), event
        assert isinstance(event["name"], str) and event["name"], event
        for field in "ts", "pid", "tid":
            assert isinstance(event[field], int) and event[field] >= 0, event
        assert event["pid"] in (1, 2), event
        if event["ph"] == "X":
            assert isinstance(event["dur"], int) and event["dur"] >= 0, event
        if event["ph"] in "CM":
            assert len(event["args"]) == 1, event
    return trace["traceEvents"]


def slices(events, pid, category):
    return [e for e in events if e["ph"] == "X" and e["pid"] == pid and e["cat"] == category]


def follow_each_other(events):
    for before, after in zip(events, events[1:]):
        assert before["ts"] + before["dur"] == after["ts"], (before, after)


def check_moved(place, result, report):
    parts = report["blackout_parts"]
    blackout = round(report["blackout_ms"] * 1000)
    assert abs(sum(part["usec"] for part in parts) - blackout) <= 2, (blackout, parts)
    assert [part["group"] for part in parts][-1] == "resume", parts
    trace = report["trace"]
    assert trace["related_by"] == "handover", trace["related_by"]
    for side, phases in PHASES.items():
        assert trace[side]["outcome"] == "moved", trace[side]
        names = [phase["name"] for phase in trace[side]["phases"]]
        assert names[:len(phases)] == phases, names
    passes = trace["source"]["passes"]
    assert [p["first"] for p in passes] == list(range(1, report["passes"] + 1)), passes
    assert sum(p["sent"] for p in passes) <= report["bytes"], (passes, report["bytes"])
    versions = {fact["name"]: fact["value"] for fact in trace["destination"]["versions"]}
    assert versions["accelerator"] == "tcg" and versions["kernel"] == os.uname().release, versions
    options = {fact["name"]: fact["value"] for fact in trace["source"]["options"]}
    assert options["max_bandwidth"] == str(2**20), options
    text = text_of(read_page(place))
    for word in ("\u2713 migrated", f"{report['blackout_ms']:.1f} ms", "The switchover, magnified",
                 "Every pass", "Options in force", versions["qemu"], report["session_id"]):
        assert word in text, (word, text)
    assert "--report" not in result.err and "--trace" not in result.err, result


def check_merged(place, report):
    events = read_trace(os.path.join(place.folder, "t.json"))
    for pid, side in (1, "source"), (2, "destination"):
        phases = slices(events, pid, "phase")
        assert [e["name"] for e in phases][:8] == PHASES[side][:8], phases
        follow_each_other(phases[1:] if pid == 2 else phases)
        follow_each_other(slices(events, pid, "guest"))
    stands = [slices(events, pid, "guest") for pid in (1, 2)]
    stands = [[e for e in side if e["name"] == "stands"] for side in stands]
    assert len(stands[0]) == len(stands[1]) == 1, stands
    assert stands[0][0]["ts"] == stands[1][0]["ts"], stands
    blackout = round(report["blackout_ms"] * 1000)
    assert abs(stands[1][0]["dur"] - blackout) <= 2, (stands, blackout)
    assert len(slices(events, 1, "pass")) == report["passes"]


def test_moved():
    with HostilePlace(sys.argv[1]) as place:
        run(place)
        result = place.must("migrate", "web", "--to", place.b, "--json", "--report", "r.html",
                            "--trace", "t.json", *QUICK)
        check_moved(place, result, result.json())
        check_merged(place, result.json())
        # the destination keeps its half, the source's went with its folder
        own = read_trace(os.path.join(place.b, "web", "trace.json"))
        assert {e["pid"] for e in own} == {2}, own
        assert not os.path.exists(os.path.join(place.a, "web"))
        place.must("stop", "web", root=place.b)
        assert "web" not in os.listdir(place.b)
        assert not [name for name in os.listdir(place.folder) if name.endswith(".new")]


def test_by_the_caller(place):
    """The caller's part of the blackout is told as such."""
    run(place)
    report = place.must("migrate", "web", "--to", place.b, "--json", "--handover", "caller",
                        "--report", "r.html", *QUICK).json()
    parts = {part["part"]: part["usec"] for part in report["blackout_parts"]}
    assert parts["waits for the verdict"] > 0, parts
    assert abs(sum(parts.values()) - round(report["blackout_ms"] * 1000)) <= 2, report
    read_page(place)
    assert not os.path.exists(os.path.join(place.b, "web", "trace.json")), "nobody asked for it"
    place.must("stop", "web", root=place.b)


def test_failed(place):
    """Old files of those names are replaced."""
    place.file("r.html", "old")
    place.file("t.json", "old")
    run(place)
    mover = place.start("migrate", "web", "--to", place.b, "--json", "--report", "r.html",
                        "--trace", "t.json", *SLOW)
    ferry.wait_for("the copy", lambda: place.status("web").get("session", {}).get(
        "detail") == "S_COPYING")
    os.kill(place.status("web", root=place.b)["qemu_pid"], signal.SIGKILL)
    out, err = mover.communicate(timeout=ferry.LIMIT)
    assert mover.returncode == 5, (mover.returncode, out, err)
    report = json.loads(out)
    assert report["outcome"] == "failed" and report["trace"]["related_by"] == "hello", report
    source, destination = report["trace"]["source"], report["trace"]["destination"]
    assert destination["outcome"] == "failed", destination
    assert "QEMU has ended" in destination["reason"], destination
    # it hears of it from the caller or by the connection, whichever comes first
    assert source["outcome"] in ("cancelled", "failed"), source
    assert source["phases"][-1]["name"] == "rollback", source["phases"]
    assert source["versions"] and source["events"], source
    text = text_of(read_page(place))
    for word in "\u2717 failed", report["error"], destination["reason"]:
        assert word in text, (word, text)
    events = read_trace(os.path.join(place.folder, "t.json"))
    assert {e["pid"] for e in events} == {1, 2}, events
    # with the sandbox, its half of the trace stays
    own = read_trace(os.path.join(place.a, "web", "trace.json"))
    assert {e["pid"] for e in own} == {1}, own
    place.must("stop", "web")
    assert os.listdir(place.a) == []


def test_cancelled(place):
    run(place)
    mover = place.start("migrate", "web", "--to", place.b, "--report", "r.html", *SLOW)
    ferry.wait_for("the copy", lambda: place.status("web").get("session", {}).get(
        "detail") == "S_COPYING")
    mover.send_signal(signal.SIGTERM)
    mover.communicate(timeout=ferry.LIMIT)
    assert mover.returncode == 143, mover.returncode
    text = text_of(read_page(place))
    assert "\u2717 cancelled" in text and "rolls back" in text, text
    place.must("stop", "web")


def test_refused(place):
    """The page tells of a migration that could not even begin."""
    run(place)
    place.must("run", "web", "--memory", "32", root=place.b)
    result = place.ferry("migrate", "web", "--to", place.b, "--report", "r.html")
    assert result.code == 4, result
    assert "there is a sandbox web" in text_of(read_page(place))
    for root in place.a, place.b:
        place.must("stop", "web", root=root)


def test_folder_goes_away(place):
    """What cannot be written at the end costs a line, nothing else."""
    run(place)
    folder = os.path.join(place.folder, "reports")
    os.mkdir(folder)
    mover = place.start("migrate", "web", "--to", place.b, "--report", "reports/r.html",
                        "--bandwidth", "256K")
    ferry.wait_for("the copy", lambda: place.status("web").get("session", {}).get(
        "detail") == "S_COPYING")
    os.rmdir(folder)
    out, err = mover.communicate(timeout=ferry.LIMIT)
    assert mover.returncode == 0, (mover.returncode, out, err)
    assert "--report reports/r.html was not written" in err, err
    place.must("stop", "web", root=place.b)


def test_full_disk(place):
    """In a mount namespace of its own, for a file system that is too small for either file."""
    script = ('mount -t tmpfs -o size=4k none "$1" || exit 77; shift; "$@"; code=$?; '
              'ls -A full; exit $code')
    if os.geteuid() != 0 or not shutil.which("unshare"):
        print("# not root: no file system to fill")
        return
    run(place)
    full = os.path.join(place.folder, "full")
    os.mkdir(full)
    result = ferry.Result(subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", full, place.program, "migrate", "web",
         "--to", place.b, "--report", "full/r.html", "--trace", "full/t.json"],
        env=place.environment(), cwd=place.folder, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=ferry.LIMIT * 3, check=False))
    if result.code == 77:
        print("# nothing can be mounted here")
    else:
        assert result.code == 0, result
        for option in "--report full/r.html", "--trace full/t.json":
            assert f"{option} was not written: No space left" in result.err, result
        assert "r.html" not in result.out and ".new" not in result.out, result
        place.must("stop", "web", root=place.b)


def main():
    ferry.need_qemu()

    def in_a_place(test):
        with ferry.Place(sys.argv[1]) as place:
            test(place)

    tests = [
        ("by the caller", test_by_the_caller),
        ("failed", test_failed),
        ("cancelled", test_cancelled),
        ("refused", test_refused),
        ("the folder goes away", test_folder_goes_away),
        ("a full disk", test_full_disk),
    ]
    ferry.tap([("moved, between hosts with hostile names", test_moved)] +
              [(name, lambda test=test: in_a_place(test)) for name, test in tests])


main()
