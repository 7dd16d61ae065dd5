#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What is left of a sandbox or a migration whose processes died, and how `ferry recover` brings it
back: never two, never none, and never a word that is not true.

usage: recover.py FERRY
"""
import json
import os
import signal
import subprocess
import sys
import uuid

import ferry
from ferry import QUICK, RUNNING, SLOW, is_copying, kill, kill_in_the_copy, only_at, run

DONE, FAILED, NOT_FOUND, REFUSED, STAYED, UNDECIDED = 0, 1, 3, 4, 5, 6


def recover(place, *options, root=None, code=DONE):
    result = place.ferry("recover", "web", *options, root=root)
    assert result.code == code, f"ferry recover {options}: expected {code}: {result}"
    return result


def listed(place, root=None):
    return place.must("ls", "--json", root=root).json()[0]


def gone(place, *roots):
    for root in roots:
        assert not os.path.exists(os.path.join(root, "web")), root


def hand_over(place):
    """The source has handed over, the destination has not heard of it: (caller, destination's
    status). The caller and the destination's shim are stopped."""
    run(place)
    mover = place.start("migrate", "web", "--to", place.b, "--handover", "caller", *QUICK)
    ferry.wait_for("the copy", lambda: is_copying(place))
    mover.send_signal(signal.SIGSTOP)
    ferry.wait_for("READY", lambda: ferry.detail(place) == "S_READY")
    destination = place.status("web", root=place.b)
    os.kill(destination["shim_pid"], signal.SIGSTOP)
    mover.send_signal(signal.SIGCONT)
    ferry.wait_for("GO", lambda: ferry.detail(place) == "S_HANDED")
    return mover, destination


def handed_over(place):
    """The same, and then neither the caller nor the destination's shim is left."""
    mover, destination = hand_over(place)
    mover.kill()
    mover.communicate()
    kill(destination["shim_pid"])
    return destination


def is_waited_for(place, callers=1):
    """The shim listens, and so many are connected that it has not accepted."""
    sockets = subprocess.run(["ss", "-xlH"], text=True, stdout=subprocess.PIPE, check=True).stdout
    for line in sockets.splitlines():
        fields = line.split()
        if fields[4] == os.path.join(place.a, "web", "shim.sock"):
            return int(fields[2]) >= callers
    return False


# ---- a shim died ----

def test_a_killed_shim(place):
    run(place)
    before = place.status("web")
    kill(before["shim_pid"])
    entry = listed(place)
    assert entry["state"] == "no shim" and entry["recover"].endswith("recover web"), entry
    result = place.ferry("status", "web")
    assert result.code == REFUSED and "recover" in result.err, result
    assert "a new shim has taken over" in recover(place).err
    after = place.status("web")
    assert after["vm_state"] == RUNNING and after["qemu_pid"] == before["qemu_pid"], after
    assert after["shim_pid"] != before["shim_pid"], after
    assert recover(place, "--json").json()["outcome"] == "nothing to do"
    place.must("stop", "web")
    assert os.listdir(place.a) == [], os.listdir(place.a)


def test_stop_without_a_shim(place):
    """`stop` starts a shim to ask its journal, and waits until that has found the VM."""
    run(place)
    kill(place.status("web")["shim_pid"])
    place.must("stop", "web")
    assert os.listdir(place.a) == [], os.listdir(place.a)


def test_asked_while_it_takes_over(place):
    """A new shim that does not know its VM yet answers nobody: no word that is not true."""
    run(place)
    before = place.status("web")
    os.kill(before["qemu_pid"], signal.SIGSTOP)
    try:
        kill(before["shim_pid"])
        taking_over = place.start("recover", "web")
        ferry.wait_for("a new shim", lambda: is_waited_for(place) or taking_over.poll() is not None)
        asking = place.start("status", "--json", "web")
        ferry.wait_for("both in the queue",
                       lambda: is_waited_for(place, 2) or asking.poll() is not None)
        assert asking.poll() is None and taking_over.poll() is None
    finally:
        os.kill(before["qemu_pid"], signal.SIGCONT)
    out, err = asking.communicate(timeout=ferry.LIMIT)
    assert asking.returncode == DONE, err
    assert json.loads(out)["vm_state"] == RUNNING, out
    _, err = taking_over.communicate(timeout=ferry.LIMIT)
    assert taking_over.returncode == DONE, err
    place.must("stop", "web")


