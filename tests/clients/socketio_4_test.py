"""python-socketio 4.6.1 over polling, over WebSocket, and with the upgrade."""

import contextlib

import socketio

from count import finish, prove
from porter import Call, Inbox, Porter

HARD = '中文😀𝒳é — "\\n" \u2028\u2029 ± ÿ \0 \n 末'
HEARD = ["push", "push_done", "push_c_error", "receipt", "heartbeat_c", "register_c", "get_topic_c", "pull_c", "do_push_c", "connect_c",
         "info_status_c", "unregister_c", "server_info_c", "open_door_c", "phone_c", "door_c", "door", "door_result_c"]
TRANSPORTS = {"polling": ["polling"], "websocket": ["websocket"], "upgrade": None}


class World:
    def __init__(self, porter, transports):
        self.porter, self.transports, self.clients = porter, transports, []

    def connect(self, query="", on=None):
        client = socketio.Client(reconnection_delay=0.05, reconnection_delay_max=0.3, randomization_factor=0)
        phone = Phone(client)
        self.clients.append(client)
        client.connect((on or self.porter).url + query, transports=self.transports)
        return phone


class Phone(Inbox):
    def __init__(self, client):
        super().__init__(client.on, [*HEARD, "connect", "disconnect", "connect_error"])
        self.client = client

    def emit(self, name, *args):
        self.client.emit(name, *args)

    def ask(self, name, *args):
        call = Call()
        self.client.emit(name, *args, callback=call)
        return call.wait()

    def both(self, name, argument):
        (answer,) = self.ask(name, argument)
        event = self.next(f"{name}_c")
        assert event == answer, (event, answer)
        return answer


def equal(got, expected):
    assert got == expected, f"\n expected {expected!r:.2000}\n      got {got!r:.2000}"


def emits_connect_and_disconnect(world):
    """emits `connect` and `disconnect` like any event"""
    phone = world.connect()
    world.porter.publish("m_1", "waits")
    phone.emit("connect", {"t": 11, "alias": "m_1"})
    equal(phone.args("connect_c"), ())
    equal(phone.next("push")["msg"], "waits")
    phone.emit("connect", {"alias": "m_2"})
    equal(phone.next("connect_c")["code"], "alias_mismatch")
    phone.emit("disconnect")
    phone.args("disconnect")


def speaks_every_event(world):
    """every event and its acknowledgement"""
    phone = world.connect("?alias=m_3")
    equal(phone.both("heartbeat", {"alias": "m_3", "num": 1}), {"t": -1, "alias": "m_3", "num": 1})
    equal(phone.both("register", {"topic": ["楼", "a"], "num": "n"}), {"t": -2, "num": "n"})
    equal(phone.both("get_topic", {}), {"t": -3, "topic": ["a", "楼"]})
    published = phone.both("do_push", {"method": "publish", "topic": "楼", "msg": HARD, "opts": {"receipt": True}})
    push = phone.next("push")
    equal((push["mid"], push["msg"], push["topic"]), (published["mid"], HARD, "楼"))
    equal(phone.both("pull", {})["mid"], [push["mid"]])
    equal(phone.ask("push_c", {"mid": push["mid"]}), ())
    equal(phone.next("receipt")["mid"], push["mid"])
    equal(phone.both("info_status", {"alias": "m_3"}), {"alias": "m_3", "list": ["a", "楼"], "status": "online"})
    equal(phone.both("unregister", {"topic": "a"}), {"t": -12})
    equal(phone.both("server_info", {})["t"], -7)
    equal(phone.both("open_door", {"r": "房", "u": "a"}), {"t": -8, "r": "房", "u": "a", "ok": False, "reason": "no_door"})
    phone.emit("push_c", {})
    equal(phone.next("push_c_error")["code"], "missing_field")


def opens_a_door(world):
    """door frames, and the result"""
    phone, door = world.connect(), world.connect()
    equal(door.ask("door", {"r": "单元", "u": "gate"}), ())
    phone.emit("phone", {"r": "单元", "u": "安"})
    equal(door.next("door"), {"t": 9, "r": "单元", "u": "安"})
    phone.emit("open_door", {"r": "单元", "u": "安", "num": 5})
    equal(door.next("door"), {"t": 8, "r": "单元", "u": "安", "num": 5})
    door.emit("door_result", {"r": "单元", "u": "安", "ok": True})
    equal(phone.next("open_door_c"), {"t": -8, "r": "单元", "u": "安", "ok": True, "num": 5})


