# SPDX-License-Identifier: MIT
"""A caller of a shim's, for what containerd itself does only by chance."""
import socket
import struct

import host
from pods import fields_of, message

REQUEST, RESPONSE = 1, 2


class Client:
    def __init__(self, path, service):
        self.service, self.last, self.answers = service, -1, {}
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(host.LIMIT)
        self.socket.connect(path)

    def begin(self, method, *fields):
        """The call's number: answers come in any order."""
        self.last += 2
        data = message((1, self.service), (2, method), (3, message(*fields)))
        self.socket.sendall(struct.pack(">IIBB", len(data), self.last, REQUEST, 0) + data)
        return self.last

    def read(self, size):
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            assert more, "the shim has gone"
            data += more
        return data

    def end(self, number):
        """(0, the answer's fields), or (code, message)"""
        while number not in self.answers:
            size, stream, kind, _ = struct.unpack(">IIBB", self.read(10))
            assert kind == RESPONSE, kind
            self.answers[stream] = fields_of(self.read(size))
        answer = self.answers.pop(number)
        status = fields_of(answer.get(1, b""))
        return (status[1], status.get(2)) if status.get(1) else (0, fields_of(answer.get(2, b"")))

    def call(self, method, *fields):
        code, answer = self.end(self.begin(method, *fields))
        assert code == 0, (method, code, answer)
        return answer
