"""grpcio, as any agent calls it, without a credential: all four kinds of calls, and what surrounds them.

with_grpcio.py HOST:PORT
"""

import os
import queue
import sys

import grpc

with open(os.environ["SSL_CERT_FILE"], "rb") as roots:
    credentials = grpc.ssl_channel_credentials(roots.read())

with grpc.secure_channel(sys.argv[1], credentials) as channel:
    answer, call = channel.unary_unary("/cup.Cups/One").with_call(b"cup", timeout=30)
    assert answer == b"cup", answer
    trailers = dict(call.trailing_metadata())
    assert trailers["cup-trailer"] == "empty" and trailers["cup-trailer-bin"] == b"\x00\xff", trailers

    up = channel.stream_unary("/cup.Cups/Up")(iter([b"x" * 100_000] * 20), timeout=30)
    assert up == b"2000000", up

    down = [int(each) for each in channel.unary_stream("/cup.Cups/Down")(b"", timeout=30)]
    assert down == list(range(100)), down

    # Each message is sent when the one before has come back: nothing may wait for more.
    answered, turns = [], queue.SimpleQueue()

    def ask():
        for number in range(10):
            yield str(number).encode()
            turns.get(timeout=30)

    both = channel.stream_stream("/cup.Cups/Both")(ask(), timeout=30)
    for message in both:
        answered.append(message)
        turns.put(message)
    assert answered == [str(number).encode() for number in range(10)], answered
    assert dict(both.trailing_metadata())["cup-trailer"] == "empty"

    try:
        channel.unary_unary("/cup.Cups/One")(b"none", timeout=30)
        sys.exit("no error")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND and error.details() == "no such cup: ☕", error
        assert dict(error.trailing_metadata())["cup-trailer"] == "empty", error

    try:
        channel.unary_unary("/cup.Cups/Slow")(b"", timeout=3)
        sys.exit("no deadline")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error

print("six calls")
