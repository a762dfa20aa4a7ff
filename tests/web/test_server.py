"""The whole program as a process of its own: start, end, slow and hostile clients."""

from __future__ import annotations

import random
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import numpy as np
import psutil
import pytest
from footprint import Footprint
from web_server import Server, encoded, running

OPTIONS = (
    "--preset", "tiny", "--lazy", "--max-mb", "1", "--max-megapixels", "4", "--max-labels", "100",
    "--upload-seconds", "2", "--max-queue", "4",
)  # fmt: skip
Serve = Callable[..., Server]


def scanseg(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scanseg", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@contextmanager
def connection(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as opened:
        yield opened


def everything(opened: socket.socket) -> bytes:
    """What the server sends until it closes the connection."""
    received = b""
    try:
        while part := opened.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


# -------------------------------------------------------------------------------- start and end


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_cleanly(number: int) -> None:
    with running("--preset", "tiny", "--lazy") as server:
        assert httpx.get(server.address + "health").json()["status"] == "ready"
        children = server.process_tree.children(recursive=True)
        assert children
        code, told = server.stop(number)
        assert code == 0
        assert told == ""
        assert psutil.wait_procs(children, timeout=5)[1] == []
        assert server.told == [f"scanseg: serving {server.address} (Ctrl-C ends it)\n"]


def test_a_running_request_is_answered_before_the_end(png: bytes) -> None:
    photo = encoded(np.zeros((1200, 1200, 3), np.uint8))
    with running("--preset", "tiny") as server:
        words = ",".join(f"place {i}" for i in range(200))  # a second or more
        form = {"files": {"photo": photo}, "data": {"labels": words}}
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(httpx.post, server.address + "api/v1/segment", timeout=60, **form)
            while httpx.get(server.address + "health").json()["status"] != "busy":
                assert not answer.done()
            code, _ = server.stop()
            assert answer.result().status_code == 200
        assert code == 0


def test_a_second_interrupt_does_not_wait() -> None:
    photo = encoded(np.zeros((2000, 2000, 3), np.uint8))
    words = ",".join(f"thing {i}" for i in range(5000))  # a minute and more, on any machine
    options = ("--preset", "tiny", "--max-labels", "5000", "--max-characters", "100000")
    with running(*options) as server, ThreadPoolExecutor() as pool:
        form = {"files": {"photo": photo}, "data": {"labels": words}}
        answer = pool.submit(httpx.post, server.address + "api/v1/segment", timeout=60, **form)
        while httpx.get(server.address + "health").json()["status"] != "busy":
            assert not answer.done()
            time.sleep(0.01)
        began = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert not answer.done()
        assert server.process.poll() is None  # it waits for the request
        code, _ = server.stop(signal.SIGINT)
        assert code == 0
        assert time.monotonic() - began < 9  # it would wait 10 seconds


def test_mistakes_are_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, message in (
            (("--port", port), f"cannot listen on 127.0.0.1 port {port}"),
            (("--port", "70000"), "port must lie in 0..65535"),
            (("--port", "0", "--host", "no.such.host.invalid"), "choose another --port or --host"),
            (("--port", "0", "--preset", "vit_l"), "scanseg convert"),
            (("--max-queue", "0"), "max_queue must be positive"),
        ):
            done = scanseg(*arguments)
            assert done.returncode == 2, done.stderr
            assert message in done.stderr
            assert "Traceback" not in done.stderr
            assert done.stdout == ""


def test_other_machines_are_let_in_with_a_warning_only() -> None:
    command = [sys.executable, "-m", "scanseg", "serve", "--port", "0", "--host", "0.0.0.0"]
    process = subprocess.Popen([*command, "--lazy"], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert "it has no password" in process.stderr.readline()
        assert re.search(r"serving http://0\.0\.0\.0:\d+/", process.stderr.readline())
    finally:
        process.terminate()
        assert process.wait(30) == 0


# -------------------------------------------------------------------------------- slow clients


def test_headers_that_dribble_in_are_cut_off(serve: Serve) -> None:
    server = serve(*OPTIONS)
    began = time.monotonic()
    with connection(server) as silent, connection(server) as dribbling:
        dribbling.sendall(b"GET / HTTP/1.1\r\n")
        ended = False
        while not ended and time.monotonic() - began < 30:
            try:
                dribbling.sendall(b"X-A: b\r\n")
            except OSError:
                ended = True
            time.sleep(0.25)
        assert ended
        assert everything(silent) == b""
    assert 9 < time.monotonic() - began < 30  # 10 seconds on a machine that has nothing else to do
    assert httpx.get(server.address + "health").status_code == 200


def test_bodies_that_dribble_in_are_answered_and_cut_off(serve: Serve) -> None:
    server = serve(*OPTIONS)
    head = (
        b"POST /api/v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    began = time.monotonic()
    with ExitStack() as stack:
        slow = [stack.enter_context(connection(server)) for _ in range(20)]
        for opened in slow:
            opened.sendall(head + b"--x\r\n")
        answers = [everything(opened) for opened in slow]
    assert time.monotonic() - began < 20
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"error": "the upload took longer than 2 seconds"' in answer
    assert httpx.get(server.address + "health").status_code == 200


def test_an_upload_that_is_too_large_reads_its_answer(serve: Serve) -> None:
    server = serve(*OPTIONS)
    for length in (b"Content-Length: 9000000\r\n", b"Transfer-Encoding: chunked\r\n"):
        with connection(server) as opened:
            opened.sendall(
                b"POST /api/v1/segment HTTP/1.1\r\nHost: localhost\r\n" + length
                + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
            )  # fmt: skip
            start = b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a"\r\n\r\n'
            chunk = start + bytes(65536 - len(start))
            for n in range(9_000_000 // 65536):
                part = chunk if n == 0 else bytes(65536)
                if b"chunked" in length:
                    part = b"10000\r\n" + part + b"\r\n"
                opened.sendall(part)
            opened.shutdown(socket.SHUT_WR)
            answer = everything(opened)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"the photo is larger than 1 MB" in answer


# -------------------------------------------------------------------------------- hostile requests


def png_of(width: int, height: int, data: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG that says it is so large, with other chunks before its data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def hostile_forms(png: bytes) -> Iterator[tuple[dict[str, object], set[int]]]:
    """Arguments of ``httpx.post`` and the statuses that may answer them."""
    draw = random.Random(0)
    zeros = zlib.compress(bytes(60_000_000), 9)
    words = {"labels": "cat, sofa"}
    for width, height in ((60_000, 60_000), (2**31 - 1, 1), (1, 2**31 - 1), (2001, 2000), (0, 0)):
        yield {"files": {"photo": png_of(width, height, zeros)}, "data": words}, {413, 422}
    bomb = zlib.compress(bytes(50_000_000), 9)
    for kind, start in ((b"iCCP", b"p\0\0"), (b"zTXt", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0")):
        photo = png_of(2, 2, zlib.compress(bytes(14)), (kind, start + bomb))
        yield {"files": {"photo": photo}, "data": words}, {200, 422}
    yield {"files": {"photo": png_of(100, 100, zeros)}, "data": words}, {200, 422}
    for _ in range(60):  # bytes of a photo changed, cut or put in
        broken = bytearray(png)
        for _ in range(draw.randint(1, 12)):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        cut = draw.randrange(len(broken))
        photo = bytes(broken if draw.random() < 0.7 else broken[:cut])
        yield {"files": {"photo": photo}, "data": words}, {200, 413, 422}
    for _ in range(30):
        photo = draw.randbytes(draw.randint(0, 5000))
        yield {"files": {"photo": photo}, "data": words}, {413, 422}
    many = ",".join(f"word {i}" for i in range(10_000))
    for labels in (many, f'["{many}"]', "x" * 900_000, "[" * 50_000, f"a:{many}"):
        yield {"files": {"photo": png}, "data": {"labels": labels}}, {413, 422}
    yield {"files": {"photo": png}, "data": {"labels": ["w"] * 2000}}, {413}
    for _ in range(30):  # words of any characters
        text = "".join(chr(draw.randrange(1, 0xD7FF)) for _ in range(20))
        yield {"files": {"photo": png}, "data": {"labels": text}}, {200, 413, 422}
    for _ in range(40):  # forms that are none
        content = draw.randbytes(draw.randint(0, 3000))
        if draw.random() < 0.7:
            content = b'--x\r\nContent-Disposition: form-data; name="photo"\r\n' + content
        headers = {"content-type": "multipart/form-data; boundary=x"}
        yield {"content": content, "headers": headers}, {400, 422}
    for kind in ("application/json", "multipart/form-data", "multipart/form-data; boundary=" * 40):
        yield {"content": b"{}" * 500, "headers": {"content-type": kind}}, {400, 422}


def hostile_bytes() -> Iterator[bytes]:
    """What is hardly HTTP."""
    draw = random.Random(1)
    yield b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n"
    yield b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n"
    yield b"POST /api/v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n"
    yield (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"
    )
    yield b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)  # a TLS greeting
    for _ in range(15):
        yield draw.randbytes(500) + b"\r\n\r\n"


def test_200_hostile_requests_leave_it_answering(serve: Serve, png: bytes) -> None:
    server = serve(*OPTIONS)
    good = {"files": {"photo": png}, "data": {"labels": "cat, sofa"}}
    address = server.address + "api/v1/segment"
    with httpx.Client(timeout=60) as client:
        expected = client.post(address, **good).content
        before, held = server.memory(), Footprint.of(server.process_tree)
        peak, count = before, 0
        for arguments, statuses in hostile_forms(png):
            reply = client.post(address, **arguments)
            assert reply.status_code in statuses, (reply.status_code, reply.text[:300])
            if reply.status_code != 200:
                assert set(reply.json()) == {"error", "hint"}
                assert len(reply.content) < 2000
            count += 1
            peak = max(peak, server.memory())
        for content in hostile_bytes():
            with connection(server) as opened:
                opened.sendall(content)
                opened.shutdown(socket.SHUT_WR)
                answer = everything(opened)
                assert re.match(rb"(HTTP/1\.1 (200|400|403|405) |$)", answer), answer[:200]
            count += 1
        assert count >= 200
        assert client.post(address, **good).content == expected
        after, holds = server.memory(), Footprint.of(server.process_tree)
        print(
            f"memory: {before / 2**20:.0f} MiB before, {peak / 2**20:.0f} at most, "
            f"{after / 2**20:.0f} after {count} requests"
        )
        assert peak - before < 300 * 2**20
        assert after - before < 150 * 2**20
        assert holds.files <= held.files
        assert holds.threads < held.threads + 10  # of a pool that fills as needed
        assert holds.children == held.children
        assert 'restarts_total{reason="died"} 0' in client.get(server.address + "metrics").text
    assert server.process.poll() is None


def test_a_crowd_is_told_to_come_back(serve: Serve) -> None:
    server = serve(*OPTIONS)
    photo = encoded(np.zeros((1200, 1200, 3), np.uint8))

    def ask(number: int) -> httpx.Response:
        data = {"labels": f"word {number}, b, c, d, e, f, g, h"}
        return httpx.post(
            server.address + "api/v1/segment", files={"photo": photo}, data=data, timeout=60
        )

    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(ask, range(20)))
    statuses = [reply.status_code for reply in replies]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 5  # one worked on, four waiting
    refused = next(reply for reply in replies if reply.status_code == 429)
    assert refused.headers["retry-after"] == "5"
    assert refused.json()["hint"] == "try again in a few seconds"