def test_no_session(place):
    run(place)
    result = recover(place, "--to", place.b, code=NOT_FOUND)
    assert "has a migration session" in result.err, result
    place.must("stop", "web")


# ---- the caller died ----

def test_a_killed_caller(place):
    run(place)
    kill_in_the_copy(place, *SLOW)
    under_way = place.ferry("migrate", "web", "--to", place.b)
    assert under_way.code == REFUSED and "recover web" in under_way.err, under_way
    assert "--cancel" in recover(place, code=REFUSED).err
    result = recover(place, "--cancel", "--json", root=place.b)
    assert result.json()["outcome"] == "rolled back", result
    only_at(place, place.a, place.b)
    place.must("stop", "web")


def test_it_moved(place):
    """The shims go on: what is left is to close the session."""
    run(place)
    kill_in_the_copy(place, *QUICK)
    ferry.wait_for("the other side", lambda: place.status("web")["vm_state"] == "none")
    report = recover(place, "--json").json()
    assert report["outcome"] == "migrated" and report["blackout_ms"] > 0, report
    only_at(place, place.b, place.a)
    place.must("stop", "web", root=place.b)


def test_waiting_for_its_caller(place):
    run(place)
    kill_in_the_copy(place, *QUICK, "--handover", "caller")
    ferry.wait_for("the load", lambda: ferry.detail(place) == "S_READY")
    assert "--cancel" in recover(place, "--to", place.b, code=REFUSED).err
    recover(place, "--cancel")
    only_at(place, place.a, place.b)
    place.must("stop", "web")


# ---- shims died in the copy ----

def test_a_killed_destination_shim(place):
    run(place)
    mover = place.start("migrate", "web", "--to", place.b, *SLOW)
    ferry.wait_for("the copy", lambda: is_copying(place))
    os.kill(place.status("web", root=place.b)["shim_pid"], signal.SIGKILL)
    _, err = mover.communicate(timeout=ferry.LIMIT)
    assert mover.returncode == STAYED, (mover.returncode, err)
    only_at(place, place.a, place.b)
    place.must("stop", "web")


def test_killed_before_it_was_ready(place):
    """Its QEMU, which has received nothing, does not stay."""
    run(place)
    mover = place.start("migrate", "web", "--to", place.b, *SLOW)
    ferry.wait_for("the destination's QEMU",
                   lambda: os.path.exists(os.path.join(place.b, "web", "qemu.json")))
    with open(os.path.join(place.b, "web", "qemu.json"), encoding="utf-8") as record:
        qemu = json.load(record)["pid"]
    with open(os.path.join(place.b, "web", "shim.lock"), encoding="utf-8") as lock:
        os.kill(int(lock.read()), signal.SIGKILL)
    _, err = mover.communicate(timeout=ferry.LIMIT)
    assert mover.returncode == STAYED, (mover.returncode, err)
    only_at(place, place.a, place.b)
    ferry.wait_for("its QEMU's end", lambda: not os.path.exists(f"/proc/{qemu}/exe"))
    place.must("stop", "web")


def test_killed_in_the_copy(place, *which):
    """The caller and one or both shims: the guest goes on at the source."""
    run(place)
    roots = {"source": place.a, "destination": place.b}
    shims = [place.status("web")["shim_pid"]]
    kill_in_the_copy(place, *SLOW)
    shims = [place.status("web", root=roots[side])["shim_pid"] for side in which]
    qemu = place.status("web")["qemu_pid"]
    kill(*shims)
    result = recover(place, root=roots[which[-1]])
    assert "runs on host" in result.out, result
    assert only_at(place, place.a, place.b)["qemu_pid"] == qemu
    place.must("stop", "web")


