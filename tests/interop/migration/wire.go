// SPDX-License-Identifier: MIT

package main

// What hcsshim's module has no types for: ferry's own messages (proto/socket.proto, proto/shim.proto),
// ferry's additions to hcsshim's, and what its first generation sent. Read and written by hand, with
// the field numbers that the contract gives them.

import (
	"fmt"

	"github.com/Microsoft/hcsshim/pkg/migration"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	protocolInfoMagic   = 0x46455252
	protocolInfoVersion = 1
)

func protocolInfoHead(magic uint32, version uint64) []byte {
	b := protowire.AppendTag(nil, 1, protowire.Fixed32Type)
	b = protowire.AppendFixed32(b, magic)
	b = protowire.AppendTag(b, 2, protowire.VarintType)
	return protowire.AppendVarint(b, version)
}

func protocolInfoProcess(pid, fd int) []byte {
	p := protowire.AppendTag(nil, 1, protowire.VarintType)
	p = protowire.AppendVarint(p, uint64(pid))
	p = protowire.AppendTag(p, 2, protowire.VarintType)
	p = protowire.AppendVarint(p, uint64(fd))

	b := protocolInfoHead(protocolInfoMagic, protocolInfoVersion)
	b = protowire.AppendTag(b, 3, protowire.BytesType)
	return protowire.AppendBytes(b, p)
}

func protocolInfoToken(token []byte) []byte {
	b := protocolInfoHead(protocolInfoMagic, protocolInfoVersion)
	b = protowire.AppendTag(b, 4, protowire.BytesType)
	return protowire.AppendBytes(b, token)
}

// withMaxBandwidth adds ferry's InitializeOptions.max_bandwidth (103), in bytes per second.
func withMaxBandwidth(o *migration.InitializeOptions, rate uint64) *migration.InitializeOptions {
	b := protowire.AppendTag(o.ProtoReflect().GetUnknown(), 103, protowire.VarintType)
	o.ProtoReflect().SetUnknown(protowire.AppendVarint(b, rate))
	return o
}

// firstGenerationImport has the exported state in field 2, as before the sandbox id moved there.
func firstGenerationImport(sessionID string, config *anypb.Any) (*migration.ImportSandboxRequest, error) {
	raw, err := proto.Marshal(config)
	if err != nil {
		return nil, err
	}
	req := &migration.ImportSandboxRequest{SessionID: sessionID}
	b := protowire.AppendTag(nil, 2, protowire.BytesType)
	req.ProtoReflect().SetUnknown(protowire.AppendBytes(b, raw))
	return req, nil
}

// field is one field of a message that has no Go type here.
type field struct {
	number protowire.Number
	varint uint64
	bytes  []byte
}

func parseFields(b []byte) ([]field, error) {
	var fields []field

	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		b = b[n:]

		f := field{number: number}
		switch kind {
		case protowire.VarintType:
			f.varint, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		b = b[n:]
		fields = append(fields, f)
	}
	return fields, nil
}

// ferry.shim.v1.VmState
type vmState uint64

const (
	vmNone vmState = iota
	vmStarting
	vmRunning
	vmPaused
	vmIncoming
	vmStopped
)

func (s vmState) String() string {
	names := []string{"NONE", "STARTING", "RUNNING", "PAUSED", "INCOMING", "STOPPED"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("VmState(%d)", uint64(s))
}

// shimStatus is what we read of ferry.shim.v1.StatusResponse.
type shimStatus struct {
	vm         vmState
	qemuPid    int
	exitReason string
	session    string // its id; empty without a session
	state      string
	detail     string
}

func (s shimStatus) String() string {
	return fmt.Sprintf("vm %v, qemu %d, exit_reason %q, session %q in %q (%s)", s.vm, s.qemuPid,
		s.exitReason, s.session, s.state, s.detail)
}

func parseStatus(b []byte) (shimStatus, error) {
	var s shimStatus

	fields, err := parseFields(b)
	if err != nil {
		return s, err
	}
	for _, f := range fields {
		switch f.number {
		case 4:
			s.vm = vmState(f.varint)
		case 5:
			s.qemuPid = int(f.varint)
		case 6:
			s.exitReason = string(f.bytes)
		case 12:
			session, err := parseFields(f.bytes)
			if err != nil {
				return s, err
			}
			for _, f := range session {
				switch f.number {
				case 1:
					s.session = string(f.bytes)
				case 3:
					s.state = string(f.bytes)
				case 4:
					s.detail = string(f.bytes)
				}
			}
		}
	}
	return s, nil
}

// transferEvent is a TransferSandboxResponse of the first generation.
type transferEvent struct {
	id        uint64
	event     string
	err       string
	hasStart  bool
	hasUpdate bool
}

func parseTransferEvent(b []byte) (transferEvent, error) {
	var e transferEvent

	fields, err := parseFields(b)
	if err != nil {
		return e, err
	}
	for _, f := range fields {
		switch f.number {
		case 1:
			e.id = f.varint
		case 2:
			e.event = string(f.bytes)
		case 3:
			e.err = string(f.bytes)
		case 4:
			e.hasStart = true
		case 5:
			e.hasUpdate = true
		}
	}
	return e, nil
}
