"""Images as people have them; expected pixels are written out by hand."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scanseg.contracts import InputError
from scanseg.formats.photos import PhotoLimits, read_photo

UPRIGHT = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10  # H = 2, W = 3


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises width x height pixels and holds none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


# ------------------------------------------------------------------ where photos come from


def test_path_bytes_stream_pil_and_array_give_the_same_pixels(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(UPRIGHT))
    path = tmp_path / "Füße 猫.png"
    path.write_bytes(data)
    sources = [path, str(path), data, bytearray(data), io.BytesIO(data), Image.open(path), UPRIGHT]
    for source in sources:
        photo = read_photo(source)
        np.testing.assert_array_equal(photo.pixels, UPRIGHT)
        assert photo.pixels.dtype == np.uint8
        assert photo.notes == ()
    assert read_photo(path).name == "Füße 猫.png"
    with path.open("rb") as file:
        assert read_photo(file).name == "Füße 猫.png"


def test_a_pil_image_of_the_caller_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(Image.new("P", (3, 2), 1)))
    image = Image.open(tmp_path / "a.png")
    read_photo(image)
    assert image.mode == "P"
    assert image.getpixel((0, 0)) == 1


def test_an_array_of_the_caller_may_be_reused() -> None:
    buffer = UPRIGHT.copy()
    photo = read_photo(buffer)
    buffer[:] = 0
    np.testing.assert_array_equal(photo.pixels, UPRIGHT)


# ------------------------------------------------------------------ modes


def test_grey_is_repeated() -> None:
    grey = np.array([[0, 100, 255]], dtype=np.uint8)
    expected = [[[0, 0, 0], [100, 100, 100], [255, 255, 255]]]
    assert read_photo(encoded(Image.fromarray(grey))).pixels.tolist() == expected
    assert read_photo(grey).pixels.tolist() == expected
    assert read_photo(grey[:, :, None]).pixels.tolist() == expected


def test_one_bit_is_black_and_white() -> None:
    image = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    assert read_photo(encoded(image)).pixels.tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_transparent_parts_are_white_and_said_so() -> None:
    rgba = np.array([[[200, 0, 0, 255], [0, 0, 200, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    # a fifth (51 / 255) of black over white is 204
    expected = [[[200, 0, 0], [255, 255, 255], [204, 204, 204]]]
    for source in (encoded(Image.fromarray(rgba)), rgba):
        photo = read_photo(source)
        assert photo.pixels.tolist() == expected
        assert photo.notes == ("transparent parts are read as white",)


def test_an_opaque_alpha_channel_needs_no_remark() -> None:
    rgba = np.array([[[200, 0, 0, 255]]], dtype=np.uint8)
    photo = read_photo(rgba)
    assert photo.pixels.tolist() == [[[200, 0, 0]]]
    assert photo.notes == ()


def test_grey_with_alpha() -> None:
    image = Image.fromarray(np.array([[[10, 255], [10, 0]]], dtype=np.uint8), mode="LA")
    assert read_photo(encoded(image)).pixels.tolist() == [[[10, 10, 10], [255, 255, 255]]]


def test_palette_with_a_transparent_colour() -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([9, 8, 7, 60, 70, 80])
    assert read_photo(encoded(image)).pixels.tolist() == [[[9, 8, 7], [60, 70, 80]]]
    with_hole = read_photo(encoded(image, transparency=1))
    assert with_hole.pixels.tolist() == [[[9, 8, 7], [255, 255, 255]]]


def test_rgb_with_a_transparent_colour() -> None:
    data = encoded(Image.fromarray(UPRIGHT[:1, :2]), transparency=(30, 40, 50))
    assert read_photo(data).pixels.tolist() == [[[0, 10, 20], [255, 255, 255]]]


def test_cmyk() -> None:
    # Cyan 255, no key: red is gone. Nothing at all is white paper; full key is black.
    cmyk = np.array([[[255, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 255]]], dtype=np.uint8)
    data = encoded(Image.fromarray(cmyk, mode="CMYK"), "TIFF")
    assert read_photo(data).pixels.tolist() == [[[0, 255, 255], [255, 255, 255], [0, 0, 0]]]
    white = encoded(Image.new("CMYK", (8, 8)), "JPEG")  # Adobe's inverted CMYK
    assert read_photo(white).pixels.min() >= 254


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled(kind: str) -> None:
    deep = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)  # 257 * v is the value v of 8 bits
    photo = read_photo(encoded(Image.fromarray(deep), kind))
    assert photo.pixels[0, :, 0].tolist() == [0, 1, 128, 255]
    assert photo.notes == ()


def test_sixteen_bit_grey_of_a_twelve_bit_sensor_is_not_black() -> None:
    deep = np.array([[0, 2048, 4095]], dtype=np.uint16)  # 2048 / 4095 * 255 = 127.53
    photo = read_photo(encoded(Image.fromarray(deep)))
    assert photo.pixels[0, :, 1].tolist() == [0, 128, 255]
    assert photo.notes == ("16-bit grey that uses 12 bits; read as 12-bit",)


def test_float_and_wide_integer_grey_are_stretched() -> None:
    photo = read_photo(encoded(Image.fromarray(np.array([[-1, 0, 1]], dtype=np.float32)), "TIFF"))
    assert photo.pixels[0, :, 2].tolist() == [0, 128, 255]  # 127.5 is rounded to even
    assert photo.notes == ("grey values -1 to 1 are stretched to black and white",)
    wide = np.array([[0, 100_000]], dtype=np.int32)
    assert read_photo(Image.fromarray(wide)).pixels[0, :, 0].tolist() == [0, 255]


def test_tiny() -> None:
    photo = read_photo(encoded(Image.new("RGB", (1, 1), (1, 2, 3))))
    assert photo.pixels.tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "PPM", "QOI"]
)
def test_formats(kind: str) -> None:
    red = read_photo(encoded(Image.new("RGB", (16, 8), (250, 10, 10)), kind)).pixels
    assert red.shape == (8, 16, 3)
    assert np.abs(red.astype(int) - (250, 10, 10)).max() < 12  # some formats lose a little


# ------------------------------------------------------------------ orientation and frames


STORED = {  # EXIF orientation -> how the file holds a picture that is UPRIGHT when shown
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.swapaxes(0, 1),
    6: UPRIGHT.swapaxes(0, 1)[::-1],
    7: UPRIGHT[::-1, ::-1].swapaxes(0, 1),
    8: UPRIGHT.swapaxes(0, 1)[:, ::-1],
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(STORED[orientation].copy()), kind, exif=exif, **options)
    np.testing.assert_array_equal(read_photo(data).pixels, UPRIGHT)


def test_orientation_of_a_phone_jpeg() -> None:
    stored = np.zeros((32, 64, 3), dtype=np.uint8)
    stored[:, 32:] = 255  # the right half is bright; turned by 90 degrees clockwise it is below
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = read_photo(encoded(Image.fromarray(stored), "JPEG", exif=exif))
    assert photo.pixels.shape == (64, 32, 3)
    assert photo.pixels[:24].max() < 10
    assert photo.pixels[40:].min() > 245


def test_a_broken_exif_block_does_not_spoil_the_photo(recwarn: pytest.WarningsRecorder) -> None:
    data = encoded(Image.new("RGB", (8, 8), "white"), "JPEG", exif=b"Exif\0\0II*\0garbage")
    assert read_photo(data).pixels.shape == (8, 8, 3)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("GIF", "first of 3 frames"),
        ("WEBP", "first of 3 frames"),
        ("PNG", "first of 3 frames"),
        ("TIFF", "first of 3 pages"),
    ],
)
def test_the_first_frame_of_an_animation(kind: str, note: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    photo = read_photo(data)
    assert photo.pixels[0, 0].tolist() == [255, 0, 0]
    assert photo.notes == (note,)


def test_the_frame_at_which_the_caller_stands() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime")]
    image = Image.open(
        io.BytesIO(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    )
    image.seek(1)
    photo = read_photo(image)
    assert photo.pixels[0, 0].tolist() == [0, 255, 0]
    assert photo.notes == ("frame 2 of 2",)


def test_previews_in_a_phones_photo_are_no_frames() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "black")]
    photo = read_photo(encoded(frames[0], "MPO", save_all=True, append_images=frames[1:]))
    assert photo.pixels[..., 0].min() > 240
    assert photo.notes == ()


# ------------------------------------------------------------------ bounds


@pytest.mark.parametrize("size", [(100_000, 100_000), (12_000, 10_001), (2**31 - 1, 1)])
def test_pixels_are_bounded_before_decoding(size: tuple[int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's own warning must not reach the user
        with pytest.raises(InputError, match="more than 120 million"):
            read_photo(png_header(*size))


def test_limits_can_be_set() -> None:
    data = encoded(Image.new("RGB", (20, 10)))
    assert read_photo(data, limits=PhotoLimits(max_pixels=200)).pixels.shape == (10, 20, 3)
    with pytest.raises(InputError, match=r"20 x 10 pixels, more than 0.000199 million: shrink"):
        read_photo(data, limits=PhotoLimits(max_pixels=199))
    with pytest.raises(InputError, match=r"larger than 0 MB: shrink"):
        read_photo(data, limits=PhotoLimits(max_bytes=len(data) - 1))
    with pytest.raises(InputError, match=r"is 20 x 10, longer than 1.9 : 1: cut it"):
        read_photo(data, limits=PhotoLimits(max_aspect=1.9))


def test_arrays_and_pil_images_are_bounded_too() -> None:
    limits = PhotoLimits(max_pixels=5)
    with pytest.raises(InputError, match="the image array has 3 x 2 pixels"):
        read_photo(UPRIGHT, limits=limits)
    with pytest.raises(InputError, match="image has 3 x 2 pixels"):
        read_photo(Image.fromarray(UPRIGHT), limits=limits)


def test_an_endless_stream_ends() -> None:
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            assert 0 <= size <= 1001, "asked for more than the limit"
            return b"\0" * size

    with pytest.raises(InputError, match="larger than"):
        read_photo(Endless(), limits=PhotoLimits(max_bytes=1000))


# ------------------------------------------------------------------ what is no photo


def test_truncated_files(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        data = encoded(Image.fromarray(noise), kind)
        path = tmp_path / f"photo.{kind.lower()}"
        for share in (0.5, 0.1):
            path.write_bytes(data[: int(len(data) * share)])
            with pytest.raises(
                InputError, match=r"photo\.\w+ is truncated or damaged|not an image"
            ) as e:
                read_photo(path)
            assert "\n" not in str(e.value)


def test_damaged_files_are_one_line_and_never_another_error() -> None:
    """Flip bytes of real files: a photo or an InputError, nothing else."""
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    refused: list[InputError] = []
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "QOI", "JPEG2000"):
        data = np.frombuffer(encoded(Image.fromarray(noise), kind), dtype=np.uint8)
        for _ in range(40):
            broken = data.copy()
            broken[rng.integers(0, len(data), 8)] = rng.integers(0, 256, 8)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read_photo(broken.tobytes())
            except InputError as error:
                refused.append(error)
    assert len(refused) > 50
    assert not any("\n" in str(error) for error in refused)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "is empty"),
        (b"just some words\n", "is not an image"),
        (b"\x00\x00\x00\x18ftypheic\0\0\0\0", "is a HEIC photo.*save it as JPEG"),
        (b"\x00\x00\x00\x18ftypisom\0\0\0\0", "is a video"),
        (b"%PDF-1.7", "is a PDF"),
        (b'<?xml version="1.0"?><svg>', "is an SVG drawing"),
        (b"<!DOCTYPE html><title>404</title>", "is a web page"),
        (b"PK\x03\x04xxxx", "is a zip archive"),
        (b"\xff\xd8\xff\xe0", "begins like a JPEG"),
    ],
)
def test_what_a_file_is_instead(tmp_path: Path, data: bytes, line: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(InputError, match=line) as error:
        read_photo(path)
    assert str(error.value).startswith(str(path))


def test_programs_are_never_started() -> None:
    """PostScript would be handed to Ghostscript."""
    with pytest.raises(InputError, match="is not an image"):
        read_photo(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nope\.jpg does not exist"):
        read_photo(tmp_path / "nope.jpg")
    with pytest.raises(InputError, match="is a folder, not a photo"):
        read_photo(tmp_path)
    with pytest.raises(InputError, match="is a web address"):
        read_photo("https://example.org/cat.jpg")
    with pytest.raises(InputError, match="cannot be read"):
        read_photo("cat\0.jpg")
    with pytest.raises(InputError, match="cannot be read"):
        read_photo("x" * 5000)
    with pytest.raises(InputError, match="camera raw"):
        read_photo(tmp_path / "IMG_1.NEF")


def test_a_file_without_the_right_to_read_it(tmp_path: Path) -> None:
    path = tmp_path / "locked.png"
    path.write_bytes(encoded(Image.new("RGB", (2, 2))))
    path.chmod(0)
    try:
        path.read_bytes()
    except PermissionError:
        with pytest.raises(InputError, match="may not be read"):
            read_photo(path)
    else:
        pytest.skip("this user may read everything")


@pytest.mark.parametrize(
    ("array", "line"),
    [
        (np.zeros((4, 4, 3)), r"must be uint8.*not float64: use \(array \* 255\)"),
        (np.zeros((4, 4, 3), np.uint16), r"not uint16: scale it"),
        (np.zeros((3, 40, 50), np.uint8), r"shape \(3, 40, 50\): the channels come last"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"pass a list"),
        (np.zeros((4, 4, 2), np.uint8), r"cannot have shape \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), r"is empty"),
    ],
)
def test_arrays_that_are_no_photos(array: np.ndarray, line: str) -> None:
    with pytest.raises(InputError, match=line):
        read_photo(array)


def test_other_objects() -> None:
    with pytest.raises(InputError, match="cannot be read from int: pass a path"):
        read_photo(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="text mode"):
        read_photo(io.StringIO("x"))  # type: ignore[arg-type]
