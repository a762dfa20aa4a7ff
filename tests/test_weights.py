"""Weights on disk: files that are whole or absent, strict loading, folders, the hub."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from scanseg import Segmenter
from scanseg.contracts import InputError
from scanseg.recipe import Resize
from scanseg.storage import atomic_write, cache_folder, file_hash
from scanseg.weights import (
    CONFIG,
    NOTICE,
    WEIGHTS,
    TensorFile,
    constants_fingerprint,
    fingerprint,
    load_folder,
    load_into,
    push_folder,
    resolve_folder,
    save_folder,
    save_tensors,
    skip_initialisation,
)

STATE: dict[str, Tensor] = {
    "clip.a": torch.arange(6.0).view(2, 3),
    "void": torch.tensor([1.0, -2.0]),
    "region_clip.scale": torch.tensor(4.6),
    "proposals.half": torch.tensor([1.5, 2.5, 3.5], dtype=torch.float16),
    "proposals.brain": torch.tensor([[0.25]], dtype=torch.bfloat16),
    "proposals.empty": torch.zeros(0, 4),
    "integration.flags": torch.tensor([True, False, True]),
    "integration.count": torch.tensor([7], dtype=torch.int64),
}


# --------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------


def test_cache_folder_is_the_one_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SCANSEG_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("SCANSEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder().name == "scanseg"


def test_atomic_write_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.bin"
    for content in (b"first", b"second"):
        with atomic_write(path) as file:
            file.write(content)
            assert not path.exists() or path.read_bytes() == b"first"  # not yet
        assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_atomic_write_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def write_half() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


@pytest.mark.skipif(os.name == "nt", reason="modes are those of POSIX")
def test_atomic_write_follows_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "file"):
            pass
    finally:
        os.umask(previous)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_saved_tensors_are_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    digest = save_tensors(path, STATE)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest() == file_hash(path)
    theirs = load_file(path)
    ours = TensorFile(path)
    assert set(theirs) == set(ours) == set(STATE)
    assert len(ours) == len(STATE)
    for name, tensor in STATE.items():
        for found in (theirs[name], ours[name]):
            assert found.dtype == tensor.dtype
            assert torch.equal(found, tensor)
        assert ours.shape(name) == tuple(tensor.shape)


def test_same_tensors_same_bytes(tmp_path: Path) -> None:
    first = save_tensors(tmp_path / "a", STATE)
    reordered = {name: STATE[name].clone() for name in reversed(STATE)}
    assert save_tensors(tmp_path / "b", reordered) == first


def test_views_are_saved_as_what_they_show(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    save_tensors(tmp_path / "w", {"part": whole[1:2], "turned": whole.T, "again": whole})
    found = TensorFile(tmp_path / "w")
    assert found["part"].tolist() == [[4, 5, 6, 7]]
    assert found["turned"].tolist() == whole.T.tolist()
    assert found["again"].tolist() == whole.tolist()


def test_tensors_that_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights"):
        save_tensors(tmp_path / "w", {})
    with pytest.raises(InputError, match="complex64"):
        save_tensors(tmp_path / "w", {"z": torch.zeros(1, dtype=torch.complex64)})
    assert not list(tmp_path.iterdir())


def test_part_shows_names_without_their_prefix(tmp_path: Path) -> None:
    save_tensors(tmp_path / "w", STATE)
    part = TensorFile(tmp_path / "w").part("proposals.")
    assert set(part) == {"half", "brain", "empty"}
    assert len(part) == 3
    assert "half" in part
    assert "clip.a" not in part
    assert part.shape("empty") == (0, 4)
    assert part["half"].tolist() == [1.5, 2.5, 3.5]
    with pytest.raises(KeyError):
        part["a"]


def header(**entries: Any) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04pickle",
        (10**12).to_bytes(8, "little") + b"{}",  # the header would be a terabyte
        header(a=ENTRY),  # no data
        header(a=ENTRY) + bytes(4),  # cut short
        header(a=ENTRY) + bytes(12),  # too long
        header(a={**ENTRY, "data_offsets": [0, 4]}) + bytes(4),  # 2 numbers in 4 bytes
        header(a={**ENTRY, "shape": [2**62, 2**62]}) + bytes(8),  # overflow
        header(a=ENTRY, b=ENTRY) + bytes(8),  # overlap
        header(a={**ENTRY, "data_offsets": [8, 16]}) + bytes(16),  # gap
        header(a={**ENTRY, "dtype": "F33"}) + bytes(8),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a whole safetensors file") as raised:
        TensorFile(path)
    assert "\n" not in str(raised.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights file"):
        TensorFile(tmp_path / "w.safetensors")


# --------------------------------------------------------------------------------------
# Loading
# --------------------------------------------------------------------------------------


def test_load_into_copies_and_casts() -> None:
    module = nn.Linear(2, 1)
    weights = {
        "weight": torch.tensor([[1.0, 2.0]], dtype=torch.float16),
        "bias": torch.tensor([0.5], dtype=torch.float64),
    }
    load_into(module, weights, source="here")
    assert module.weight.dtype == module.bias.dtype == torch.float32
    assert module(torch.tensor([3.0, 4.0])).tolist() == [11.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": None}, r"1 missing \(bias\)"),
        ({"b": torch.zeros(1), "c": torch.zeros(1)}, r"2 unexpected \(b, c\)"),
        (
            {"weight": torch.zeros(2, 1)},
            r"1 of another shape \(weight \(2, 1\) instead of \(1, 2\)\)",
        ),
        ({"bias": None, "a": torch.zeros(1)}, r"1 missing \(bias\); 1 unexpected \(a\)"),
    ],
)
def test_load_into_is_strict(change: dict[str, Tensor | None], message: str) -> None:
    module = nn.Linear(2, 1)
    before = module.weight.clone()
    weights = {"weight": torch.ones(1, 2), "bias": torch.ones(1), **change}
    given = {name: tensor for name, tensor in weights.items() if tensor is not None}
    with pytest.raises(InputError, match=message) as raised:
        load_into(module, given, source="here")
    assert "weights of here" in str(raised.value)
    assert "preset" in str(raised.value)
    assert torch.equal(module.weight, before)


def test_long_lists_of_names_are_cut() -> None:
    module = nn.Sequential(*(nn.Linear(1, 1) for _ in range(4)))
    with pytest.raises(InputError, match=r"8 missing \(0\.weight, 0\.bias, 1\.weight, \.\.\.\)"):
        load_into(module, {}, source="here")


def test_starting_points_may_leave_parts_out() -> None:
    module = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    kept = module[1].weight.clone()
    first = {"0.weight": torch.tensor([[5.0]]), "0.bias": torch.tensor([6.0])}
    load_into(module, first, source="here", may_miss=["1."])
    assert module[0].weight.item() == 5
    assert torch.equal(module[1].weight, kept)
    with pytest.raises(InputError, match=r"1 missing \(0\.bias\)"):
        load_into(module, {"0.weight": first["0.weight"]}, source="here", may_miss=["1."])


def test_skipping_initialisation_draws_nothing_and_is_over_after_the_block() -> None:
    state = torch.get_rng_state()
    with skip_initialisation():
        nn.Sequential(nn.Linear(8, 8), nn.Conv2d(3, 4, 1), nn.MultiheadAttention(8, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert nn.LayerNorm(8).weight.tolist() == [1.0] * 8
    nn.Linear(8, 8)
    assert not torch.equal(torch.get_rng_state(), state)


# --------------------------------------------------------------------------------------
# Folders
# --------------------------------------------------------------------------------------


def test_folder_round_trip(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "m", STATE, {"preset": "tiny", "numbers": [1, 2]}, "# Terms\n")
    assert sorted(p.name for p in folder.iterdir()) == sorted([CONFIG, WEIGHTS, NOTICE])
    config, tensors = load_folder(folder, verify=True)
    assert config["preset"] == "tiny"
    assert config["numbers"] == [1, 2]
    assert config["weights"]["sha256"] == file_hash(folder / WEIGHTS)
    assert torch.equal(tensors["clip.a"], STATE["clip.a"])
    assert (folder / NOTICE).read_text() == "# Terms\n"


def test_saving_again_replaces(tmp_path: Path) -> None:
    save_folder(tmp_path, STATE, {"preset": "tiny"}, "old")
    save_folder(tmp_path, {"void": torch.ones(3)}, {"preset": "vit_b"}, "new")
    config, tensors = load_folder(tmp_path, verify=True)
    assert config["preset"] == "vit_b"
    assert list(tensors) == ["void"]


def test_a_folder_whose_writing_was_cut_short_is_refused(tmp_path: Path) -> None:
    save_folder(tmp_path, STATE, {"preset": "tiny"}, "terms")
    with pytest.raises(TypeError):
        save_folder(tmp_path, {"void": torch.ones(3)}, {"preset": object()}, "terms")
    with pytest.raises(InputError, match="cut short"):
        load_folder(tmp_path)


def test_weights_of_another_folder_are_noticed(tmp_path: Path) -> None:
    save_folder(tmp_path / "a", STATE, {}, "terms")
    other = {**STATE, "void": STATE["void"] + 1}
    save_folder(tmp_path / "b", other, {}, "terms")
    save_folder(tmp_path / "c", {"void": torch.ones(3)}, {}, "terms")
    weights = tmp_path / "a" / WEIGHTS
    weights.write_bytes((tmp_path / "b" / WEIGHTS).read_bytes())  # as long, other values
    load_folder(tmp_path / "a")
    with pytest.raises(InputError, match="not the file that"):
        load_folder(tmp_path / "a", verify=True)
    weights.write_bytes((tmp_path / "c" / WEIGHTS).read_bytes())
    with pytest.raises(InputError, match="not the file that"):
        load_folder(tmp_path / "a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "JSON object"),
        ("{}", "does not describe its weights"),
        ("[" * 100_000, "not JSON"),
        (" " * (2**24 + 1), "too large"),
    ],
)
def test_damaged_configurations(tmp_path: Path, text: str, message: str) -> None:
    save_folder(tmp_path, STATE, {}, "terms")
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        load_folder(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("")
    with pytest.raises(InputError, match="is a file"):
        save_folder(tmp_path / "m", STATE, {}, "terms")


# --------------------------------------------------------------------------------------
# The hub
# --------------------------------------------------------------------------------------


def test_local_folders_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert resolve_folder("owner/name") == Path("owner/name")
    assert resolve_folder(tmp_path) == tmp_path


@pytest.mark.parametrize(
    "name", ["nowhere", "./no/where", "/no/where", "a/b/c", "../x/y", "a/..", ""]
)
def test_names_that_can_be_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if not name:
        name = "gone/"
    with pytest.raises(InputError, match="scanseg convert"):
        resolve_folder(name)


def test_offline_is_one_line_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    with pytest.raises(InputError, match="scanseg convert") as raised:
        resolve_folder("scanseg/no-such-model")
    assert time.monotonic() - start < 10
    assert "\n" not in str(raised.value)


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as one push and one pull need: real requests of the real client."""

    files: dict[str, bytes]
    models: set[str]
    requests: list[str]

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, value: Any, status: int = 200, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        hub = type(self)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.requests.append(self.path)
        if self.path.endswith("/repos/create"):
            given = json.loads(body)
            name = (
                f"{given['organization']}/{given['name']}"
                if given.get("organization")
                else given["name"]
            )
            hub.models.add(name)
            self.answer({"url": f"{self.address()}/{name}", "id": name})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked
            ]
            self.answer({"files": modes})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    hub.files[entry["value"]["path"]] = content
            self.answer({"commitUrl": self.address() + "/me/model/commit/1", "commitOid": "1" * 40})
        else:
            self.answer({}, 404)

    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]

    def do_GET(self) -> None:
        hub = type(self)
        hub.requests.append(self.path)
        known = any(f"/{m}" in self.path for m in hub.models)
        if not known:
            self.answer({"error": "x"}, 404, X_Error_Code="RepoNotFound")
        elif "/tree/" in self.path:
            self.answer(
                [
                    {"type": "file", "path": f, "size": len(c), "oid": "0" * 40}
                    for f, c in hub.files.items()
                ]
            )
        elif "/api/models/" in self.path:
            siblings = [{"rfilename": f} for f in hub.files]
            self.answer({"id": "me/model", "sha": "1" * 40, "siblings": siblings, "tags": []})
        else:
            content = hub.files[self.path.rpartition("/")[2]]
            self.answer(
                content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit="1" * 40
            )

    def do_HEAD(self) -> None:
        self.do_GET()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Address of a hub on this machine; the client believes to be online."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    Hub.files, Hub.models, Hub.requests = {"pytorch_model.bin": b"pickle"}, set(), []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_push_and_pull(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save_folder(tmp_path / "m", STATE, {"preset": "tiny"}, "# Terms")
    (folder / "secret.bin").write_bytes(b"not part of the model")
    address = push_folder(folder, "me/model", token="hf_test", endpoint=hub)
    assert address == f"{hub}/me/model/commit/1"
    assert {CONFIG, WEIGHTS, NOTICE} <= Hub.files.keys()
    assert "secret.bin" not in Hub.files

    pulled = resolve_folder("me/model", endpoint=hub)
    assert sorted(p.name for p in pulled.iterdir()) == sorted([CONFIG, WEIGHTS, NOTICE])
    config, tensors = load_folder(pulled, verify=True)
    assert config["preset"] == "tiny"
    assert torch.equal(tensors["void"], STATE["void"])


