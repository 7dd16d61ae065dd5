// SPDX-License-Identifier: MIT

package main

import (
	"fmt"

	"google.golang.org/grpc/codes"
)

// abortAfterTransfer: the caller changes its mind when all is sent and loaded: the source runs again,
// tells the destination so, and the destination can then not be made to run its copy.
func abortAfterTransfer(t *run) {
	r, sid := t.r, t.session+"-aborted"

	t.prepareBoth(sid, tcpOptions())
	source, destination := t.source.watch(sid, "notifications"), t.destination.watch(sid, "notifications")
	t.giveSockets(sid)
	t.source.must(transfer(sid))
	t.destination.must(transfer(sid))
	source.wait("DONE/SUCCESS", isDone)
	destination.wait("DONE/SUCCESS", isDone)

	t.source.must(resume(sid))
	st := t.source.status()
	r.check(st.vm == vmRunning, "source: RESUME answers once the guest runs again", "RUNNING", st)
	source.waitAny("RECOVERY_DONE/SUCCESS", func(e event) bool { return e.is(recoveryDone, success) })
	destination.waitAny("the refusal", aborted)
	t.destination.expect("once the source ran again", resume(sid), codes.FailedPrecondition)
	t.destination.must(stop(sid))
	t.source.expect("at the owner", stop(sid), codes.FailedPrecondition)

	t.cleanupBoth(sid)
	s, d := source.waitEnd(), destination.waitEnd()
	source.checkEvents(s, true)
	destination.checkEvents(d, true)
	for _, e := range s {
		r.check(e.phase() <= offlineDone || e.is(phaseDone, success) || e.is(phaseFailed, cancelled) ||
			e.is(recoveryDone, success), fmt.Sprintf("source: %v belongs to a rollback", e),
			"a rollback, asked for", source.describe(s))
	}
	for _, e := range d {
		r.check(e.phase() <= offlineDone || e.is(phaseDone, success) || aborted(e),
			fmt.Sprintf("destination: %v belongs to a refusal", e), "a refusal", destination.describe(d))
	}
	t.source.mustRunAlone(t.destination)

	r.note("the source can still go")
	t.migrate(t.session + "-at-last")
}