def test_a_hung_destination_shim(place):
    """It answers nobody: the source goes on all the same, the person is told what to do, and the
    rest is settled later."""
    run(place)
    mover = place.start("migrate", "web", "--to", place.b, *SLOW)
    ferry.wait_for("the copy", lambda: is_copying(place))
    shim = place.status("web", root=place.b)["shim_pid"]
    os.kill(shim, signal.SIGSTOP)
    try:
        mover.send_signal(signal.SIGINT)
        ferry.wait_for("the rollback", lambda: not is_copying(place))
        assert place.status("web")["vm_state"] == RUNNING
        _, err = mover.communicate(timeout=ferry.LIMIT * 3)
    finally:
        os.kill(shim, signal.SIGCONT)
    assert mover.returncode == 130, (mover.returncode, err)
    assert "web runs at the source" in err and "not all was cleared away" in err, err
    assert f"(process {shim}) is stopped; `kill -CONT {shim}`" in err, err
    recover(place)
    only_at(place, place.a, place.b)
    place.must("stop", "web")


def test_three_times_ctrl_c(place):
    """The second is seen, the third ends the wait, and both say so."""
    run(place)
    mover = place.start("migrate", "web", "--to", place.b, *SLOW)
    ferry.wait_for("the copy", lambda: is_copying(place))
    shims = [place.status("web", root=root)["shim_pid"] for root in (place.a, place.b)]
    said = []
    for shim in shims:
        os.kill(shim, signal.SIGSTOP)
    try:
        for word in "cancelling", "once more gives up", "gave up waiting":
            mover.send_signal(signal.SIGINT)
            for line in mover.stderr:
                said.append(line)
                if word in line:
                    break
        said.append(mover.stderr.read())
        mover.communicate(timeout=ferry.LIMIT)
    finally:
        for shim in shims:
            os.kill(shim, signal.SIGCONT)
    assert mover.returncode == UNDECIDED, (mover.returncode, said)
    assert "recover web --to" in "".join(said), said
    recover(place, "--cancel")
    only_at(place, place.a, place.b)
    place.must("stop", "web")


# ---- shims died in the handover ----

def test_the_caller_brings_the_record(place):
    """The destination's shim dies before it hears GO. The caller starts it again and brings it the
    source's record: the guest goes on there."""
    mover, destination = hand_over(place)
    os.kill(destination["shim_pid"], signal.SIGKILL)
    _, err = mover.communicate(timeout=ferry.LIMIT * 2)
    assert mover.returncode == DONE and "had been handed over" in err, (mover.returncode, err)
    assert only_at(place, place.b, place.a)["qemu_pid"] == destination["qemu_pid"]
    place.must("stop", "web", root=place.b)


def test_undecided(place):
    """`ls` and `status` show it with the command that helps, and that command does."""
    destination = handed_over(place)
    entry = listed(place)
    assert entry["recover"] == f"ferry --root {place.a} recover web --to {place.b}", entry
    assert "undecided: ferry --root" in place.must("ls").out
    assert "recover web" in place.must("status", "web").out
    assert place.ferry("stop", "web").code == REFUSED
    assert "runs on host" in recover(place, root=place.b).out
    assert only_at(place, place.b, place.a)["qemu_pid"] == destination["qemu_pid"]
    place.must("stop", "web", root=place.b)


def test_both_shims_killed(place):
    destination = handed_over(place)
    kill(place.status("web")["shim_pid"])
    assert listed(place)["recover"].endswith(f"recover web --to {place.b}")
    recover(place)
    assert only_at(place, place.b, place.a)["qemu_pid"] == destination["qemu_pid"]
    place.must("stop", "web", root=place.b)


def test_source_ended(place):
    """Its shim and its QEMU, after it has handed over: the journal is enough."""
    destination = handed_over(place)
    source = place.status("web")
    kill(source["shim_pid"], source["qemu_pid"])
    refused = place.ferry("stop", "web")
    assert refused.code == REFUSED and "recover web" in refused.err, refused
    recover(place)
    assert only_at(place, place.b, place.a)["qemu_pid"] == destination["qemu_pid"]
    place.must("stop", "web", root=place.b)


