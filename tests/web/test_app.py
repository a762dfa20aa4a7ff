from __future__ import annotations

import json
import re
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from web_server import LIMITS, encoded

from scanseg import __version__
from scanseg.formats.records import decode_rle
from scanseg.web.app import OUTPUTS, STATIC, SegmentForm

SEGMENT = "/api/v1/segment"


def post(client: TestClient, photo: bytes | None, name: str = "photo.png", **data: object):
    files = None if photo is None else {"photo": (name, photo)}
    return client.post(SEGMENT, files=files, data=data)


def test_a_record(client: TestClient, png: bytes) -> None:
    reply = post(client, png, labels="cat, sofa: couch", maps="true", preview="true")
    assert reply.status_code == 200, reply.text
    record = reply.json()
    assert record["image"] == {"width": 64, "height": 48, "name": "photo.png"}
    assert record["labels"] == ["cat", "sofa"]
    assert record["settings"]["preset"] == "tiny"
    areas = [decode_rle(s["segmentation"]).sum() for s in record["segments"]]
    assert areas == [s["area"] for s in record["segments"]]
    assert record["maps"]["width"] == 64
    assert record["preview"].startswith("data:image/jpeg;base64,")
    assert "engine;dur=" in reply.headers["server-timing"]
    plain = post(client, png, labels=["cat", "sofa: couch"]).json()
    assert "maps" not in plain
    assert plain["segments"] == record["segments"]


def test_a_map_by_output_and_by_accept(client: TestClient, png: bytes) -> None:
    data = {"labels": "cat, sofa", "unknown_below": "1"}
    reply = client.post(
        SEGMENT, files={"photo": png}, data=data, headers={"accept": "image/png, */*"}
    )
    assert reply.headers["content-type"] == "image/png"
    assert reply.content == post(client, png, output="map", **data).content
    values = np.asarray(Image.open(BytesIO(reply.content)))
    record = post(client, png, **data).json()
    assert (values == 0).mean() == pytest.approx(record["unknown_share"], abs=1e-6)
    overlay = post(client, png, output="overlay", **data)
    assert Image.open(BytesIO(overlay.content)).mode == "RGB"


def test_a_name_is_no_path(client: TestClient, png: bytes) -> None:
    for name in ("../../etc/photo.png", r"C:\photos\photo.png"):
        record = post(client, png, name=name, labels="cat, sofa").json()
        assert record["image"]["name"] == "photo.png"


BAD: list[tuple[dict[str, object], int, str]] = [
    ({"labels": ""}, 422, "there are no words"),
    ({}, 422, "there are no words"),
    ({"labels": '{"a": 1}'}, 422, "another shape"),
    ({"labels": "cat", "preset": "tinny"}, 422, "did you mean 'tiny'"),
    ({"labels": "cat", "unknown_bellow": "0"}, 422, "did you mean 'unknown_below'"),
    ({"labels": "cat", "unknown_below": "half"}, 422, "unknown_below is 'half'"),
    ({"labels": "cat", "unknown_below": "nan"}, 422, "unknown_below is 'nan'"),
    ({"labels": "cat", "unknown_below": "1.01"}, 422, "unknown_below is '1.01'"),
    ({"labels": "cat", "maps": "perhaps"}, 422, "maps is 'perhaps'"),
    ({"labels": "cat", "output": "yaml"}, 422, "no output 'yaml'"),
    ({"labels": "a\x07b"}, 422, "control character"),
    ({"labels": ",".join(f"w{i}" for i in range(51))}, 413, "51 words are more than the 50"),
    ({"labels": "a", "background": ",".join("bcdefghijk" * 6)}, 200, ""),  # repeated words
    ({"labels": ",".join("x" * 200 + str(i) for i in range(3))}, 413, "603 characters"),
    ({"labels": "x" * 4000}, 413, "maximum size"),
    ({"labels": ["x" * 1000] * 5}, 413, "5000 characters of words are more than the 500 allowed"),
    ({"labels": ["w"] * 101}, 413, "maximum number of fields"),
]


@pytest.mark.parametrize(("data", "status", "error"), BAD)
def test_requests_that_are_refused(
    client: TestClient, png: bytes, data: dict[str, object], status: int, error: str
) -> None:
    reply = post(client, png, **data)
    assert reply.status_code == status, reply.text
    if status != 200:
        assert set(reply.json()) == {"error", "hint"}
        assert error in reply.json()["error"]


def test_photos_that_are_refused(client: TestClient, png: bytes) -> None:
    large = encoded(np.zeros((1001, 1000, 3), np.uint8))
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    for photo, status, error in (
        (b"not a photo", 422, "photo.png is not an image"),
        (png[:-40], 422, "truncated"),
        (large, 413, "1000 x 1001 pixels"),
        (encoded(noise), 413, "larger than 0.381 MB"),  # within the body's limit, not the photo's
        (bytes(LIMITS.body_bytes), 413, "larger than"),
    ):
        reply = post(client, photo, labels="cat")
        assert (reply.status_code, error in reply.json()["error"]) == (status, True), reply.text
    reply = client.post(SEGMENT, files={"labels": (None, "cat")})
    assert (reply.status_code, reply.json()["error"]) == (422, "there is no photo")
    reply = client.post(SEGMENT, content=b"x")
    assert (reply.status_code, reply.json()["error"]) == (422, "the request is no form")
    form = {"content-type": "multipart/form-data; boundary=x"}
    assert client.post(SEGMENT, content=b"--y\r\n", headers=form).status_code == 400
    form = {"content-type": "multipart/form-data"}
    assert client.post(SEGMENT, content=b"--y\r\n", headers=form).status_code == 400
    two = client.post(SEGMENT, files=[("photo", png), ("photo", png)], data={"labels": "cat"})
    assert two.status_code == 413
    assert post(client, png, labels="cat, sofa").status_code == 200  # it still works


