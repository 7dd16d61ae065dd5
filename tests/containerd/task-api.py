#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The Task service, called as containerd calls it and as it does not: each answer and its code, by both
of its names, with and without a migration session.

usage: task-api.py FERRY SHIM
"""
import json
import os

import host
import ttrpc
from pods import fields_of, message

OK, INVALID, NOT_FOUND, EXISTS, PRECONDITION, UNIMPLEMENTED = 0, 3, 5, 6, 9, 12
CREATED, RUNNING, STOPPED, PAUSED = 1, 2, 3, 4
TASK_2, TASK_3 = "containerd.task.v2.Task", "containerd.task.v3.Task"
PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"
RESUME = 2
SCRIPT = "trap 'exit 5' TERM; while :; do sleep 0.1; done"


def client(place, service):
    sandbox, = place.sandboxes()
    return ttrpc.Client(os.path.join(place.root, sandbox, "shim.sock"), service)


def any_of(kind, value):
    return message((1, kind), (2, value))


def process(*args, terminal=False):
    return any_of(PROCESS, json.dumps({"args": args, "cwd": "/", "env": ["PATH=/bin"], "terminal": terminal,
                                       "user": {"uid": 0, "gid": 0}}))


def expect(task, code, method, *fields):
    got, answer = task.end(task.begin(method, *fields))
    assert got == code, (method, fields, "want", code, "got", got, answer)
    return answer


def status_of(task, name, exec_id=""):
    return expect(task, OK, "State", (1, name), (2, exec_id)).get(4)


def memory_limit(task, name):
    stats = fields_of(expect(task, OK, "Stats", (1, name))[1])
    return fields_of(fields_of(stats[2])[4]).get(33)


def both(place):
    return client(place, TASK_2), client(place, TASK_3)


def test_unknown_names(place):
    host.start(place, "t1", SCRIPT)
    for task in both(place):
        for method in "State", "Start", "Pids", "Wait", "Kill", "Delete", "CloseIO", "Pause", "Resume", "Stats", "Update", \
                "Connect":
            expect(task, NOT_FOUND, method, (1, "nobody"))
        expect(task, NOT_FOUND, "ResizePty", (1, "nobody"), (3, 80), (4, 25))
        expect(task, NOT_FOUND, "Exec", (1, "nobody"), (2, "e"), (7, process("true")))
        for method in "State", "Start", "Wait", "Delete", "CloseIO":
            expect(task, NOT_FOUND, method, (1, "t1"), (2, "no-exec"))
        expect(task, UNIMPLEMENTED, "Checkpoint", (1, "t1"), (2, "/tmp/checkpoint"))
        expect(task, EXISTS, "Create", (1, "t1"), (2, place.folder))
        expect(task, INVALID, "Create", (1, ""), (2, place.folder))
        expect(task, INVALID, "Create", (1, "t2"), (2, "no/absolute/path"))
        expect(task, INVALID, "Create", (1, "t2"), (2, place.folder), (8, "/tmp/checkpoint"))
        expect(task, INVALID, "Create", (1, "t2"), (2, place.folder), (5, "binary:///bin/logger"))
        assert status_of(task, "t1") == RUNNING


def test_one_step_after_the_other(place):
    task = client(place, TASK_3)
    expect(task, PRECONDITION, "Start", (1, "t1"))
    expect(task, PRECONDITION, "Delete", (1, "t1"))
    expect(task, PRECONDITION, "Resume", (1, "t1"))
    expect(task, PRECONDITION, "ResizePty", (1, "t1"), (3, 80), (4, 25))
    expect(task, INVALID, "Exec", (1, "t1"), (2, "e1"))
    expect(task, INVALID, "Exec", (1, "t1"), (2, "e1"), (7, any_of(PROCESS, "{")))
    expect(task, OK, "Pause", (1, "t1"))
    assert status_of(task, "t1") == PAUSED
    expect(task, PRECONDITION, "Pause", (1, "t1"))
    expect(task, OK, "Resume", (1, "t1"))
    assert status_of(task, "t1") == RUNNING


def test_limits_are_changed(place):
    task = client(place, TASK_2)
    before = memory_limit(task, "t1")
    for limit in 96 << 20, 64 << 20:
        resources = json.dumps({"memory": {"limit": limit}})
        expect(task, OK, "Update", (1, "t1"), (2, any_of("types.containerd.io/opencontainers/runtime-spec/1/LinuxResources",
                                                         resources)))
        assert memory_limit(task, "t1") == limit != before
    expect(task, OK, "Update", (1, "t1"))
    assert memory_limit(task, "t1") == 64 << 20
    got, answer = task.end(task.begin("Update", (1, "t1"), (2, any_of("x", "{"))))
    assert got != OK, answer
    assert memory_limit(task, "t1") == 64 << 20


def test_an_exec(place):
    """CloseIO before Start; Wait before and after its end; its Delete, once."""
    task, other = both(place)
    fifo = os.path.join(place.folder, "in")
    os.mkfifo(fifo)
    expect(task, OK, "Exec", (1, "t1"), (2, "e2"), (4, fifo), (7, process("sh", "-c", "cat; exit 3")))
    expect(task, EXISTS, "Exec", (1, "t1"), (2, "e2"), (7, process("true")))
    assert status_of(other, "t1", "e2") == CREATED
    expect(task, NOT_FOUND, "Kill", (1, "t1"), (2, "e2"), (3, 9))
    expect(task, OK, "CloseIO", (1, "t1"), (2, "e2"), (3, 1))
    waiting = other.begin("Wait", (1, "t1"), (2, "e2"))
    expect(task, OK, "Start", (1, "t1"), (2, "e2"))
    code, answer = other.end(waiting)
    assert code == OK and answer[1] == 3, (code, answer)
    assert expect(task, OK, "Wait", (1, "t1"), (2, "e2"))[1] == 3
    assert status_of(task, "t1", "e2") == STOPPED
    expect(task, PRECONDITION, "Start", (1, "t1"), (2, "e2"))
    expect(task, NOT_FOUND, "Kill", (1, "t1"), (2, "e2"), (3, 9))
    assert expect(task, OK, "Delete", (1, "t1"), (2, "e2"))[2] == 3
    expect(task, NOT_FOUND, "Delete", (1, "t1"), (2, "e2"))
    assert status_of(task, "t1") == RUNNING


CHANGES = (("Pause", (1, "t1")), ("Resume", (1, "t1")), ("Kill", (1, "t1"), (3, 15)), ("Delete", (1, "t1")), ("Update", (1, "t1")),
           ("Exec", (1, "t1"), (2, "e3"), (7, process("true"))), ("Create", (1, "t2"), (2, "/nonexistent")))


def test_a_session_is_open(place):
    """What changes something is refused, what tells something answers; afterwards all is as before."""
    session = (1, "5c0ffee0-0000-4000-8000-000000000004")
    migration = client(place, "Migration")
    expect(migration, OK, "PrepareAndExportSandbox", session)
    for task in both(place):
        for method, *fields in CHANGES:
            expect(task, PRECONDITION, method, *fields)
        assert status_of(task, "t1") == RUNNING
        assert expect(task, OK, "Pids", (1, "t1")) and expect(task, OK, "Connect", (1, "t1"))
        expect(task, OK, "Stats", (1, "t1"))
        waiting = task.begin("Wait", (1, "t1"))
        assert status_of(task, "t1") == RUNNING and waiting not in task.answers
    expect(migration, OK, "Cancel", session)
    expect(migration, OK, "FinalizeSandbox", session, (2, RESUME))
    expect(migration, OK, "Cleanup", session)
    task = client(place, TASK_2)
    expect(task, OK, "Pause", (1, "t1"))
    expect(task, OK, "Resume", (1, "t1"))


def test_all_are_killed_and_waited_for(place):
    task, other = both(place)
    expect(task, OK, "Exec", (1, "t1"), (2, "e4"), (7, process("sleep", "1000")))
    expect(task, OK, "Start", (1, "t1"), (2, "e4"))
    waits = [other.begin("Wait", (1, "t1"), (2, "e4")), other.begin("Wait", (1, "t1"))]
    expect(task, OK, "Kill", (1, "t1"), (3, 9), (4, 1))
    for wait in waits:
        code, answer = other.end(wait)
        assert code == OK and answer[1] == 137, (code, answer)
    assert expect(task, OK, "Wait", (1, "t1"))[1] == 137
    expect(task, NOT_FOUND, "Kill", (1, "t1"), (3, 9))
    expect(task, PRECONDITION, "Exec", (1, "t1"), (2, "e5"), (7, process("true")))
    place.ctr("task", "delete", "t1")
    place.must("container", "delete", "t1")
    host.wait_for("nothing left", lambda: not place.sandboxes())


if __name__ == "__main__":
    host.main(globals())
