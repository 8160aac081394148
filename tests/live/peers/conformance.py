"""Runs cases of the Autobahn suite against a server, and prints what it found as JSON:
      conformance.py URL CASES..."""

import asyncio
import json
import sys

import kosoku


async def main(url, *cases):
    try:
        results = await kosoku.run_fuzzingclient(url, cases=list(cases))
    except kosoku.FailureError as error:
        results = error.results
    json.dump([[result.case_id, result.behavior.value, result.behavior_close.value, result.description]
               for result in results], sys.stdout)


asyncio.run(main(*sys.argv[1:]))
