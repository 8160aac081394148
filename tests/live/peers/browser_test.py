"""A real browser (Debian's Chromium) sees the relay's page, and two pages that run the client of
@localfirst/relay reach each other through the relay."""

import shutil
import subprocess
import tempfile

from packages import Site, end, node_script

from harness import Skip, behaviour, run

BROWSER_TIME = 120


@behaviour("http", "https")
def two_pages_of_a_browser_exchange_messages(scheme):
    browser = shutil.which("chromium")
    if browser is None:
        raise Skip("there is no chromium")
    script = node_script("browser.mjs")
    with Site(scheme) as site, tempfile.TemporaryDirectory(prefix="relay-browser-") as profile:
        process = subprocess.Popen(
            [*script, browser, profile, f"{site.url}/"], text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=dict(site.environment, HOME=profile))
        try:
            output = process.communicate(timeout=BROWSER_TIME)[0]
        finally:
            end(process)
        assert process.returncode == 0 and output.splitlines()[-1:] == ["ok"], output.strip()
        assert output.count("the page is there") == 2, output


if __name__ == "__main__":
    run()