def ends_for_the_family(world):
    """push_done for the other phones, and redelivery"""
    one, two = world.connect("?alias=m_4"), world.connect("?alias=m_4")
    mid = world.porter.publish("m_4", 1)["mid"]
    equal((one.next("push")["mid"], two.next("push")["mid"]), (mid, mid))
    late = world.connect("?alias=m_4")
    push = late.next("push")
    equal((push["mid"], push["dup"]), (mid, True))
    one.emit("push_c", {"mid": mid})
    equal((two.next("push_done"), late.next("push_done")), ({"t": 15, "mid": mid},) * 2)


def speaks_with_tcp(world):
    """to and from TCP"""
    phone, line = world.connect("?alias=m_5"), world.porter.tcp()
    line.send({"t": 11, "alias": "gate-5"})
    equal(line.frame(), {"t": -11, "alias": "gate-5"})
    phone.emit("do_push", {"method": "publish_to_alias", "alias": "gate-5", "msg": HARD})
    equal(line.frame()["msg"], HARD)
    line.send({"t": 6, "method": "publish_to_alias", "alias": "m_5", "msg": [HARD]})
    equal(phone.next("push")["msg"], [HARD])
    line.close()


def hard_and_large_texts(world):
    """Chinese, emoji and 60 KB, several behind one another"""
    phone = world.connect("?alias=m_6")
    texts = [HARD, "😀" * 3_000, "x" * 60_000, "字" * 9_000, "é", "中😀"]
    for msg in texts:
        phone.emit("do_push", {"method": "publish_to_alias", "alias": "m_6", "msg": msg})
    # Its threads hand events on in any order (it makes one for each): the mids order them.
    pushes = sorted((phone.next("push") for _ in texts), key=lambda push: int(push["mid"]))
    equal([push["msg"] for push in pushes], texts)
    (refused,) = phone.ask("do_push", {"method": "publish_to_alias", "alias": "m_6", "msg": "x" * 66_000})
    equal(refused["code"], "too_large")


def burst(world):
    """2,000 messages, none lost or doubled, whose mids are in order; no body with more packets than it takes"""
    phone, line = world.connect("?alias=m_7"), world.porter.tcp()
    line.send(*({"t": 6, "method": "publish_to_alias", "alias": "m_7", "msg": n} for n in range(2_000)))
    pushes = sorted((phone.next("push") for _ in range(2_000)), key=lambda push: int(push["mid"]))
    equal([push["msg"] for push in pushes], list(range(2_000)))
    equal(phone.left("disconnect"), 0)
    phone.emit("push_c", {"mid": [push["mid"] for push in pushes]})
    equal([line.frame()["t"] for _ in range(2_000)], [-6] * 2_000)
    line.close()


def restart(world):
    """comes back by itself when the server was killed, and nothing is lost"""
    phone = world.connect("?alias=m_8")
    phone.args("connect")
    mid = world.porter.publish("m_8", "owed")["mid"]
    equal(phone.next("push")["mid"], mid)
    world.porter.restart()
    phone.args("disconnect")
    phone.args("connect")
    equal(phone.next("push")["mid"], mid)
    after = world.porter.publish("m_8", "after")["mid"]
    equal(phone.next("push")["mid"], after)


def tokens(world):
    """device tokens by the query"""
    strict = Porter("--auth-devices", "token")
    try:
        token = strict.new_token("--role", "device", "--label", "ann", "--alias", "m_9")
        phone = world.connect(f"?alias=m_9&token={token}", on=strict)
        equal(phone.both("heartbeat", {"alias": "m_9"})["t"], -1)
        refused = world.connect("?alias=m_9", on=strict)
        equal(refused.next("connect_error")["code"], "bad_token")
    finally:
        strict.stop()


def is_on_its_transport(world):
    """is on the transport that it should be on"""
    phone = world.connect("?alias=m_10")
    equal(phone.client.eio.transport(), "polling" if world.transports == ["polling"] else "websocket")
    equal(phone.both("server_info", {})["t"], -7)


CASES = [emits_connect_and_disconnect, speaks_every_event, opens_a_door, ends_for_the_family, speaks_with_tcp, hard_and_large_texts, burst,
         restart, tokens, is_on_its_transport]


@contextlib.contextmanager
def world(porter, transports):
    made = World(porter, transports)
    try:
        yield made
    finally:
        for client in made.clients:
            client.disconnect()


def main():
    results = []
    for name, transports in TRANSPORTS.items():
        porter = Porter()
        results.append(prove(f"python-socketio 4.6.1, {name}", CASES, lambda: world(porter, transports)))
        porter.stop()
    finish(results)


main()
