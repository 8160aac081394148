"""A WebSocket client that is silent is asked whether it is there, about every 25 seconds, so that
one that waits survives what is between (a proxy's 60 seconds), and one that is gone is found."""

import threading
import time

from harness import Relay, behaviour, line, new_token, run
from websocket_client import PING, PONG, Closed, WebSocket

PATIENCE = 180


def attend(client, answers, until):
    """How many pings come, up to `until`, or before the end. Answers them, or does not."""
    pings = 0
    try:
        while pings < until:
            final, opcode, payload = client.receive_frame()
            if opcode == PING:
                pings += 1
                if answers:
                    client.send_frame(PONG, payload)
    except Closed:
        pass
    return pings


@behaviour()
def silent_clients_are_pinged_and_those_who_miss_two_are_dropped():
    with Relay() as relay:
        pings = {}

        def client(name, answers, until, path, message):
            with WebSocket(relay, path, patience=PATIENCE) as one:
                if message:
                    one.send_binary(message)
                pings[name] = attend(one, answers, until)
                if answers:
                    one.settle()  # is still served

        def talker():
            with WebSocket(relay, "/introduction/talker", patience=PATIENCE) as one:
                count = 0
                while "deaf" not in pings:  # for as long as it takes to drop a silent one
                    one.send_frame(PING, b"?")
                    while one.receive_frame()[1] != PONG:
                        count += 1
                    time.sleep(1)
                pings["talker"] = count

        threads = [threading.Thread(target=client, args=arguments) for arguments in (
            ("waiting", True, 3, "/", line(new_token())),
            ("listening", True, 3, "/introduction/listener", None),
            ("holding", True, 3, "/connection/alice/bob/doc", None),
            ("deaf", False, 9, "/introduction/deaf", None),
            ("deaf, waiting", False, 9, "/", line(new_token())))]
        threads.append(threading.Thread(target=talker))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pings["waiting"] == pings["listening"] == pings["holding"] == 3, pings
        assert pings["deaf"] == pings["deaf, waiting"] == 2, pings
        assert pings["talker"] == 0, "who is not silent is not asked"
        relay.wait_for(used=0)


if __name__ == "__main__":
    run()
