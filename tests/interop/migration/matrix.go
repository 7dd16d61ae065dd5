// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"os"

	"github.com/Microsoft/hcsshim/pkg/migration"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	ia = codes.InvalidArgument
	fp = codes.FailedPrecondition
	ae = codes.AlreadyExists
)

const unspecified = migration.FinalizeAction_FINALIZE_ACTION_UNSPECIFIED

// session is every call that names one, but Cleanup; `info` is a protocol_info that would be good.
func sessionCalls(sid string, info []byte) []call {
	return append(unsubscribedCalls(sid, info), subscribe(sid))
}

// unsubscribedCalls leaves out what would reserve the id of a session that has not begun.
func unsubscribedCalls(sid string, info []byte) []call {
	return []call{prepare(sid, nil), socket(sid, info), transfer(sid), stop(sid), resume(sid), cancel(sid)}
}

// matrixLight walks both sides through a session and makes, at each state, the calls that do not
// belong there. None may change anything: the session then goes through to its end.
func matrixLight(t *run) {
	r := t.r
	both := []*shim{t.source, t.destination}
	sid := t.session + "-matrix"

	a, b, err := connectedPair()
	if err != nil {
		r.fail("a TCP connection on the loopback", "two ends", err.Error())
	}
	defer a.Close()
	defer b.Close()
	info := protocolInfoProcess(os.Getpid(), int(a.Fd()))

	when := "with no session"
	for _, s := range both {
		for _, c := range unsubscribedCalls(sid, info) {
			s.expect(when, c, ia)
		}
		s.expect(when, finalize(sid, unspecified), ia)
		s.expect(when, finalize(sid, 77), ia)
		s.expect(when, cleanup(sid), codes.OK)
		t.emptySession(s, info)
	}
	t.source.expect("without a transport", export(sid, &migration.InitializeOptions{}), ia)
	t.source.expect("with an unknown transport", export(sid, &migration.InitializeOptions{MemoryTransport: 9}), ia)
	t.badImports(sid)

	config := t.exportState(sid, tcpOptions())
	when = "of an exported source"
	t.source.expect(when, export(sid, tcpOptions()), fp)
	t.source.expect(when, export(sid+"x", tcpOptions()), fp)
	t.source.expect(when, prepare(sid, nil), fp)
	t.inSession(t.source, when, sid, config, info)
	t.early(t.source, when, sid)

	t.destination.must(importing(t.importRequest(sid, config)))
	when = "of an imported destination"
	t.inSession(t.destination, when, sid, config, info)
	t.destination.expect(when, export(sid, tcpOptions()), fp)
	t.destination.expect(when, socket(sid, info), fp)
	t.destination.expect(when, transfer(sid), fp)
	t.early(t.destination, when, sid)

	t.destination.must(prepare(sid, nil))
	when = "of a prepared destination"
	t.destination.expect(when, prepare(sid, nil), fp)
	t.inSession(t.destination, when, sid, config, info)
	t.early(t.destination, when, sid)
	for _, s := range both {
		t.badSockets(s, sid)
	}

	t.giveSockets(sid)
	when = "with its socket"
	for _, s := range both {
		s.expect(when, socket(sid, info), ae)
		s.expect(when, prepare(sid, nil), fp)
		t.inSession(s, when, sid, config, info)
		t.early(s, when, sid)
	}

	source, destination := t.source.watch(sid, "notifications"), t.destination.watch(sid, "notifications")
	t.source.must(transfer(sid))
	when = "of a source that waits for the destination"
	t.source.expect(when, transfer(sid), codes.OK)
	t.source.expect(when, socket(sid, info), ae)
	t.source.expect(when, export(sid, tcpOptions()), fp)
	t.early(t.source, when, sid)

	t.destination.must(transfer(sid))
	source.wait("DONE/SUCCESS", isDone)
	destination.wait("DONE/SUCCESS", isDone)
	when = "with the transfer completed"
	for _, s := range both {
		s.expect(when, transfer(sid), codes.OK)
		s.expect(when, socket(sid, info), ae)
		s.expect(when, prepare(sid, nil), fp)
		s.expect(when, finalize(sid, unspecified), ia)
		s.expect(when, finalize(sid, 77), ia)
		t.inSession(s, when, sid, config, info)
	}

	t.finalizeBoth(sid)
	when = "of a finalized session"
	t.source.expect(when, stop(sid), codes.OK)
	t.destination.expect(when, resume(sid), codes.OK)
	for _, s := range both {
		s.expect(when, transfer(sid), fp)
		/* upstream keeps its socket to the end; ours takes one after a break */
		s.expect(when, socket(sid, info), ae, fp, codes.OK)
		s.expect(when, prepare(sid, nil), fp)
		s.expect(when, cancel(sid), fp)
		s.expect(when, finalize(sid, unspecified), ia)
		t.inSession(s, when, sid, config, info)
	}
	t.destination.expect("of the guest's only copy", stop(sid), fp)

	t.cleanupBoth(sid)
	when = "after Cleanup"
	for _, s := range both {
		for _, c := range sessionCalls(sid, info) {
			if c.name == socket(sid, info).name {
				s.expect(when, c, codes.OK, fp) /* its tombstone answers, on a connection that is open */
			} else {
				s.expect(when, c, ia)
			}
		}
		s.expect(when, cleanup(sid), codes.OK)
	}
	t.destination.expect("of a session that ended here", importing(t.importRequest(sid, config)), fp, ae)

	s, d := source.waitEnd(), destination.waitEnd()
	source.checkEvents(s, true)
	destination.checkEvents(d, true)
	source.checkOrder(s, setupDone, blackoutStarted, offlineDone, phaseDone)
	destination.checkOrder(d, phaseDone, blackoutExited)
	t.destination.mustRunAlone(t.source)
}

