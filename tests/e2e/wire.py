"""The messages of src/wire/msg.def in Python, read from that file so that they stay in step.

    with Session(state_dir + "/control.sock") as s:
        rows, done = s.ask("replica_list", unused=0)
"""
import os
import re
import socket
import struct

VERSION = 1
MAX = 65536
# enum fast_replica_state of src/wire/msg.h
STATES = ["starting", "ready", "unhealthy", "backoff", "stopping", "stopped"]
# enum fast_err_code of src/base/err.h
CODES = ["OK", "EINVAL", "ENOENT", "EEXIST", "ENOMEM", "ENOROOM", "EPERM", "EBUSY", "EIO", "EPROTO",
         "EPEER", "ETIME", "ENOSYS", "EBUG"]


def load(path=None):
    """Returns {message name: (number, [(type, field), ...])}."""
    here = os.path.dirname(os.path.abspath(__file__))
    path = path or os.path.join(here, "..", "..", "src", "wire", "msg.def")
    with open(path, encoding="utf-8") as f:
        text = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S).replace("\\\n", " ")
    fields = {name: re.findall(r"\bF\((\w+), (\w+)\)", body)
              for name, body in re.findall(r"#define FAST_MSG_(\w+)\(F\)(.*)", text)}
    numbers = re.findall(r"\bX\((\w+), (\d+)\)", text)
    return {name: (int(number), fields[name]) for name, number in numbers}


MESSAGES = load()
NAMES = {number: name for name, (number, _) in MESSAGES.items()}
FORMATS = {"u32": "<I", "u64": "<Q", "i64": "<q"}


class Message(dict):
    """A decoded message: its fields are items and attributes."""

    def __init__(self, name, msg_id, fields):
        super().__init__(fields)
        self.name, self.id = name, msg_id

    def __getattr__(self, field):
        try:
            return self[field]
        except KeyError:
            raise AttributeError(field) from None


def _bytes(data):
    data = data.encode() if isinstance(data, str) else data
    return struct.pack("<I", len(data)) + data + b"\0"


def encode(name, msg_id=0, /, **values):
    """A packet; fields that are not given are 0 or empty, unknown ones are an error."""
    number, fields = MESSAGES[name]
    unknown = set(values) - {field for _, field in fields}
    if unknown:
        raise ValueError(f"{name} has no field {unknown}")
    out = [struct.pack("<HHI", VERSION, number, msg_id)]
    for kind, field in fields:
        if kind in FORMATS:
            out.append(struct.pack(FORMATS[kind], values.get(field, 0)))
        elif kind == "str":
            out.append(_bytes(values.get(field, "")))
        else:
            items = values.get(field, [])
            out.append(_bytes(b"".join(i.encode() + b"\0" for i in items)))
    return b"".join(out)


def decode(packet):
    version, number, msg_id = struct.unpack_from("<HHI", packet)
    if version != VERSION:
        raise ValueError(f"version {version}")
    name, at, values = NAMES[number], 8, {}
    for kind, field in MESSAGES[name][1]:
        if kind in FORMATS:
            values[field] = struct.unpack_from(FORMATS[kind], packet, at)[0]
            at += struct.calcsize(FORMATS[kind])
        else:
            size = struct.unpack_from("<I", packet, at)[0]
            data = packet[at + 4:at + 4 + size].decode(errors="replace")
            values[field] = data if kind == "str" else data.split("\0")[:-1]
            at += 4 + size + 1
    if at != len(packet):
        raise ValueError(f"{name}: {len(packet) - at} bytes too many")
    return Message(name, msg_id, values)


# The hook of a build with AddressSanitizer comes into programs without it.
ASAN_OPTIONS = "verify_asan_link_order=0:detect_leaks=0"
ASAN_ENV = {"ASAN_OPTIONS": ASAN_OPTIONS}
ASAN = f"ASAN_OPTIONS={ASAN_OPTIONS}"


class Session:
    """A connection to a Unix SOCK_SEQPACKET socket of a node."""

    def __init__(self, path, program="test", hello=True, timeout=20):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(timeout)
        try:
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise
        self.last_id = 0
        self.told = []  # what came without having been asked for
        self.welcome = None
        if hello:
            self.send("ctl_hello", 1, version=VERSION, program=program)
            self.welcome = self.receive()
            self.last_id = 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, name, msg_id=0, /, **values):
        self.socket.send(encode(name, msg_id, **values))

    def send_raw(self, packet):
        self.socket.send(packet)

    def receive(self):
        packet = self.socket.recv(MAX)
        if not packet:
            raise EOFError("the node closed the connection")
        return decode(packet)

    def ask(self, name, /, **values):
        """Sends a request; returns its rows and its done."""
        if name == "replica_start" and ASAN not in values.get("env", []):
            values["env"] = [*values.get("env", []), ASAN]
        self.last_id += 1
        self.send(name, self.last_id, **values)
        rows = []
        while True:
            msg = self.receive()
            if msg.id != self.last_id:
                self.told.append(msg)
            elif msg.name == "done":
                return rows, msg
            else:
                rows.append(msg)

    def wait_row(self, wanted):
        """The next replica_row of a watch for which |wanted| is true; earlier ones are dropped."""
        while True:
            msg = self.told.pop(0) if self.told else self.receive()
            if msg.name == "replica_row" and wanted(msg):
                return msg
