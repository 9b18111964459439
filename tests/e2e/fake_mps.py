#!/usr/bin/env python3
"""A scripted stand-in for nvidia-cuda-mps-control. It answers as the real one was seen to (driver 555
without a GPU): exit status 0 for nearly everything, values that it does not take answered with the old
one, socket files that stay behind. Files in its pipe directory are the script:

  fault        the server's state is FAULT while a client of before the fault is left
  old          a driver before r550: get_server_status is not known
  no-percent   a percentage that is set is not taken
  foreign      the daemon belongs to another user
  hold         a daemon that starts does not listen before this is gone
  holding      written here then: its number
  linger       who has asked closes its output and does not end
  commands     written here: every command that it was given"""
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time

PIPE = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")


def path(name):
    return os.path.join(PIPE, name)


class Daemon:
    def __init__(self):
        self.percent, self.limits, self.server = 100.0, {}, None
        self.clients, self.faulty = {}, None  # connection -> pid; the clients at the fault
        self.quit = False

    def start_server(self):
        if not self.server:
            self.server = subprocess.Popen(["sleep", "1000"], start_new_session=True)

    def state(self):
        if self.faulty is not None:
            if not set(self.faulty) & set(self.clients.values()):
                self.faulty = None
        elif os.path.exists(path("fault")):
            os.unlink(path("fault"))
            self.faulty = list(self.clients.values())
        return "FAULT" if self.faulty is not None else "ACTIVE"

    def answer(self, line):
        with open(path("commands"), "a", encoding="utf-8") as f:
            f.write(line + "\n")
        word, *args = line.split()
        server = str(self.server.pid) if self.server and self.server.poll() is None else None
        foreign = os.path.exists(path("foreign"))
        if foreign and (word.startswith("set_") or word == "quit"):
            return ("Insufficient privileges for UID 65534. Control deamon settings can only be modified "
                    "by the user started it or by the root user.\n")
        if word in ("get_server_status", "get_client_list", "terminate_client"):
            if word == "get_server_status" and os.path.exists(path("old")):
                return f'Unknown command "{word}"\n'
            if args[0] != server:
                return f"Server {args[0]} not found\n" + ("1\n" if word[0] == "t" else "")
            if word == "get_server_status":
                return self.state() + "\n"
            if word == "get_client_list":
                return "".join(f"{pid}\n" for pid in self.clients.values())
            return "0\n" if int(args[1]) in self.clients.values() else f"Client {args[1]} not found\n1\n"
        if word == "get_server_list":
            return server + "\n" if server else ""
        if word == "shutdown_server":
            self.server.kill()
            self.faulty = None
            return ""
        if word == "set_default_active_thread_percentage":
            try:
                value = float(args[0])
                if 0 < value <= 100 and not os.path.exists(path("no-percent")):
                    self.percent = value
            except ValueError:
                pass
        if word.endswith("_default_active_thread_percentage"):
            return f"{33.3 if os.path.exists(path('no-percent')) else self.percent:.1f}\n"
        if word == "set_default_device_pinned_mem_limit":
            digits = args[1].rstrip("KMGB")
            self.limits[args[0]] = digits + args[1][len(digits):][:1] if digits.isdigit() else "1M"
            return ""
        if word == "get_default_device_pinned_mem_limit":
            return self.limits[args[0]] + "\n" if args[0] in self.limits else ""
        if word == "quit":
            self.quit = True
            return ""
        return f'Unknown command "{word}"\n'

    def receive(self, sel, conn):
        data = conn.recv(4096)
        if not data:
            self.clients.pop(conn, None)
            sel.unregister(conn)
            conn.close()
            return
        for line in data.decode().splitlines():
            if line == "CLIENT":  # the simulated driver
                cred = conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                self.clients[conn] = struct.unpack("iII", cred)[0]
                self.start_server()
                conn.sendall(b"100.000\n")
            elif line.strip():
                conn.sendall(self.answer(line).encode() + b"\0")

    def run(self):
        os.makedirs(PIPE, exist_ok=True)
        if os.path.exists(path("hold")):
            with open(path("holding"), "w", encoding="utf-8") as f:
                f.write(f"{os.getpid()}\n")
        while os.path.exists(path("hold")):
            time.sleep(0.01)
        for name in ("control", "nvidia-cuda-mps-control.pid"):
            if os.path.exists(path(name)):
                os.unlink(path(name))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path("control"))
        listener.listen(64)
        with open(path("nvidia-cuda-mps-control.pid"), "w", encoding="utf-8") as f:
            f.write(str(os.getpid()))
        sel = selectors.DefaultSelector()
        sel.register(listener, selectors.EVENT_READ)
        while not self.quit:
            if self.server and self.server.poll() is not None:
                self.server = None
            for key, _ in sel.select(0.1):
                if key.fileobj is listener:
                    sel.register(listener.accept()[0], selectors.EVENT_READ)
                else:
                    self.receive(sel, key.fileobj)
        if self.server:
            self.server.kill()
            self.server.wait()
        os.unlink(path("nvidia-cuda-mps-control.pid"))  # the sockets stay


def interface():
    s = socket.socket(socket.AF_UNIX)
    try:
        s.connect(path("control"))
    except OSError:
        print("Cannot find MPS control daemon process")
        return 1
    for line in sys.stdin:
        s.sendall(line.encode())
        text = b""
        while not text.endswith(b"\0"):
            more = s.recv(4096)
            if not more:
                break
            text += more
        sys.stdout.write(text.rstrip(b"\0").decode())
        sys.stdout.flush()
    if os.path.exists(path("linger")):
        os.close(1)
        os.close(2)
        time.sleep(1000)
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["-f"]:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        Daemon().run()
    elif len(sys.argv) > 1:
        sys.exit(1)
    else:
        sys.exit(interface())
