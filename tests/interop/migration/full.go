// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"time"

	"github.com/Microsoft/hcsshim/pkg/migration"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"
)

// callerPause is how long we leave the guest stopped between DONE and Finalize: the blackout that the
// destination reports cannot be shorter.
const callerPause = 200 * time.Millisecond

// run is what the scenarios share: the two sides and what the command line asks for.
type run struct {
	r                   *report
	source, destination *shim
	sandboxID           string
	session             string // the prefix of this run's session ids
	finalizeOrder       string
	fdWay               string
}

func tcpOptions() *migration.InitializeOptions {
	return &migration.InitializeOptions{MemoryTransport: migration.MemoryTransport_MEMORY_TRANSPORT_TCP}
}

// exportState calls the source and returns the state, which we never look into.
func (t *run) exportState(sid string, o *migration.InitializeOptions) *anypb.Any {
	ctx, done := callContext()
	defer done()

	resp, err := t.source.PrepareAndExportSandbox(ctx,
		&migration.PrepareAndExportSandboxRequest{SessionID: sid, InitOptions: o})
	if err != nil {
		t.r.fail("source: PrepareAndExportSandbox", "a state", err.Error())
	}
	config := resp.GetConfig()
	t.r.check(config.GetTypeUrl() == "type.googleapis.com/ferry.state.v1.SandboxState" && len(config.GetValue()) > 0,
		"source: PrepareAndExportSandbox returns a state", "a SandboxState",
		fmt.Sprintf("%d bytes of %q", len(config.GetValue()), config.GetTypeUrl()))
	return config
}

func (t *run) importRequest(sid string, config *anypb.Any) *migration.ImportSandboxRequest {
	return &migration.ImportSandboxRequest{SessionID: sid, SandboxID: t.sandboxID, Config: config}
}

// prepareBoth takes a session up to where both sides want their socket.
func (t *run) prepareBoth(sid string, o *migration.InitializeOptions) {
	config := t.exportState(sid, o)
	t.destination.must(importing(t.importRequest(sid, config)))
	t.destination.must(prepare(sid, nil))
}

// giveSockets makes the connection and gives each side its end.
func (t *run) giveSockets(sid string) {
	a, b, err := connectedPair()
	if err != nil {
		t.r.fail("a TCP connection on the loopback", "two ends", err.Error())
	}
	defer a.Close()
	defer b.Close()

	for _, x := range []struct {
		s *shim
		f interface{ Fd() uintptr }
	}{{t.source, a}, {t.destination, b}} {
		info, err := describe(int(x.f.Fd()), t.fdWay, x.s.fdSocket)
		if err != nil {
			t.r.fail(x.s.name+": the descriptor", "stored", err.Error())
		}
		x.s.must(socket(sid, info))
	}
}

func (t *run) cleanupBoth(sid string) {
	t.source.must(cleanup(sid))
	t.destination.must(cleanup(sid))
}

func isDone(e event) bool           { return e.is(phaseDone, success) }
func isBlackoutExited(e event) bool { return e.is(blackoutExited, success) }

// finalizeBoth hands the guest over. With HANDOVER_CALLER the first call of either side does it.
func (t *run) finalizeBoth(sid string) {
	runs := func(st shimStatus) bool { return st.vm == vmRunning }

	if t.finalizeOrder == "source-first" {
		t.source.must(stop(sid))
		st := t.destination.status()
		t.r.check(runs(st), "source: STOP answers only after the destination runs", "RUNNING", st)
		t.destination.must(resume(sid))
	} else {
		t.destination.must(resume(sid))
		st := t.destination.status()
		t.r.check(runs(st), "destination: RESUME answers once the guest runs here", "RUNNING", st)
		t.source.must(stop(sid))
	}
}

// migrate moves the guest as hcsshim's caller does, and checks all that can be seen of it.
func (t *run) migrate(sid string) {
	r := t.r

	t.prepareBoth(sid, tcpOptions())
	source := t.source.watch(sid, "notifications")
	destination := t.destination.watch(sid, "notifications")
	t.giveSockets(sid)

	begin := time.Now()
	t.source.must(transfer(sid))
	t.destination.must(transfer(sid))
	t.awaitDoneAndFinalize(sid, source, destination, begin)
	r.fact("total_ms", time.Since(begin).Milliseconds())
}

func (t *run) awaitDoneAndFinalize(sid string, source, destination *subscription, begin time.Time) {
	r := t.r

	source.wait("DONE/SUCCESS before Finalize", isDone)
	destination.wait("DONE/SUCCESS before Finalize", isDone)
	for _, s := range []*shim{t.source, t.destination} {
		st := s.status()
		r.check(st.vm != vmRunning, s.name+": the guest stands between DONE and Finalize", "not RUNNING", st)
	}

	stopped := time.Now()
	time.Sleep(callerPause)
	pause := time.Since(stopped)
	t.finalizeBoth(sid)

	exited := destination.wait("BLACKOUT_EXITED", isBlackoutExited)
	details := exited.GetNotification().GetBlackoutExited()
	blackout := time.Duration(details.GetBlackoutDurationMilliseconds()) * time.Millisecond
	most := exited.received.Sub(begin) + time.Second
	r.check(blackout >= pause-2*time.Millisecond && blackout <= most,
		"destination: the blackout is as long as we know it was", fmt.Sprintf("%v to %v", pause, most), blackout)
	r.check(details.GetBlackoutStopTimestamp() != nil, "destination: blackout_stop_timestamp is set", "a time", details)
	r.fact("blackout_ms", details.GetBlackoutDurationMilliseconds())

	/* as a caller that lost its connections would */
	lateSource := t.source.watch(sid, "late subscriber")
	lateDestination := t.destination.watch(sid, "late subscriber")
	lateSource.wait("DONE/SUCCESS again", isDone)
	lateDestination.wait("BLACKOUT_EXITED again", isBlackoutExited)

	t.cleanupBoth(sid)
	s, d := source.waitEnd(), destination.waitEnd()
	source.checkEvents(s, true)
	source.checkOrder(s, setupDone, blackoutStarted, offlineDone, phaseDone)
	source.checkFields(s)
	destination.checkFields(d)
	destination.checkEvents(d, true)
	destination.checkOrder(d, phaseDone, blackoutExited)
	lateSource.checkReplay(s, lateSource.waitEnd())
	lateDestination.checkReplay(d, lateDestination.waitEnd())

	t.source.expect("after Cleanup", subscribe(sid), codes.InvalidArgument)
	t.destination.expect("after Cleanup", subscribe(sid), codes.InvalidArgument)
	t.destination.mustRunAlone(t.source)
}

// full: one migration, start to end.
func full(t *run) {
	t.migrate(t.session + "-full")
}

// notificationsFirst: the order that hcsshim's migration.proto documents from v0.15.0 on: the caller
// subscribes on both sides before anything else, which reserves the session id there.
func notificationsFirst(t *run) {
	sid := t.session + "-subscribed"

	source := t.source.watch(sid, "notifications")
	destination := t.destination.watch(sid, "notifications")
	t.source.expect("of another session than the reserved", export(sid+"-other", tcpOptions()),
		codes.InvalidArgument, codes.FailedPrecondition)
	t.prepareBoth(sid, tcpOptions())
	t.giveSockets(sid)

	begin := time.Now()
	t.source.must(transfer(sid))
	t.destination.must(transfer(sid))
	t.awaitDoneAndFinalize(sid, source, destination, begin)
}