def test_destination_ended(place):
    """Its shim and its QEMU, which never ran: it declines, and the source takes the guest back."""
    destination = handed_over(place)
    qemu = place.status("web")["qemu_pid"]
    kill(destination["qemu_pid"])
    recover(place)
    assert only_at(place, place.a, place.b)["qemu_pid"] == qemu
    place.must("stop", "web")


def test_both_ended(place):
    destination = handed_over(place)
    source = place.status("web")
    kill(source["shim_pid"], source["qemu_pid"], destination["qemu_pid"])
    result = recover(place, code=FAILED)
    assert "runs on neither side" in result.err, result


# ---- hosts ----

def after_a_boot(place, *arguments):
    """`ferry` as on a host that has booted anew: shims that it starts see another boot id."""
    boot_id = place.file("boot-id", str(uuid.uuid4()) + "\n")
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c",
         'mount --bind "$1" /proc/sys/kernel/random/boot_id && shift && exec "$@"', "sh", boot_id,
         place.program, *arguments],
        env=place.environment(), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, timeout=ferry.LIMIT * 3, check=False)
    return ferry.Result(result)


def test_destination_restarted(place):
    """Its host booted anew after the source had handed over: the guest may have run there, so the
    source keeps its copy and nobody runs it."""
    destination = handed_over(place)
    qemu = place.status("web")["qemu_pid"]
    kill(destination["qemu_pid"])
    result = after_a_boot(place, "recover", "web")
    assert result.code == UNDECIDED and "UNDECIDED" in result.err, result
    source = place.status("web")
    assert (source["vm_state"], source["qemu_pid"]) == ("paused", qemu), source
    assert "undecided" in place.must("ls").out
    grounds = "--fenced", "the host of b was switched off", "--reason", "a test"
    assert "nothing to force" not in recover(place, "--force", *grounds).err
    status = place.status("web")
    assert (status["vm_state"], status["qemu_pid"]) == (RUNNING, qemu), status
    with open(os.path.join(place.a, "web", "audit.log"), encoding="utf-8") as audit:
        assert "switched off" in audit.read()
    place.must("stop", "web")
    place.must("stop", "web", "--force", root=place.b)
    gone(place, place.a, place.b)


def test_source_restarted(place):
    """Its host booted anew: its journal still says that the guest is the destination's."""
    mover, destination = hand_over(place)
    mover.kill()
    mover.communicate()
    source = place.status("web")
    kill(source["shim_pid"], source["qemu_pid"])
    os.kill(destination["shim_pid"], signal.SIGCONT)
    ferry.wait_for("GO", lambda: place.status("web", root=place.b)["vm_state"] == RUNNING)
    result = after_a_boot(place, "recover", "web")
    assert result.code == DONE, result
    assert only_at(place, place.b, place.a)["qemu_pid"] == destination["qemu_pid"]
    place.must("stop", "web", root=place.b)


def test_another_host(place):
    """A host that has no part in the session is noticed, and its sandboxes are left alone."""
    run(place)
    kill_in_the_copy(place, *SLOW)
    other = os.path.join(place.folder, "c")
    place.must("run", "web", "--memory", "32", root=other)
    result = recover(place, "--to", other, "--cancel", code=REFUSED)
    assert "has no part in the session" in result.err and place.b in result.err, result
    assert place.status("web", root=other)["vm_state"] == RUNNING
    assert is_copying(place)
    place.must("stop", "web", root=other)
    recover(place, "--cancel")
    only_at(place, place.a, place.b)
    place.must("stop", "web")


