// SPDX-License-Identifier: MIT

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func call(ctx context.Context, client *ttrpc.Client, method string, request []byte) ([]byte, error) {
	var reply wrapperspb.BytesValue
	err := client.Call(ctx, service, method, wrapperspb.Bytes(request), &reply)
	return reply.Value, err
}

func expect(ctx context.Context, client *ttrpc.Client, method, request, reply string) error {
	got, err := call(ctx, client, method, []byte(request))
	if err != nil {
		return err
	}
	if string(got) != reply {
		return fmt.Errorf("%q, expected %q", got, reply)
	}
	return nil
}

func expectStatus(err error, code codes.Code, message string) error {
	if s, ok := status.FromError(err); !ok || s.Code() != code || (message != "" && s.Message() != message) {
		return fmt.Errorf("%v, expected %v %q", err, code, message)
	}
	return nil
}

// A BytesValue in a Request or Response: one byte of key and four of length, twice.
const nested = 10

func requestRest(method string) int {
	return 2 + len(service) + 2 + len(method) + nested
}

func readAll(ctx context.Context, client *ttrpc.Client, method, request string) ([]string, error) {
	stream, err := client.NewStream(ctx, &ttrpc.StreamDesc{StreamingServer: true}, service, method,
		wrapperspb.Bytes([]byte(request)))
	if err != nil {
		return nil, err
	}
	var all []string
	for {
		var message wrapperspb.BytesValue
		if err := stream.RecvMsg(&message); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return all, err
		}
		all = append(all, string(message.Value))
	}
}

func expectCount(ctx context.Context, client *ttrpc.Client, n int) error {
	all, err := readAll(ctx, client, "Count", strconv.Itoa(n))
	if err != nil {
		return err
	}
	if len(all) != n {
		return fmt.Errorf("%d messages, expected %d", len(all), n)
	}
	for i, message := range all {
		if expected := numberText(i); message != expected {
			return fmt.Errorf("message %d: %q, expected %q", i, message, expected)
		}
	}
	return nil
}

// The first message of a count is an empty one.
func numberText(i int) string {
	if i == 0 {
		return ""
	}
	return strconv.Itoa(i)
}

func atOnce(n int, f func() error) error {
	var group sync.WaitGroup
	results := make(chan error, n)
	for i := 0; i < n; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			results <- f()
		}()
	}
	group.Wait()
	close(results)
	for err := range results {
		if err != nil {
			return err
		}
	}
	return nil
}

func callAll(address string) {
	conn, err := net.Dial("unix", address)
	if err != nil {
		check("connect", func(context.Context) error { return err })
		return
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()

	checkUnary(client)
	checkSizes(client)
	checkStreams(client)
	checkEnds(address, client)
}

func checkUnary(client *ttrpc.Client) {
	check("unary", func(ctx context.Context) error {
		return expect(ctx, client, "Echo", "hello", "hello")
	})
	check("empty", func(ctx context.Context) error {
		return expect(ctx, client, "Echo", "", "")
	})
	check("status", func(ctx context.Context) error {
		_, err := call(ctx, client, "Fail", nil)
		return expectStatus(err, codes.FailedPrecondition, "not now")
	})
	check("unknown method", func(ctx context.Context) error {
		_, err := call(ctx, client, "Nothing", nil)
		return expectStatus(err, codes.Unimplemented, "method Nothing")
	})
	check("unknown service", func(ctx context.Context) error {
		err := client.Call(ctx, "no.Such", "Echo", wrapperspb.Bytes(nil), &wrapperspb.BytesValue{})
		return expectStatus(err, codes.Unimplemented, "service no.Such")
	})
	check("metadata", func(ctx context.Context) error {
		return expect(ttrpc.WithMetadata(ctx, ttrpc.MD{"who": {"me"}}), client, "Who", "", "me")
	})
	check("no metadata", func(ctx context.Context) error {
		return expect(ctx, client, "Who", "", "")
	})
	check("deadline arrives", func(ctx context.Context) error {
		return expect(ctx, client, "HasDeadline", "", "yes")
	})
	check("no deadline", func(context.Context) error {
		return expect(context.Background(), client, "HasDeadline", "", "no")
	})
	check("deadline passes", func(ctx context.Context) error {
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		_, err := call(short, client, "Hold", nil)
		if !errors.Is(err, context.DeadlineExceeded) {
			return expectStatus(err, codes.DeadlineExceeded, "")
		}
		return nil
	})
	check("many at once", func(ctx context.Context) error {
		return atOnce(64, func() error {
			for i := 0; i < 100; i++ {
				if err := expect(ctx, client, "Echo", strconv.Itoa(i), strconv.Itoa(i)); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func checkSizes(client *ttrpc.Client) {
	largest := messageMax - requestRest("Sink")
	// A deadline would make the request longer.
	check("largest request", func(context.Context) error {
		return expect(context.Background(), client, "Sink", string(bytes.Repeat([]byte("x"), largest)), strconv.Itoa(largest+nested/2))
	})
	check("request too large", func(context.Context) error {
		_, err := call(context.Background(), client, "Sink", bytes.Repeat([]byte("x"), largest+1))
		return expectStatus(err, codes.ResourceExhausted, "")
	})
	check("largest reply", func(ctx context.Context) error {
		got, err := call(ctx, client, "Size", []byte(strconv.Itoa(messageMax-nested)))
		if err == nil && len(got) != messageMax-nested {
			err = fmt.Errorf("%d bytes", len(got))
		}
		return err
	})
	check("reply too large", func(ctx context.Context) error {
		_, err := call(ctx, client, "Size", []byte(strconv.Itoa(messageMax-nested+1)))
		return expectStatus(err, codes.ResourceExhausted, "")
	})
	check("and the connection lives", func(ctx context.Context) error {
		return expect(ctx, client, "Echo", "x", "x")
	})
}

func checkStreams(client *ttrpc.Client) {
	check("stream of nothing", func(ctx context.Context) error { return expectCount(ctx, client, 0) })
	check("stream of an empty message", func(ctx context.Context) error { return expectCount(ctx, client, 1) })
	check("stream", func(ctx context.Context) error { return expectCount(ctx, client, 100000) })
	check("streams at once", func(ctx context.Context) error {
		return atOnce(8, func() error { return expectCount(ctx, client, 5000) })
	})
	check("stream that fails", func(ctx context.Context) error {
		all, err := readAll(ctx, client, "CountFail", "")
		if len(all) != 1 {
			return fmt.Errorf("%d messages and %v", len(all), err)
		}
		return expectStatus(err, codes.Aborted, "enough")
	})
}

func checkEnds(address string, client *ttrpc.Client) {
	check("leaving with calls under way", func(ctx context.Context) error {
		conn, err := net.Dial("unix", address)
		if err != nil {
			return err
		}
		other := ttrpc.NewClient(conn)
		result := make(chan error)
		go func() {
			_, err := call(ctx, other, "Hold", nil)
			result <- err
		}()
		if err := expect(ctx, other, "Echo", "x", "x"); err != nil {
			return err
		}
		other.Close()
		if err := <-result; !errors.Is(err, ttrpc.ErrClosed) {
			return fmt.Errorf("%v, expected %v", err, ttrpc.ErrClosed)
		}
		return expect(ctx, client, "Echo", "x", "x")
	})
}
