// SPDX-License-Identifier: MIT

// containerd's own ttrpc against libttrpc: main SERVER CLIENT runs a Go client on the C server, then
// the C client on a Go server, and prints TAP. Both servers offer the same service, interop.Test,
// whose messages are google.protobuf.BytesValue.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const (
	service    = "interop.Test"
	messageMax = 4194304
	// Far away: it only ends what hangs.
	patience = 60 * time.Second
)

var nTests, nFailed int

func check(name string, f func(ctx context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	nTests++
	if err := f(ctx); err != nil {
		nFailed++
		fmt.Printf("not ok %d - %s # %v\n", nTests, name, err)
		return
	}
	fmt.Printf("ok %d - %s\n", nTests, name)
}

// The C server inherits the listening socket as descriptor 3 and ends with its standard input.
func withCServer(path, dir string, f func(address string)) error {
	address := filepath.Join(dir, "c.sock")
	listener, err := net.Listen("unix", address)
	if err != nil {
		return err
	}
	file, err := listener.(*net.UnixListener).File()
	if err != nil {
		return err
	}
	command := exec.Command(path)
	command.Stderr = os.Stderr
	command.ExtraFiles = []*os.File{file}
	stdin, err := command.StdinPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return err
	}
	file.Close()
	f(address)
	stdin.Close()
	return command.Wait()
}

func withGoServer(path, dir string) error {
	address := filepath.Join(dir, "go.sock")
	stop, err := serve(address)
	if err != nil {
		return err
	}
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	command := exec.CommandContext(ctx, path, address)
	command.Stdout, command.Stderr = os.Stderr, os.Stderr
	return command.Run()
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: main SERVER CLIENT")
		os.Exit(2)
	}
	dir, err := os.MkdirTemp("/tmp", "ttrpc-interop-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer os.RemoveAll(dir)
	err = withCServer(os.Args[1], dir, callAll)
	check("the C server ends well", func(context.Context) error { return err })
	check("the C client on a Go server", func(context.Context) error { return withGoServer(os.Args[2], dir) })
	fmt.Printf("1..%d\n", nTests)
	if nFailed > 0 {
		os.RemoveAll(dir)
		os.Exit(1)
	}
}