def test_unknown_hub_models(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no model you/none on the hub"):
        resolve_folder("you/none", endpoint=hub)


def test_pushing_what_is_no_model(hub: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="owner/name"):
        push_folder(tmp_path, "just-a-name", endpoint=hub)
    with pytest.raises(InputError, match=CONFIG):
        push_folder(tmp_path, "me/model", endpoint=hub)
    assert not Hub.requests


def test_pushing_without_a_network(tmp_path: Path) -> None:
    folder = save_folder(tmp_path, STATE, {}, "terms")
    with pytest.raises(InputError, match="could not upload to me/model") as raised:
        push_folder(folder, "me/model", token="hf_test")
    assert "\n" not in str(raised.value)


def test_mapped_tensors_are_those_that_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    saved = {
        "a": torch.arange(6.0).view(2, 3),
        "b": torch.ones(5, dtype=torch.float16),
        "c": torch.zeros(0, 4),
        "scale": torch.tensor(3.0),
    }
    save_tensors(path, saved)
    before = path.read_bytes()
    file = TensorFile(path)
    for name, value in saved.items():
        assert torch.equal(file.mapped(name), value)
        assert file.mapped(name).dtype == value.dtype
    file.mapped("a").fill_(9)  # writing copies the pages
    assert path.read_bytes() == before
    assert torch.equal(TensorFile(path).mapped("a"), saved["a"])


def test_loading_may_leave_weights_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    source = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    save_tensors(path, source.state_dict())
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2).bfloat16())
    load_into(module, TensorFile(path), source="the test", mapped=("0.weight", "1."))
    assert torch.equal(module[0].weight, source[0].weight)
    assert module[1].weight.dtype == torch.bfloat16  # another type than the file's: copied
    assert torch.equal(module[1].weight, source[1].weight.bfloat16())
    path.unlink()  # what is mapped stays
    assert torch.equal(module[0].weight, source[0].weight)


def test_the_fingerprint_read_from_a_file_is_the_models_own(tmp_path: Path) -> None:
    folder = Segmenter.from_pretrained("tiny", device="cpu").save_pretrained(tmp_path / "model")
    seg = Segmenter.from_pretrained(folder, device="cpu")
    clip: Any = seg.region_clip
    from_file = clip.fingerprint
    clip._fingerprint = None
    assert clip.fingerprint == from_file
    with torch.no_grad():
        clip.model.token_embedding.weight[0, 0] += 1
    assert clip.fingerprint != from_file


def test_constants_have_a_fingerprint_of_their_own() -> None:
    first, second = (Segmenter.from_pretrained("embedded", device="cpu") for _ in range(2))
    before = constants_fingerprint(first)
    assert constants_fingerprint(second) == before
    affinity: Any = second.proposals.affinity  # type: ignore[union-attr]
    affinity.share = 0.8
    assert fingerprint(second) == fingerprint(first)
    assert constants_fingerprint(second) != before
    affinity.share = 0.5
    assert constants_fingerprint(second) == before
    second.recipe = replace(second.recipe, resize=Resize(short=512, longest=512))
    assert constants_fingerprint(second) != before
