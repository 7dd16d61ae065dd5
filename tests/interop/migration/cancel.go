// SPDX-License-Identifier: MIT

package main

import (
	"fmt"

	"google.golang.org/grpc/codes"
)

// slowRate keeps a transfer under way until it is cancelled: even a guest of zeroes takes seconds.
const slowRate = 64 * 1024

// cancelAndSettle cancels on both sides, source first, and settles as the service says: the guest
// goes on at the source, the copy is dropped, and the session is forgotten.
// `linked`: the sides had a connection, so the destination may see it end before it hears of the cancel.
func (t *run) cancelAndSettle(sid string, source, destination *subscription, transferred, linked bool) {
	r := t.r

	t.source.must(cancel(sid))
	t.destination.must(cancel(sid))
	t.source.expect("a second time", cancel(sid), codes.OK)
	t.destination.expect("a second time", cancel(sid), codes.OK)

	failed := source.waitAny("FAILED/CANCELLED", func(e event) bool { return e.is(phaseFailed, cancelled) })
	source.checkEnd(failed, uint64(codes.Canceled), "cancelled")
	destination.waitAny("the cancel", func(e event) bool {
		return e.is(phaseDone, cancelled) || (linked && broken(e))
	})

	t.source.expect("while it still owns the guest", stop(sid), codes.FailedPrecondition)
	t.source.must(resume(sid))
	t.destination.must(stop(sid))
	t.source.expect("after Finalize", cancel(sid), codes.FailedPrecondition)

	t.cleanupBoth(sid)
	s, d := source.waitEnd(), destination.waitEnd()
	source.checkEvents(s, transferred)
	destination.checkEvents(d, transferred)

	n := map[string]int{}
	for _, e := range s {
		r.check(e.phase() <= offlineDone || e.is(phaseDone, success) || e.is(phaseFailed, cancelled) ||
			e.is(recoveryDone, success), fmt.Sprintf("source: %v belongs to a cancel", e),
			"no *_FAILED, no BLACKOUT_EXITED", source.describe(s))
		if e.phase() == phaseFailed {
			n["source"]++
		}
		if e.phase() == recoveryDone {
			n["recovery"]++
		}
	}
	for _, e := range d {
		r.check(e.phase() <= offlineDone || e.is(phaseDone, success) || e.is(phaseDone, cancelled) ||
			(linked && broken(e)), fmt.Sprintf("destination: %v belongs to a cancel", e),
			"no *_FAILED, no BLACKOUT_EXITED", destination.describe(d))
		if e.is(phaseDone, cancelled) || broken(e) {
			n["destination"]++
		}
	}
	r.check(n["source"] == 1, "source: FAILED came once", 1, source.describe(s))
	r.check(n["recovery"] == 1, "source: RECOVERY_DONE came once", 1, source.describe(s))
	r.check(n["destination"] == 1, "destination: its end came once", 1, destination.describe(d))
	t.source.mustRunAlone(t.destination)
}

// broken: how a destination may report a connection that ended: it cannot know yet that this is the
// source's cancel, or whose fault it is.
func broken(e event) bool {
	return aborted(e) || e.is(phaseFailed, targetFailed)
}

// aborted: how a destination may report that the source ran again, when the source tells it.
func aborted(e event) bool {
	return (e.phase() == phaseDone || e.phase() == phaseFailed) &&
		(e.state() == cancelled || e.state() == sourceFailed)
}

// cancelScenario: a cancel at three points, and after them a migration that succeeds, on the same
// two shims.
func cancelScenario(t *run) {
	t.r.note("cancel before the socket")
	sid := t.session + "-prepared"
	t.prepareBoth(sid, tcpOptions())
	source, destination := t.source.watch(sid, "notifications"), t.destination.watch(sid, "notifications")
	t.cancelAndSettle(sid, source, destination, false, false)

	t.r.note("cancel while TransferSandbox waits for the socket")
	sid = t.session + "-waiting"
	t.prepareBoth(sid, tcpOptions())
	source, destination = t.source.watch(sid, "notifications"), t.destination.watch(sid, "notifications")
	t.source.must(transfer(sid))
	t.destination.must(transfer(sid))
	t.cancelAndSettle(sid, source, destination, false, false)

	t.r.note("cancel while memory is copied")
	sid = t.session + "-copying"
	t.prepareBoth(sid, withMaxBandwidth(tcpOptions(), slowRate))
	source, destination = t.source.watch(sid, "notifications"), t.destination.watch(sid, "notifications")
	t.giveSockets(sid)
	t.source.must(transfer(sid))
	t.destination.must(transfer(sid))
	source.wait("TRANSFER_IN_PROGRESS", func(e event) bool { return e.is(inProgress, success) })
	t.r.note("source at the cancel: %v", t.source.status())
	t.r.note("destination at the cancel: %v", t.destination.status())
	t.cancelAndSettle(sid, source, destination, true, true)

	t.r.note("and now all the way")
	t.migrate(t.session + "-at-last")
}