def test_other_addresses_are_json_too(client: TestClient) -> None:
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("GET", SEGMENT, 405),
        ("GET", "/static/../app.py", 404),
        ("GET", "/static/%2e%2e/app.py", 404),
        ("GET", "/examples/..%2f..%2fREADME", 404),
    ):
        reply = client.request(method, path)
        assert reply.status_code == status, path
        assert reply.json()["hint"]


# -------------------------------------------------------------------------------- the guard


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("LOCALHOST", True),
        ("127.0.0.1:80", True),
        ("[::1]:8000", True),
        ("192.168.1.7", True),
        ("photos.example", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_only_own_names_are_answered(client: TestClient, host: str, answered: bool) -> None:
    reply = client.get("/health", headers={"host": host})
    assert reply.status_code == (200 if answered else 403)
    if not answered:
        assert "--allow-host" in reply.json()["hint"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://localhost"}, 200),
        ({"origin": "http://localhost", "sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://["}, 403),  # no URL at all
        ({"origin": "http://localhost", "sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
    ],
)
def test_other_sites_may_not_post(
    client: TestClient, png: bytes, headers: dict[str, str], status: int
) -> None:
    reply = client.post(
        SEGMENT, files={"photo": png}, data={"labels": "cat, sofa"}, headers=headers
    )
    assert reply.status_code == status


def test_security_headers_are_everywhere(client: TestClient) -> None:
    for path in ("/", "/static/app.js", "/health", "/nothing", "/examples/cat"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "access-control-allow-origin" not in headers
    assert client.get("/health").headers["cache-control"] == "no-store"
    assert client.get("/static/app.js").headers["etag"]


def test_a_length_that_lies_is_refused(client: TestClient) -> None:
    for length in ("-1", "many", str(LIMITS.body_bytes + 1)):
        reply = client.post(SEGMENT, content=b"", headers={"content-length": length})
        assert reply.status_code == 413


# -------------------------------------------------------------------------------- pages


def test_nothing_comes_from_elsewhere(client: TestClient) -> None:
    """No file of the page names another host, and every file that it names is there."""
    for file in STATIC.iterdir():
        text = file.read_text(encoding="utf-8")
        hosts = set(re.findall(r"(?:https?:)?//([a-z0-9.-]+\.[a-z]{2,})", text))
        assert hosts <= {"www.w3.org"}, file  # the namespace of SVG
        for path in re.findall(r'(?:src|href)="(/[^"]*)"', text):
            assert client.get(path).status_code == 200, path
        assert not re.search(r'style="|<style| on[a-z]+="|<script>', text), file  # the policy


def test_the_interface_is_described_as_it_is(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert described["info"]["version"] == __version__
    assert set(described["paths"]) == {SEGMENT, "/health", "/metrics", "/api/v1/about"}
    segment = described["paths"][SEGMENT]["post"]
    form = segment["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["required"]) == {"photo", "labels"}
    assert form["properties"]["output"]["enum"] == list(OUTPUTS)
    assert {"200", "403", "408", "413", "422", "429", "500", "503"} <= set(segment["responses"])
    page = client.get("/docs").text
    for name in (*described["paths"], *SegmentForm.model_fields, *segment["responses"]):
        if name != "200":
            assert f">{name}<" in page or name in page, name
    for path in ("/redoc", "/docs/oauth2-redirect"):
        assert client.get(path).status_code == 404


def test_records_are_as_described(client: TestClient, png: bytes) -> None:
    from scanseg.web.app import Record, Trouble

    record = post(client, png, labels="cat, sofa", maps="1", preview="1").json()
    assert set(Record.model_validate(record).model_dump()) == set(record)
    Trouble.model_validate(post(client, None, labels="cat").json())


def test_examples_come_with_words_and_credit(client: TestClient) -> None:
    about = client.get("/api/v1/about").json()
    assert about["presets"] == ["tiny"]
    assert about["limits"]["bytes"] == LIMITS.max_bytes
    assert {"cat", "coffee"} <= {e["name"] for e in about["examples"]}
    for example in about["examples"]:
        assert example["words"]
        assert re.search("CC0|CC BY|public domain", example["credit"])
        photo = client.get(example["photo"])
        assert photo.headers["content-type"].startswith("image/")
        Image.open(BytesIO(photo.content)).verify()


def test_health_and_metrics(client: TestClient, png: bytes) -> None:
    assert client.get("/health").json() == {
        "status": "ready",
        "waiting": 0,
        "version": __version__,
    }
    post(client, png, labels="cat, sofa")
    client.request("BREW", "/some/path/of/a/client")
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert f'method="POST",route="{SEGMENT}",status="200"' in reply.text
    assert "of/a/client" not in reply.text
    assert "BREW" not in reply.text
    memory = re.search(r"^scanseg_engine_memory_bytes (\S+)$", reply.text, re.M)
    assert memory is not None
    assert float(memory[1]) > 1e8


def test_answers_are_json_whatever_words_hold(client: TestClient, png: bytes) -> None:
    words = ["<img src=x onerror=alert(1)>", 'a"b', "\u202e猫", "😀"]
    reply = post(client, png, labels=json.dumps(words))
    assert reply.json()["labels"] == words
    assert reply.headers["content-type"] == "application/json"
