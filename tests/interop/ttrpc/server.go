// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"net"
	"strconv"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func unary(f func(ctx context.Context, request []byte) ([]byte, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(interface{}) error) (interface{}, error) {
		var request wrapperspb.BytesValue
		if err := unmarshal(&request); err != nil {
			return nil, err
		}
		reply, err := f(ctx, request.Value)
		if err != nil {
			return nil, err
		}
		return wrapperspb.Bytes(reply), nil
	}
}

func stream(f func(request []byte, send func(string) error) error) ttrpc.Stream {
	return ttrpc.Stream{
		StreamingServer: true,
		Handler: func(ctx context.Context, s ttrpc.StreamServer) (interface{}, error) {
			var request wrapperspb.BytesValue
			if err := s.RecvMsg(&request); err != nil {
				return nil, err
			}
			return nil, f(request.Value, func(message string) error {
				return s.SendMsg(wrapperspb.Bytes([]byte(message)))
			})
		},
	}
}

func who(ctx context.Context, _ []byte) ([]byte, error) {
	value, _ := ttrpc.GetMetadataValue(ctx, "who")
	return []byte(value), nil
}

func hasDeadline(ctx context.Context, _ []byte) ([]byte, error) {
	if _, ok := ctx.Deadline(); ok {
		return []byte("yes"), nil
	}
	return []byte("no"), nil
}

func hold(ctx context.Context, _ []byte) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func size(_ context.Context, request []byte) ([]byte, error) {
	n, err := strconv.Atoi(string(request))
	if err != nil {
		return nil, err
	}
	return make([]byte, n), nil
}

func count(request []byte, send func(string) error) error {
	n, err := strconv.Atoi(string(request))
	for i := 0; i < n && err == nil; i++ {
		err = send(numberText(i))
	}
	return err
}

func countFail(_ []byte, send func(string) error) error {
	if err := send("one"); err != nil {
		return err
	}
	return status.Error(codes.Aborted, "enough")
}

func serve(address string) (func(), error) {
	server, err := ttrpc.NewServer()
	if err != nil {
		return nil, err
	}
	server.RegisterService(service, &ttrpc.ServiceDesc{
		Methods: map[string]ttrpc.Method{
			"Echo": unary(func(_ context.Context, request []byte) ([]byte, error) { return request, nil }),
			"Fail": unary(func(context.Context, []byte) ([]byte, error) {
				return nil, status.Error(codes.FailedPrecondition, "not now")
			}),
			"Who":         unary(who),
			"HasDeadline": unary(hasDeadline),
			"Hold":        unary(hold),
			"Size":        unary(size),
		},
		Streams: map[string]ttrpc.Stream{"Count": stream(count), "CountFail": stream(countFail)},
	})
	listener, err := net.Listen("unix", address)
	if err != nil {
		return nil, err
	}
	go server.Serve(context.Background(), listener)
	return func() { server.Close() }, nil
}
