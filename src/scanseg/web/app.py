"""The routes of the server."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from scanseg import __version__
from scanseg.contracts import InputError
from scanseg.vocabulary import Vocabulary
from scanseg.web import examples
from scanseg.web.guard import Guard
from scanseg.web.limits import Refusal, ServeLimits
from scanseg.web.words import count, read_words
from scanseg.web.worker import Answer, Worker

STATIC = Path(__file__).parent / "static"
OUTPUTS = ("json", "map", "overlay")
_MOST_FIELDS = 100  # of a form; they are held in memory, unlike the photo


class SegmentForm(BaseModel):
    """The parts of a request to ``/api/v1/segment`` (``multipart/form-data``)."""

    photo: str = Field(
        description="The image file: JPEG, PNG, WebP, GIF, AVIF, TIFF, BMP, PPM, JPEG 2000 or QOI.",
        json_schema_extra={"format": "binary"},
    )
    labels: str = Field(
        description='Words: "cat, sofa", lines such as "sofa: couch, settee" with synonyms, or '
        'JSON (["cat", "sofa"] or {"sofa": ["couch"]}). May be repeated.',
        examples=["cat, sofa, window"],
    )
    preset: str | None = Field(None, description="A model that /api/v1/about lists.")
    unknown_below: float | None = Field(
        None, ge=0, le=1, description="Pixels of lower confidence become unknown."
    )
    background: str | None = Field(
        None,
        description='Words whose pixels become unknown, separated by commas; "none" for no such '
        "words. Left out: the preset's.",
    )
    output: str = Field(
        "json",
        description='"json", "map" (indexed PNG: 0 is unknown, i is word i) or "overlay" (a '
        'picture with a legend). "Accept: image/png" means "map".',
        json_schema_extra={"enum": list(OUTPUTS)},
    )
    maps: bool = Field(False, description="With json: add label and confidence of every pixel.")
    preview: bool = Field(False, description="With json: add the photo as the model saw it.")


class Mask(BaseModel):
    """A mask in COCO's compressed run-length encoding."""

    size: list[int] = Field(description="Height, width.")
    counts: str


class SegmentRecord(BaseModel):
    """All pixels of a word."""

    label: int = Field(description="Index into labels.")
    name: str
    score: float = Field(description="Mean confidence, 0 to 1.")
    area: int = Field(description="Pixels.")
    share: float = Field(description="Of the photo, 0 to 1.")
    bbox: list[int] = Field(description="x, y, width, height.")
    segmentation: Mask


class Record(BaseModel):
    """The answer with ``output=json``; the largest segment comes first."""

    image: dict[str, Any] = Field(description="width, height, name.")
    labels: list[str]
    settings: dict[str, Any] = Field(description="What made the map: preset, settings, versions.")
    notes: list[str]
    unknown_share: float
    segments: list[SegmentRecord]
    maps: dict[str, Any] | None = Field(
        None,
        description="With maps=true: width, height, colours; labels (label + 1, 16 bits little "
        "endian) and confidence (floor(200 c), bytes, differences along rows), both deflated "
        "(zlib), base 64.",
    )
    preview: str | None = Field(None, description="With preview=true: a JPEG as a data URL.")


class Trouble(BaseModel):
    """The answer to a request that cannot be served."""

    error: str = Field(description="What is the matter, one line.")
    hint: str = Field(description="What to do about it; may be empty.")


_TROUBLES: dict[int | str, dict[str, Any]] = {
    status: {"model": Trouble, "description": meaning}
    for status, meaning in {
        403: "Another host name or origin than the server's own.",
        408: "The upload was too slow.",
        413: "Too many bytes, pixels, words or characters.",
        422: "Not an image, a word that cannot be used, an option that does not exist.",
        429: "The queue is full.",
        500: "A fault of ours.",
        503: "Took too long, or too many connections.",
    }.items()
}


