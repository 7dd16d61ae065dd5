// SPDX-License-Identifier: MIT

package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// connectedPair makes one TCP connection over the loopback interface and returns its two ends.
func connectedPair() (source, destination *os.File, err error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()

	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()

	a, err := l.Accept()
	if err != nil {
		return nil, nil, err
	}
	defer a.Close()

	/* File duplicates: from here on these are our only copies */
	source, err = c.(*net.TCPConn).File()
	if err != nil {
		return nil, nil, err
	}
	destination, err = a.(*net.TCPConn).File()
	if err != nil {
		source.Close()
		return nil, nil, err
	}
	return source, destination, nil
}

// unconnectedSocket is a TCP socket that was never connected.
func unconnectedSocket() (*os.File, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "unconnected"), nil
}

// describe makes the protocol_info by which the shim behind `fdSocket` finds `fd`. It must stay open
// until the shim has answered CreateDuplicateSocket.
func describe(fd int, way, fdSocket string) ([]byte, error) {
	if way == "process" {
		return protocolInfoProcess(os.Getpid(), fd), nil
	}

	token := make([]byte, 16)
	if _, err := rand.Read(token); err != nil {
		return nil, err
	}
	if err := sendFd(fdSocket, token, fd); err != nil {
		return nil, fmt.Errorf("%s: %w", fdSocket, err)
	}
	return protocolInfoToken(token), nil
}

// sendFd speaks the fd socket's protocol: one message, the token's length and the token with the one
// descriptor attached; the answer is one byte, 0 for stored, then the end.
func sendFd(path string, token []byte, fd int) error {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(callTimeout)); err != nil {
		return err
	}

	data := append([]byte{byte(len(token))}, token...)
	n, _, err := c.WriteMsgUnix(data, syscall.UnixRights(fd), nil)
	if err != nil {
		return err
	}
	if n != len(data) {
		return fmt.Errorf("sent %d of %d bytes", n, len(data))
	}

	answer, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	if len(answer) != 1 {
		return fmt.Errorf("the answer is %d bytes, expected 1 and the end", len(answer))
	}
	if answer[0] != 0 {
		return fmt.Errorf("the descriptor was refused: %d", answer[0])
	}
	return nil
}