def test_source_stopped_in_the_copy(place):
    """`stop --force` at the source: it runs nowhere, and nothing is left."""
    run(place)
    mover = place.start("migrate", "web", "--to", place.b, "--json", *SLOW)
    ferry.wait_for("the copy", lambda: is_copying(place))
    place.must("stop", "web", "--force")
    out, err = mover.communicate(timeout=ferry.LIMIT)
    assert mover.returncode == FAILED and "runs on neither side" in err, (mover.returncode, err)
    assert json.loads(out)["runs_at"] == "nowhere", out
    gone(place, place.a, place.b)


def test_source_stopped_and_forgotten(place):
    """The same without a caller; `recover` at either host then cleans up."""
    run(place)
    kill_in_the_copy(place, *SLOW)
    place.must("stop", "web", "--force")
    result = recover(place, "--to", place.a, root=place.b, code=FAILED)
    assert "runs on neither side" in result.err, result
    gone(place, place.a, place.b)


def test_source_stopped_when_all_was_sent(place):
    """The destination's copy may be the only one: it is kept, and the ways out are named."""
    run(place)
    kill_in_the_copy(place, *QUICK, "--handover", "caller")
    ferry.wait_for("the load", lambda: ferry.detail(place) == "S_READY")
    place.must("stop", "web", "--force")
    result = recover(place, root=place.b, code=UNDECIDED)
    assert "UNDECIDED" in result.err and f"--root {place.b} stop web --force" in result.err, result
    assert "undecided" in place.must("ls", root=place.b).out
    grounds = "--force", "--fenced", "the source was ended by hand", "--reason", "a test"
    refused = recover(place, *grounds, root=place.b, code=2)
    assert "stale" in refused.err, refused
    recover(place, *grounds, "--copy-may-be-stale", root=place.b)
    only_at(place, place.b, place.a)
    place.must("stop", "web", root=place.b)
    gone(place, place.a, place.b)


def test_no_force_while_the_other_side_answers(place):
    handed_over(place)
    grounds = "--force", "--fenced", "not at all", "--reason", "a test"
    result = recover(place, *grounds, code=REFUSED)
    assert "answers" in result.err, result
    recover(place)
    only_at(place, place.b, place.a)
    place.must("stop", "web", root=place.b)


def main():
    ferry.need_qemu()
    tests = [
        ("a killed shim", test_a_killed_shim),
        ("stop without a shim", test_stop_without_a_shim),
        ("asked while a shim takes over", test_asked_while_it_takes_over),
        ("no session", test_no_session),
        ("a killed caller", test_a_killed_caller),
        ("it moved without its caller", test_it_moved),
        ("it waits for its caller", test_waiting_for_its_caller),
        ("a killed destination shim", test_a_killed_destination_shim),
        ("a destination shim killed before it was ready", test_killed_before_it_was_ready),
        ("a hung destination shim", test_a_hung_destination_shim),
        ("three times Ctrl-C", test_three_times_ctrl_c),
        ("the caller brings the record", test_the_caller_brings_the_record),
        ("undecided", test_undecided),
        ("both shims killed in the handover", test_both_shims_killed),
        ("the source ended in the handover", test_source_ended),
        ("the destination ended in the handover", test_destination_ended),
        ("both ended in the handover", test_both_ended),
        ("another host", test_another_host),
        ("no force while the other side answers", test_no_force_while_the_other_side_answers),
    ] + ([] if os.geteuid() else [
        ("the destination's host restarted", test_destination_restarted),
        ("the source's host restarted", test_source_restarted),
    ]) + [
        ("source stopped in the copy", test_source_stopped_in_the_copy),
        ("source stopped without a caller", test_source_stopped_and_forgotten),
        ("source stopped when all was sent", test_source_stopped_when_all_was_sent),
    ] + [(f"{' and '.join(which)} killed in the copy",
          lambda place, which=which: test_killed_in_the_copy(place, *which))
         for which in (("source",), ("destination",), ("source", "destination"))]

    def in_a_place(test):
        with ferry.Place(sys.argv[1]) as place:
            test(place)

    only = os.environ.get("ONLY", "")
    ferry.tap([(name, lambda test=test: in_a_place(test)) for name, test in tests if only in name])


main()
