"""socketIO-client 0.7.2, which reads the binary framing of polls alone, and emits `connect`."""

import contextlib
import logging
import threading

from socketIO_client import SocketIO

from count import finish, prove
from porter import Call, Inbox, Porter

HARD = '中文😀𝒳é — "\\n" \u2028\u2029 ± ÿ 末'
HEARD = ["push", "push_done", "receipt", "heartbeat_c", "register_c", "get_topic_c", "pull_c", "do_push_c", "connect_c", "info_status_c",
         "server_info_c", "open_door_c", "door", "disconnect", "reconnect"]
TRANSPORTS = {"polling": ["xhr-polling"], "websocket": ["websocket"], "upgrade": ["xhr-polling", "websocket"]}


class Phone(Inbox):
    """A client and the thread that reads for it."""

    def __init__(self, porter, transports, **params):
        self.client = SocketIO("127.0.0.1", porter.ports["socketio"], transports=transports, params=params, wait_for_connection=True)
        super().__init__(self.client.on, HEARD)
        self.reader = threading.Thread(target=self.client.wait, daemon=True)
        self.reader.start()

    def emit(self, name, *args):
        self.client.emit(name, *args)

    def ask(self, name, *args):
        call = Call()
        self.client.emit(name, *args, call)
        return call.wait()

    def both(self, name, argument):
        (answer,) = self.ask(name, argument)
        event = self.next(f"{name}_c")
        assert event == answer, (event, answer)
        return answer


class World:
    def __init__(self, porter, transports):
        self.porter, self.transports, self.phones = porter, transports, []

    def connect(self, **params):
        self.phones.append(Phone(self.porter, self.transports, **params))
        return self.phones[-1]


def equal(got, expected):
    assert got == expected, f"\n expected {expected!r:.2000}\n      got {got!r:.2000}"


def emits_connect(world):
    """emits `connect`, and gets what waits"""
    world.porter.publish("c_1", HARD)
    phone = world.connect()
    phone.emit("connect", {"t": 11, "alias": "c_1"})
    equal(phone.args("connect_c"), ())
    push = phone.next("push")
    equal(push["msg"], HARD)
    equal(phone.ask("push_c", {"mid": push["mid"]}), ())


def speaks_the_events(world):
    """the events and their acknowledgements"""
    phone = world.connect(alias="c_2")
    equal(phone.both("heartbeat", {"alias": "c_2"}), {"t": -1, "alias": "c_2"})
    equal(phone.both("register", {"topic": "楼"}), {"t": -2})
    equal(phone.both("get_topic", {}), {"t": -3, "topic": ["楼"]})
    published = phone.both("do_push", {"method": "publish", "topic": "楼", "msg": HARD})
    equal(phone.next("push")["mid"], published["mid"])
    equal(phone.both("pull", {})["msg"], [HARD])
    equal(phone.both("info_status", {"alias": "c_2"}), {"alias": "c_2", "list": ["楼"], "status": "online"})
    equal(phone.both("server_info", {})["t"], -7)


def opens_a_door(world):
    """door frames, and the result"""
    phone, door = world.connect(), world.connect()
    equal(door.ask("door", {"r": "u1", "u": "gate"}), ())
    phone.emit("open_door", {"r": "u1", "u": "安"})
    equal(door.next("door"), {"t": 8, "r": "u1", "u": "安"})
    door.emit("door_result", {"r": "u1", "u": "安", "ok": True})
    equal(phone.next("open_door_c"), {"t": -8, "r": "u1", "u": "安", "ok": True})


def speaks_with_tcp(world):
    """to and from TCP, also 60 KB"""
    phone, line = world.connect(alias="c_3"), world.porter.tcp()
    line.send({"t": 11, "alias": "gate-c"})
    equal(line.frame(), {"t": -11, "alias": "gate-c"})
    for msg in (HARD, "x" * 60_000):
        phone.emit("do_push", {"method": "publish_to_alias", "alias": "gate-c", "msg": msg})
        equal(line.frame()["msg"], msg)
        line.send({"t": 6, "method": "publish_to_alias", "alias": "c_3", "msg": msg})
        equal(phone.next("push")["msg"], msg)
        phone.next("do_push_c")
        line.frame()
    line.close()


def burst(world):
    """2,000 messages in order"""
    phone, line = world.connect(alias="c_4"), world.porter.tcp()
    line.send(*({"t": 6, "method": "publish_to_alias", "alias": "c_4", "msg": n} for n in range(2_000)))
    mids = []
    for n in range(2_000):
        push = phone.next("push")
        equal(push["msg"], n)
        mids.append(push["mid"])
    equal(phone.ask("push_c", {"mid": mids}), ())
    line.close()


def restart(world):
    """comes back by itself when the server was killed, and nothing is lost"""
    phone = world.connect(alias="c_5")
    mid = world.porter.publish("c_5", "owed")["mid"]
    equal(phone.next("push")["mid"], mid)
    world.porter.restart()
    equal(phone.next("push")["mid"], mid)
    after = world.porter.publish("c_5", "after")["mid"]
    equal(phone.next("push")["mid"], after)


CASES = [emits_connect, speaks_the_events, opens_a_door, speaks_with_tcp, burst, restart]


@contextlib.contextmanager
def world(porter, transports):
    made = World(porter, transports)
    try:
        yield made
    finally:
        for phone in made.phones:
            phone.client.disconnect()


def main():
    logging.getLogger("socketIO-client").setLevel(logging.CRITICAL)
    results = []
    for name, transports in TRANSPORTS.items():
        porter = Porter()
        results.append(prove(f"socketIO-client 0.7.2, {name}", CASES, lambda: world(porter, transports)))
        porter.stop()
    finish(results)


main()