// emptySession: no call takes an empty session id.
func (t *run) emptySession(s *shim, info []byte) {
	calls := append(sessionCalls("", info), cleanup(""), export("", tcpOptions()),
		importing(t.importRequest("", &anypb.Any{})))
	for _, c := range calls {
		s.expect("with an empty session id", c, ia)
	}
}

// badImports: a state that is not one is refused, and the destination stays empty.
func (t *run) badImports(sid string) {
	url := "type.googleapis.com/ferry.state.v1.SandboxState"

	t.destination.expect("without a state", importing(t.importRequest(sid, nil)), ia)
	t.destination.expect("of another type", importing(t.importRequest(sid,
		&anypb.Any{TypeUrl: "type.microsoft.com/hcsshim.controller.migration.save.v1.Payload"})), ia)
	t.destination.expect("of an empty state", importing(t.importRequest(sid, &anypb.Any{TypeUrl: url})), ia)
	t.destination.expect("of bytes that are no message", importing(t.importRequest(sid,
		&anypb.Any{TypeUrl: url, Value: []byte{0xff, 0xff, 0xff}})), ia)
	st := t.destination.status()
	t.r.check(st.session == "" && st.vm == vmNone, "destination: it is as it was", "no session, no VM", st)
}

// inSession: what any state of a session answers to another session id, and to a second beginning.
func (t *run) inSession(s *shim, when, sid string, config *anypb.Any, info []byte) {
	for _, c := range append(sessionCalls(sid+"-wrong", info), cleanup(sid+"-wrong")) {
		s.expect(when+", with a wrong session id", c, ia)
	}
	s.expect(when, importing(t.importRequest(sid, config)), fp)
	s.expect(when, export(sid, tcpOptions()), fp)
}

// early: Finalize before there is anything to decide.
func (t *run) early(s *shim, when, sid string) {
	s.expect(when, stop(sid), fp)
	s.expect(when, resume(sid), fp)
	s.expect(when, finalize(sid, unspecified), ia)
}

// badSockets: a refused descriptor leaves the state as it was, and the next one is taken.
func (t *run) badSockets(s *shim, sid string) {
	info := protocolInfoProcess(1, 1)
	for what, bad := range map[string][]byte{
		"of no bytes":           nil,
		"of truncated bytes":    info[:len(info)-1],
		"of a wrong magic":      append(protocolInfoHead(0x12345678, 1), info[7:]...),
		"of an unknown version": append(protocolInfoHead(protocolInfoMagic, 9), info[7:]...),
		"of no source":          protocolInfoHead(protocolInfoMagic, protocolInfoVersion),
		"of an empty token":     protocolInfoToken(nil),
		"of a too long token":   protocolInfoToken(make([]byte, 65)),
	} {
		s.expect(what, socket(sid, bad), ia)
	}

	unconnected, err := unconnectedSocket()
	if err != nil {
		t.r.fail("a socket", "one", err.Error())
	}
	defer unconnected.Close()
	file, err := os.Open("/dev/null")
	if err != nil {
		t.r.fail("/dev/null", "a file", err.Error())
	}
	defer file.Close()
	for what, f := range map[string]*os.File{"of a socket without a peer": unconnected, "of no socket": file} {
		bad, err := describe(int(f.Fd()), t.fdWay, s.fdSocket)
		if err != nil {
			t.r.fail(fmt.Sprintf("%s: the descriptor %s", s.name, what), "stored", err.Error())
		}
		s.expect(what, socket(sid, bad), fp)
	}
}
