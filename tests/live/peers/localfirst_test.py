"""The real, unmodified client of @localfirst/relay (from npm) at the relay."""

import subprocess

from packages import Site, end, node_script

from harness import Relay, behaviour, free_port, run, wait_until

SCHEMES = ("ws", "wss")
SCENARIO_TIME = 150


def start(scenario, site):
    return subprocess.Popen(
        [*node_script("localfirst.mjs"), scenario, site.url], env=site.environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process):
    try:
        output = process.communicate(timeout=SCENARIO_TIME)[0]
    finally:
        end(process)
    assert process.returncode == 0 and output.splitlines()[-1:] == ["ok"], output.strip()


def play(scenario, scheme="ws", how="serve"):
    with Site(scheme, how) as site:
        finish(start(scenario, site))
        site.relay.wait_for(used=0)


@behaviour(*Relay.MODES)
def two_peers_meet_in_several_documents(how):
    play("several_documents", how=how)


@behaviour()
def two_peers_meet_in_several_documents_over_tls():
    play("several_documents", "wss")


@behaviour(*SCHEMES)
def five_peers_all_meet_each_other(scheme):
    play("five_peers", scheme)


@behaviour(*SCHEMES)
def a_peer_that_leaves_a_document_parts_there_and_only_there(scheme):
    play("leave", scheme)


@behaviour(*SCHEMES)
def a_peer_that_is_disconnected_parts_and_the_others_stay(scheme):
    play("disconnect_a_peer", scheme)


@behaviour(*SCHEMES)
def a_peer_that_connects_again_meets_all_others_again(scheme):
    play("disconnect_and_connect_again", scheme)


@behaviour(*SCHEMES)
def the_newest_connection_stays_when_the_old_one_closes(scheme):
    play("lost_connection", scheme)


@behaviour(*SCHEMES)
def thousands_of_messages_arrive_with_equal_content(scheme):
    play("thousands_of_messages", scheme)


@behaviour()
def a_string_arrives_as_a_string():
    play("text_messages")


@behaviour(*SCHEMES)
def messages_sent_before_the_other_came_are_held(scheme):
    play("early_messages", scheme)


@behaviour(*SCHEMES)
def no_early_message_is_lost_in_a_client_that_does_not_listen_yet(scheme):
    for _ in range(3):
        play("first_words", scheme)


@behaviour()
def twenty_pairs_of_clients_meet_at_once():
    play("many_clients")


class Fixed:
    """A relay at a port that stays the same when it is started again."""

    def __init__(self):
        self.port = free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        self.environment = None
        self.start()

    def start(self):
        self.relay = Relay(address=f"127.0.0.1:{self.port}")
        self.relay.port = self.port
        wait_until(self._answers, "the relay to listen")

    def _answers(self):
        try:
            self.relay.connect().close()
            return True
        except ConnectionRefusedError:
            return False


@behaviour()
def clients_come_back_by_themselves_when_the_relay_has_been_restarted():
    site = Fixed()
    process = None
    try:
        process = start("relay_restarted", site)
        line = process.stdout.readline().strip()
        assert line == "restart the relay", line + process.stdout.read()
        site.relay.stop()
        site.start()
        process.stdin.write("done\n")
        process.stdin.flush()
        finish(process)
    finally:
        if process:
            end(process)
        site.relay.stop()


if __name__ == "__main__":
    run()
