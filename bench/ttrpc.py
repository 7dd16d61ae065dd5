# SPDX-License-Identifier: MIT
"""A ttrpc caller for a bench: unary calls, one at a time, over a unix socket.

As little of it as timing the shims' calls takes, so that the caller is not what is measured.
Messages are built and read by field number (proto/*.proto).
"""
import socket
import struct

HEADER = struct.Struct(">IIBB")  # length, stream, type, flags
REQUEST, RESPONSE = 1, 2
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class RpcError(Exception):
    pass


def varint(value):
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def message(fields):
    """{number: int, bytes, str} -> wire. Zero and empty are left out, as proto3 does."""
    out = b""
    for number, value in fields.items():
        if isinstance(value, str):
            value = value.encode()
        if isinstance(value, bytes) and value:
            out += varint(number << 3 | BYTES) + varint(len(value)) + value
        elif isinstance(value, int) and value:
            out += varint(number << 3 | VARINT) + varint(value)
    return out


def fixed32(number, value):
    return varint(number << 3 | FIXED32) + struct.pack("<I", value)


def read_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at


def fields_of(data):
    """Wire -> {number: last value}; bytes stay bytes."""
    found, at = {}, 0
    while at < len(data):
        tag, at = read_varint(data, at)
        kind = tag & 7
        if kind == VARINT:
            value, at = read_varint(data, at)
        else:
            n = {FIXED64: 8, FIXED32: 4}.get(kind)
            if n is None:
                n, at = read_varint(data, at)
            value, at = data[at:at + n], at + n
        found[tag >> 3] = value
    return found


class Caller:
    def __init__(self, path, timeout=60):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        self.sock.connect(path)
        self.stream = 1

    def read(self, n):
        data = b""
        while len(data) < n:
            more = self.sock.recv(n - len(data))
            if not more:
                raise RpcError("the shim closed the connection")
            data += more
        return data

    def call(self, service, method, payload=b""):
        """The response's fields."""
        request = message({1: service, 2: method, 3: payload})
        self.sock.sendall(HEADER.pack(len(request), self.stream, REQUEST, 0) + request)
        length, stream, kind, _ = HEADER.unpack(self.read(HEADER.size))
        response = fields_of(self.read(length))
        if stream != self.stream or kind != RESPONSE:
            raise RpcError(f"{method}: unexpected frame {kind} on stream {stream}")
        self.stream += 2
        status = fields_of(response.get(1, b""))
        if status.get(1):
            raise RpcError(f"{method}: code {status[1]}: {status.get(2, b'').decode()}")
        return fields_of(response.get(2, b""))

    def close(self):
        self.sock.close()
