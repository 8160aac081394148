"""Two real, unmodified `wormhole` clients move a file through the relay, however it was started."""

from harness import Relay, behaviour, run
from magic_wormhole import SIZE, send_a_file


@behaviour(*Relay.MODES)
def wormhole_sends_a_hundred_megabytes(how):
    with Relay(how) as relay:
        send_a_file(relay)
        relay.wait_for(used=0)
        assert relay.outcomes()["happy"] == 1, relay.outcomes()
        carried = relay.status()["total_bytes"]
        assert carried > SIZE, f"only {carried} bytes went through the relay"


if __name__ == "__main__":
    run()
