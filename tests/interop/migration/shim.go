// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/Microsoft/hcsshim/pkg/migration"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

const (
	// callTimeout bounds one call, and waitTimeout what a transfer needs: neither is a measure of
	// speed, both are far over what a slow, busy machine takes.
	callTimeout = 60 * time.Second
	waitTimeout = 180 * time.Second
)

// shim is one side: hcsshim's client on one connection, and ferry's own service beside it.
type shim struct {
	r        *report
	name     string
	origin   migration.Origin
	path     string
	fdSocket string
	conn     *ttrpc.Client
	migration.MigrationClient
}

func dialShim(r *report, name string, origin migration.Origin, path, fdSocket string) (*shim, error) {
	c, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	s := &shim{r: r, name: name, origin: origin, path: path, fdSocket: fdSocket}
	return s.over(c), nil
}

// over is the same side over that connection.
func (s *shim) over(c net.Conn) *shim {
	conn := ttrpc.NewClient(c)
	return &shim{r: s.r, name: s.name, origin: s.origin, path: s.path, fdSocket: s.fdSocket, conn: conn,
		MigrationClient: migration.NewMigrationClient(conn)}
}

func callContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), callTimeout)
}

// call is one RPC of a side, without its side.
type call struct {
	name string
	do   func(context.Context, *shim) error
}

func export(sid string, o *migration.InitializeOptions) call {
	return call{"PrepareAndExportSandbox", func(ctx context.Context, s *shim) error {
		_, err := s.PrepareAndExportSandbox(ctx,
			&migration.PrepareAndExportSandboxRequest{SessionID: sid, InitOptions: o})
		return err
	}}
}

func importing(req *migration.ImportSandboxRequest) call {
	return call{"ImportSandbox", func(ctx context.Context, s *shim) error {
		_, err := s.ImportSandbox(ctx, req)
		return err
	}}
}

func prepare(sid string, o *migration.InitializeOptions) call {
	return call{"PrepareSandbox", func(ctx context.Context, s *shim) error {
		_, err := s.PrepareSandbox(ctx,
			&migration.PrepareSandboxRequest{SessionID: sid, InitOptions: o})
		return err
	}}
}

func socket(sid string, info []byte) call {
	return call{"CreateDuplicateSocket", func(ctx context.Context, s *shim) error {
		_, err := s.CreateDuplicateSocket(ctx,
			&migration.CreateDuplicateSocketRequest{SessionID: sid, ProtocolInfo: info})
		return err
	}}
}

func transfer(sid string) call {
	return call{"TransferSandbox", func(ctx context.Context, s *shim) error {
		_, err := s.TransferSandbox(ctx, &migration.TransferSandboxRequest{SessionID: sid})
		return err
	}}
}

func finalize(sid string, action migration.FinalizeAction) call {
	name := "FinalizeSandbox(" + strings.TrimPrefix(action.String(), "FINALIZE_ACTION_") + ")"
	return call{name, func(ctx context.Context, s *shim) error {
		_, err := s.FinalizeSandbox(ctx,
			&migration.FinalizeSandboxRequest{SessionID: sid, Action: action})
		return err
	}}
}

func stop(sid string) call   { return finalize(sid, migration.FinalizeAction_FINALIZE_ACTION_STOP) }
func resume(sid string) call { return finalize(sid, migration.FinalizeAction_FINALIZE_ACTION_RESUME) }

func cancel(sid string) call {
	return call{"Cancel", func(ctx context.Context, s *shim) error {
		_, err := s.Cancel(ctx, &migration.CancelRequest{SessionID: sid})
		return err
	}}
}

func cleanup(sid string) call {
	return call{"Cleanup", func(ctx context.Context, s *shim) error {
		_, err := s.Cleanup(ctx, &migration.CleanupRequest{SessionID: sid})
		return err
	}}
}

// subscribe asks for the stream and for its first answer only: with a session the stream stays open,
// so that "no error within the time" is not asked here; use it where an error is due.
func subscribe(sid string) call {
	return call{"Notifications", func(ctx context.Context, s *shim) error {
		stream, err := s.Notifications(ctx, &migration.NotificationsRequest{SessionID: sid})
		if err != nil {
			return err
		}
		_, err = stream.Recv()
		return err
	}}
}

// expect makes the call and demands one of the codes.
func (s *shim) expect(when string, c call, wanted ...codes.Code) {
	ctx, done := callContext()
	defer done()

	err := c.do(ctx, s)
	got := status.Code(err)
	for _, w := range wanted {
		if w == got {
			s.r.ok("%s: %s %s: %v", s.name, c.name, when, got)
			return
		}
	}
	text := got.String()
	if err != nil {
		text = err.Error()
	}
	s.r.fail(fmt.Sprintf("%s: %s %s", s.name, c.name, when), fmt.Sprint(wanted), text)
}

func (s *shim) must(c call) { s.expect("succeeds", c, codes.OK) }

// fetchStatus calls ferry.shim.v1.Shim/Status. hcsshim's module has no type for it: an empty message
// keeps what it does not know.
func (s *shim) fetchStatus(ctx context.Context) (shimStatus, error) {
	var resp emptypb.Empty

	if err := s.conn.Call(ctx, "ferry.shim.v1.Shim", "Status", &emptypb.Empty{}, &resp); err != nil {
		return shimStatus{}, err
	}
	return parseStatus(resp.ProtoReflect().GetUnknown())
}

func (s *shim) status() shimStatus {
	ctx, done := callContext()
	defer done()

	st, err := s.fetchStatus(ctx)
	if err != nil {
		s.r.fail(s.name+": Status", "an answer", err.Error())
	}
	return st
}

// waitStatus polls until the status is as wanted.
func (s *shim) waitStatus(what string, wanted func(shimStatus) bool) {
	var st shimStatus

	for deadline := time.Now().Add(waitTimeout); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		st = s.status()
		if wanted(st) {
			s.r.ok("%s: %s", s.name, what)
			return
		}
	}
	s.r.fail(s.name+": "+what, what, st.String())
}

// mustRunAlone checks that of the two sides exactly this one has a guest that runs, and that its
// QEMU is a process. The other may still be ending its own.
func (s *shim) mustRunAlone(other *shim) {
	s.waitStatus("the guest runs here", func(st shimStatus) bool { return st.vm == vmRunning })
	pid := s.status().qemuPid
	err := syscall.Kill(pid, 0)
	s.r.check(pid > 1 && err == nil, s.name+": its QEMU is alive", "a process", fmt.Sprintf("pid %d: %v", pid, err))

	st := other.status()
	s.r.check(st.vm != vmRunning, other.name+": the guest does not run here", "not RUNNING", st)
	other.waitStatus("no QEMU is left", func(st shimStatus) bool {
		return st.vm == vmNone || st.vm == vmStopped
	})
}
