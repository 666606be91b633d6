"""The real server for the Python clients: the built binary on free ports with a folder of its own, killed and started again."""

import http.client
import json
import os
import pathlib
import queue
import re
import shutil
import socket
import subprocess
import tempfile
import threading

BINARY = os.environ.get("PORTER_BINARY", str(pathlib.Path(__file__).resolve().parents[2] / "target/release/porter"))
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PORTER_")}
# How long anything may take before a test has failed: generous, since machines are shared.
DEADLINE = 30
PORTS = {"tcp": r"tcp://.*:(\d+)", "rest": r"management .*http://[^/]*:(\d+)", "socketio": r"phones .*http://[^/]*:(\d+)",
         "websocket": r"ws://[^/]*:(\d+)"}


class Porter:
    def __init__(self, *flags):
        self.folder = tempfile.mkdtemp(prefix="porter-clients-")
        self.flags, self.ports = flags, dict.fromkeys(PORTS, 0)
        self.start()
        self.token = self.new_token("--role", "manage", "--label", "test")

    def start(self):
        ports = [word for name, port in self.ports.items() for word in (f"--{name}-port", str(port))]
        command = [BINARY, "serve", "--data-dir", f"{self.folder}/data", "--log-level", "warn", *ports, *self.flags]
        self.process = subprocess.Popen(command, env=ENVIRONMENT, cwd=self.folder, stdout=subprocess.PIPE, text=True)
        wanted = dict(PORTS)
        while wanted:
            line = self.process.stdout.readline()
            assert line, "the server did not start"
            for name, pattern in list(wanted.items()):
                if found := re.search(pattern, line):
                    self.ports[name] = int(found[1])
                    del wanted[name]

    def restart(self):
        """SIGKILL, and a start on the same folder and ports."""
        self.process.kill()
        self.process.wait()
        self.start()

    def stop(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.ports['socketio']}"

    def new_token(self, *flags):
        command = [BINARY, "token", "new", "--data-dir", f"{self.folder}/data", *flags]
        return subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True).stdout.strip()

    def rest(self, method, path, frame=None):
        link = http.client.HTTPConnection("127.0.0.1", self.ports["rest"], timeout=DEADLINE)
        link.request(method, path.replace("TOKEN", self.token), frame and json.dumps(frame))
        answer = json.load(link.getresponse())
        link.close()
        return answer

    def publish(self, alias, msg, **opts):
        frame = {"t": 6, "method": "publish_to_alias", "alias": alias, "msg": msg, "opts": opts}
        answer = self.rest("POST", "/push/TOKEN", frame)
        assert answer["t"] == -6, answer
        return answer

    def tcp(self):
        return Line(self.ports["tcp"])


class Line:
    """A link of the line protocol."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        self.file = self.socket.makefile("r", encoding="utf-8")

    def send(self, *frames):
        self.socket.sendall("".join(json.dumps(frame) + "\n" for frame in frames).encode())

    def frame(self):
        return json.loads(self.file.readline())

    def close(self):
        self.file.close()
        self.socket.close()


class Inbox:
    """What a client heard, by event, handed out in order."""

    def __init__(self, on, names):
        self.queues = {name: queue.Queue() for name in names}
        for name in names:
            on(name, self.put(name))

    def put(self, name):
        return lambda *args: self.queues[name].put(args)

    def args(self, name):
        try:
            return self.queues[name].get(timeout=DEADLINE)
        except queue.Empty:
            raise AssertionError(f"no event {name} within the deadline") from None

    def next(self, name):
        return self.args(name)[0]

    def left(self, name):
        return self.queues[name].qsize()


class Call:
    """A callback that is waited for."""

    def __init__(self):
        self.done, self.args = threading.Event(), None

    def __call__(self, *args):
        self.args = args
        self.done.set()

    def wait(self):
        assert self.done.wait(DEADLINE), "no acknowledgement within the deadline"
        return self.args