def create_app(worker: Worker, limits: ServeLimits, hosts: Collection[str] = ()) -> FastAPI:
    """The application.

    Args:
        worker: does the work; started already, ended with the application.
        limits: on requests.
        hosts: names under which the server may be called, besides localhost and IP addresses.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.to_thread(worker.close)

    app = FastAPI(
        title="scanseg",
        version=__version__,
        description="Open-vocabulary image segmentation: a photo and any words in, a labelled map "
        "out.",
        docs_url=None,  # FastAPI's pages load their code from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    _add_pages(app)
    _add_interface(app, worker, limits)
    _add_errors(app)
    app.add_middleware(
        Guard,
        limits=limits,
        hosts=hosts,
        metrics=worker.metrics,
        routes=[str(path) for route in app.routes if (path := getattr(route, "path", None))],
    )
    return app


def _add_pages(app: FastAPI) -> None:
    unchanged = {"cache-control": "no-cache"}  # ask whether it changed, then use the copy

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers=unchanged)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(STATIC / "docs.html", headers=unchanged)

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> FileResponse:
        return FileResponse(STATIC / "icon.svg", headers=unchanged)

    @app.get("/examples/{name}", include_in_schema=False)
    async def example(name: str) -> FileResponse:
        found = examples.available().get(name)
        if found is None or found.path is None:
            raise HTTPException(404)
        return FileResponse(found.path, headers=unchanged)

    app.mount("/static", StaticFiles(directory=STATIC))


def _add_interface(app: FastAPI, worker: Worker, limits: ServeLimits) -> None:
    presets = [preset.name for preset in worker.plan.presets]
    own = psutil.Process()

    @app.get("/health", summary="Whether photos can be segmented now")
    async def health() -> JSONResponse:
        """200 when an engine is ready or busy, 503 while one starts."""
        state = worker.state
        content = {"status": state, "waiting": worker.waiting, "version": __version__}
        return JSONResponse(content, 503 if state == "loading" else 200)

    @app.get("/metrics", summary="Counters for Prometheus", response_class=Response)
    async def metrics() -> Response:
        text = worker.metrics.text(
            requests_waiting=worker.waiting,
            engine_busy=worker.busy,
            server_memory_bytes=own.memory_info().rss,
            engine_memory_bytes=_memory(worker.process_id),
        )
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/api/v1/about", summary="Presets, limits and sample photos")
    async def about() -> dict[str, Any]:
        found = examples.available().values()
        return {
            "version": __version__,
            "presets": presets,
            "limits": {
                "bytes": limits.max_bytes,
                "pixels": limits.max_pixels,
                "labels": limits.max_labels,
                "characters": limits.max_characters,
                "seconds": limits.max_seconds,
            },
            "examples": [
                {
                    "name": e.name,
                    "photo": f"/examples/{e.name}",
                    "words": list(e.words),
                    "credit": e.credit,
                }
                for e in found
            ],
        }

    form_schema = SegmentForm.model_json_schema()

    @app.post(
        "/api/v1/segment",
        summary="Segment a photo",
        response_model=Record,
        responses={
            200: {
                "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
                "description": "The record, or a PNG.",
            },
            **_TROUBLES,
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"multipart/form-data": {"schema": form_schema}},
            }
        },
    )
    async def segment(request: Request) -> Response:
        """Label the pixels of one photo with your words."""
        kind = request.headers.get("content-type", "")
        if not kind.lower().startswith("multipart/form-data"):
            raise Refusal(
                422, "the request is no form", "send multipart/form-data with photo and labels"
            )
        async with request.form(
            max_files=1, max_fields=_MOST_FIELDS, max_part_size=limits.field_bytes
        ) as form:
            job, photo = _job(form, request, presets, limits)
            answer = await _unless_gone(request, worker.submit(job, photo.file.read))
        return Response(
            answer.body,
            media_type=answer.type,
            headers={"server-timing": f"engine;dur={1000 * answer.seconds:.0f}"},
        )


def _memory(process_id: int | None) -> int:
    """Resident bytes of a process, 0 if there is none."""
    try:
        return 0 if process_id is None else psutil.Process(process_id).memory_info().rss
    except psutil.Error:
        return 0


def _job(
    form: FormData, request: Request, presets: list[str], limits: ServeLimits
) -> tuple[dict[str, Any], UploadFile]:
    """What to do, checked as far as that is cheap."""
    known = list(SegmentForm.model_fields)
    for name in form:
        if name not in known:
            raise Refusal(
                422,
                f"no option {name[:40]!r}{_nearest(name, known)}",
                f"known: {', '.join(known)}",
            )
    photo = form.get("photo")
    if not isinstance(photo, UploadFile):
        raise Refusal(422, "there is no photo", "send the image file as the part photo")
    if (photo.size or 0) > limits.max_bytes:
        raise Refusal(
            413,
            f"the photo is larger than {limits.max_bytes / 2**20:.3g} MB",
            "shrink it or save it as JPEG first",
        )
    texts = [str(text) for text in form.getlist("labels") if isinstance(text, str)]
    if not any(text.strip() for text in texts):
        raise Refusal(422, "there are no words", 'send what to look for as labels, "cat, sofa"')
    vocabulary = _vocabulary(texts, _text(form, "background"), limits)
    preset = _text(form, "preset") or presets[0]
    if preset not in presets:
        raise Refusal(
            422,
            f"no preset {preset[:40]!r} here{_nearest(preset, presets)}",
            f"this server offers: {', '.join(presets)}",
        )
    wants_png = request.headers.get("accept", "").startswith("image/png")
    output = _text(form, "output") or ("map" if wants_png else "json")
    if output not in OUTPUTS:
        raise Refusal(422, f"no output {output[:40]!r}", f"choose: {', '.join(OUTPUTS)}")
    job = {
        "preset": preset,
        "labels": {name: list(vocabulary.synonyms.get(name, ())) for name in vocabulary.names},
        "background": None if vocabulary.background is None else list(vocabulary.background),
        "unknown_below": _share(form, "unknown_below"),
        "output": output,
        "maps": _switch(form, "maps"),
        "preview": _switch(form, "preview"),
        "name": Path((photo.filename or "").replace("\\", "/")).name[:200],
    }
    return job, photo


def _vocabulary(texts: list[str], background: str | None, limits: ServeLimits) -> Vocabulary:
    length = sum(map(len, texts)) + len(background or "")
    if length > limits.field_bytes:  # not worth taking apart
        raise _too_many(f"{length} characters of words", limits.max_characters)
    try:
        vocabulary = read_words(texts, background)
    except InputError as error:
        raise Refusal.of(422, str(error)) from error
    words, characters = count(vocabulary)
    if words <= limits.max_labels and characters <= limits.max_characters:
        return vocabulary
    if words > limits.max_labels:
        raise _too_many(f"{words} words", limits.max_labels)
    raise _too_many(f"{characters} characters of words", limits.max_characters)


def _too_many(what: str, most: int) -> Refusal:
    return Refusal(413, f"{what} are more than the {most} allowed", "ask for fewer at a time")


def _text(form: FormData, name: str) -> str | None:
    """A field, ``None`` where it is absent or empty."""
    value = form.get(name)
    return value.strip() if isinstance(value, str) and value.strip() else None


def _share(form: FormData, name: str) -> float | None:
    text = _text(form, name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise Refusal(422, f"{name} is {text[:40]!r}", "send a number from 0 to 1")
    return value


def _switch(form: FormData, name: str) -> bool:
    text = (_text(form, name) or "false").lower()
    if text not in ("true", "false", "1", "0"):
        raise Refusal(422, f"{name} is {text[:40]!r}", "send true or false")
    return text in ("true", "1")


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word[:40], known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """Wait for work, but no longer than the client does."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> Response:
        hints = {404: "the page is /, its description for programs /docs", 405: "see /docs"}
        hint = hints.get(error.status_code, "")
        status, reason = error.status_code, str(error.detail).lower()
        if status == 400 and "maximum" in reason:  # parts of a form that are too many or too large
            status, hint = 413, "send the photo once, and all words in one part"
        return JSONResponse({"error": reason, "hint": hint}, status, headers=error.headers)
