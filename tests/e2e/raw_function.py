#!/usr/bin/env python3
"""A function that tells what it was sent, byte by byte: every request is answered with its own bytes, as
they arrived, so that a test can see how the gateway frames what it passes on. It reads exactly what the
framing says and nothing else; a websocket echoes in capitals until "bye"; /seen answers how many requests came before it.
A websocket to /when/FILE is not read before there is such a file, and then to its end, which is answered with how
many bytes came.
The paths of |odd| are answered so, and then nothing more comes, or with /cut the end."""
import os
import socket
import threading
import time

seen = 0
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
odd = {b"/head": CHUNKED, b"/bad": CHUNKED + b"zz\r\nhello\r\n", b"/bad-second": CHUNKED + b"5\r\nhello\r\nzz\r\n",
       b"/cut": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
       b"/named": b"HTTP/1.1 200 OK\r\nConnection: Date, Content-Type\r\nDate: x\r\nContent-Type: a/b\r\n"
                  b"Content-Length: 0\r\n\r\n"}


def take(sock, got, want):
    """Reads until |want| is satisfied with what there is; what is not there any more ends the thread."""
    while not want(got):
        part = sock.recv(65536)
        if not part:
            raise EOFError
        got += part
    return got


def chunks_end(rest):
    """Where the last chunk of a body ends, None while it has not come."""
    at = 0
    while b"\r\n" in rest[at:]:
        line = rest.index(b"\r\n", at)
        size = int(rest[at:line], 16)
        at = line + 2 + size + 2
        if size == 0:
            return at if len(rest) >= at else None
        if len(rest) < at:
            return None
    return None


def serve(sock):
    global seen
    got = b""
    try:
        while True:
            got = take(sock, got, lambda g: b"\r\n\r\n" in g)
            end = got.index(b"\r\n\r\n") + 4
            fields = [line.partition(b":") for line in got[:end].split(b"\r\n")[1:] if line]
            named = {name.lower(): value.strip() for name, _, value in fields}
            if named.get(b"transfer-encoding") == b"chunked":
                got = take(sock, got, lambda g, e=end: chunks_end(g[e:]) is not None)
                end += chunks_end(got[end:])
            else:
                end += int(named.get(b"content-length", b"0"))
                got = take(sock, got, lambda g, e=end: len(g) >= e)
            if named.get(b"upgrade") == b"websocket":
                sized = b"Content-Length: 0\r\n" if b" /sized " in got[:end] else b""  # which means nothing here
                sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + sized
                             + b"Sec-WebSocket-Accept: yes\r\n\r\n" + b"hello ")
                path, got = got.split(b" ")[1], got[end:]
                if path.startswith(b"/when/"):
                    while not os.path.exists(path[5:]):
                        time.sleep(0.01)
                    count = len(got)
                    while part := sock.recv(4096):
                        count += len(part)
                    sock.sendall(b"%d bytes" % count)
                    sock.close()
                    return
                while True:  # what comes goes back in capitals
                    sock.sendall(got.upper())
                    got = sock.recv(65536)
                    if not got or got == b"bye":
                        sock.close()
                        return
            path = got.split(b" ")[1]
            if path in odd:
                sock.sendall(odd[path])
                while path != b"/cut" and sock.recv(65536):
                    pass
                sock.close()
                return
            body = str(seen).encode() if b" /seen " in got[:end] else got[:end]
            seen += 1
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            got = got[end:]
    except (EOFError, OSError):
        sock.close()


def listen(listener):
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


if "FAST_SOCKET" in os.environ:
    local = socket.socket(socket.AF_UNIX)
    local.bind(os.environ["FAST_SOCKET"])
    local.listen(128)
    threading.Thread(target=listen, args=(local,), daemon=True).start()
listen(socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=128))
