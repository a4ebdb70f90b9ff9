"""Reads what the peers and cupbearer wrote, and judges it.

    judge.py arrived JOURNAL AFTER KEY=VALUE…   requests after line AFTER: all with a valid token, one like this
    judge.py silent JOURNAL AFTER               nothing at all after line AFTER
    judge.py recorded AUDIT AFTER KEY=VALUE…    a record like this after line AFTER
    judge.py count JOURNAL AFTER KEY=VALUE…     prints how many lines after AFTER are like this
    judge.py distinct JOURNAL AFTER KEY         prints how many values KEY has after AFTER
    judge.py listener LOG NAME                  prints the address that `cupbearer serve` announced
    judge.py leaks SECRETS FILE…                no file holds a secret, in any usual spelling

Exit status 0: it holds; 1: it does not, and stdout says why, never showing a secret.
"""

import base64
import json
import pathlib
import sys
import urllib.parse


def entries(name, after=0):
    path = pathlib.Path(name)
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()[int(after) :]]


def like(entry, wanted):
    return all(str(entry.get(key)) == value for key, value in (each.split("=", 1) for each in wanted))


def arrived(name, after, *wanted):
    requests = [entry for entry in entries(name, after) if "method" in entry]
    if not requests:
        return "no request reached the API"
    for request in requests:
        if request["token"] != "valid":
            return f"a request without a valid token reached the API: {request}"
        if request["shown"]:
            return f"the API was shown {request['shown']}"
    if not any(like(request, wanted) for request in requests):
        return f"no request with {wanted} reached the API, but {requests[-1]}"


def silent(name, after):
    found = entries(name, after)
    return f"{len(found)} lines, the first: {found[0]}" if found else None


def recorded(name, after, *wanted):
    records = entries(name, after)
    if not any(like(record, wanted) for record in records):
        keys = [each.split("=", 1)[0] for each in wanted]
        last = {key: records[-1].get(key) for key in keys} if records else None
        return f"no line with {', '.join(wanted)} among {len(records)}; the last: {last}"


def count(name, after, *wanted):
    print(sum(like(entry, wanted) for entry in entries(name, after)))


def distinct(name, after, key):
    print(len({entry[key] for entry in entries(name, after) if key in entry}))


def listener(name, wanted):
    for line in pathlib.Path(name).read_text().splitlines():
        if line.startswith("{"):
            entry = json.loads(line)
            entry |= entry.get("fields", {})
            if entry.get("listener") == wanted and "address" in entry:
                print(entry["address"])
                return None
    return f"no listener {wanted} was announced"


def spellings(secret):
    """The secret as it stands, as a form and base64 spell it, and the telling parts of a JWT."""
    found = {secret, urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret)}
    raw = secret.encode()
    for prefix in (b"", b" ", b"  "):  # base64 looks different at each of three offsets
        encoded = base64.b64encode(prefix + raw)
        start, end = (4 if prefix else 0), len(encoded) // 4 * 4 - 4
        found |= {encoded[start:end].decode(), encoded[start:end].translate(bytes.maketrans(b"+/", b"-_")).decode()}
    parts = secret.split(".")
    if len(parts) == 3 and secret.startswith("eyJ"):
        found |= {parts[1], parts[2]}
    return {spelling for spelling in found if len(spelling) >= 12}


def leaks(secrets, *files):
    known = [line for line in pathlib.Path(secrets).read_text().splitlines() if line]
    if not any(secret.startswith("eyJ") for secret in known):
        return "no token is known: this check could not fail"
    needles = [(number, spelling.encode()) for number, secret in enumerate(known) for spelling in spellings(secret)]
    for name in files:
        content = pathlib.Path(name).read_bytes()
        for number, needle in needles:
            if needle in content:
                return f"{name} holds secret number {number + 1} of {secrets}"


def main():
    command, *arguments = sys.argv[1:]
    commands = [arrived, silent, recorded, count, distinct, listener, leaks]
    complaint = {each.__name__: each for each in commands}[command](*arguments)
    if complaint:
        print(complaint)
        sys.exit(1)


main()
