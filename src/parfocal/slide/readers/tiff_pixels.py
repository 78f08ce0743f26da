"""Decode the tiles of a TIFF as RGB.

Every decoder is strict: a tile that does not yield exactly its pixels raises an error. Pixels that
cannot be shown as RGB are refused with the reason.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import simplejpeg
from jaxtyping import Shaped, UInt8
from PIL import Image
from tifffile import COMPRESSION, PHOTOMETRIC, TIFF

from parfocal.slide.readers.tiff_directories import START_OF_IMAGE, TiffDirectory

Pixels = UInt8[np.ndarray, "h w 3"]
Samples = Shaped[np.ndarray, "h w s"]
Decoder = Callable[[bytes, int], Samples]
Converter = Callable[[Samples], Pixels]

# Compressions of bytes, which the strict decoder handles; all others encode pictures.
LOSSLESS = (
    *(COMPRESSION.NONE, COMPRESSION.LZW, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE),
    *(COMPRESSION.PACKBITS, COMPRESSION.LZMA, COMPRESSION.ZSTD),
)
# Picture encodings whose decoders return RGB whatever color space is stored inside.
RETURN_RGB = (COMPRESSION.WEBP, COMPRESSION.JPEGXL, COMPRESSION.JPEGXR, COMPRESSION.PNG)
DECODABLE = (
    *LOSSLESS,
    *RETURN_RGB,
    *(COMPRESSION.JPEG, COMPRESSION.JPEG2000, COMPRESSION.APERIO_JP2000_RGB),
    *map(COMPRESSION, (2, 3, 4)),  # CCITT, whose names differ among versions of tifffile
)
OPENSLIDE_DECODES = (COMPRESSION.APERIO_JP2000_YCBC, COMPRESSION.OJPEG)
JPEG_2000 = (COMPRESSION.JPEG2000, COMPRESSION.APERIO_JP2000_RGB)
# Marker of a JPEG image; the byte that follows is 0 for RGB and 1 for YCbCr.
ADOBE_MARKER = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
END_OF_IMAGE = b"\xff\xd9"
CODESTREAM = b"\xff\x4f\xff\x51"  # start of a JPEG 2000 image
SPARE_BYTES = re.compile(r"extraneous bytes before marker 0xd9")
BITS, JPEG_BITS = (1, 2, 4, 8, 10, 12, 14, 16), (8, 12)
GRAY = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
# Number of samples of a color, without transparency.
COLOR_SAMPLES: dict[int, int] = {
    **dict.fromkeys((*GRAY, PHOTOMETRIC.PALETTE), 1),
    **dict.fromkeys((PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR), 3),
    PHOTOMETRIC.SEPARATED: 4,
}
ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2


CONVERT = (
    "Convert it to an 8-bit RGB pyramid, for example with `vips tiffsave IN OUT.tif --tile "
    "--pyramid --compression jpeg`."
)


class UnsupportedPixelsError(Exception):
    """Pixels that cannot be shown as RGB; the message completes "the file has ...".

    Args:
        message: what the file has.
        advice: what to do.
        only_here: whether OpenSlide may be able to show them.
    """

    def __init__(self, message: str, *, advice: str = CONVERT, only_here: bool = False) -> None:
        super().__init__(f"{message}. {advice}")
        self.only_here = only_here


@dataclass(frozen=True, eq=False)
class SpareBytes:
    """Indices of JPEG tiles that have zeros before their end; no pixel of them is lost."""

    tiles: set[int]


def check_pixels(directory: TiffDirectory) -> None:
    """Raise UnsupportedPixelsError if the tiles cannot be decoded as RGB."""
    _check_compression(directory)
    _check_numbers(directory)
    _check_colors(directory)


def _check_compression(directory: TiffDirectory) -> None:
    compression = directory.page.compression
    if compression not in DECODABLE:
        raise UnsupportedPixelsError(
            f"pixels compressed as {_name(COMPRESSION, compression)}, which cannot be decoded here",
            advice="The scanner's software or Bio-Formats (`bfconvert`) may decode it: export the "
            "slide again with JPEG.",
            only_here=compression in OPENSLIDE_DECODES,
        )


def _check_numbers(directory: TiffDirectory) -> None:
    """Check that a sample is a whole number of at most 16 bits."""
    dtype = directory.page.dtype
    kind = "" if dtype is None else np.dtype(dtype).kind
    if kind not in ("u", "b") or directory.bits > 16:
        words = {"i": "signed", "f": "floating-point", "c": "complex"}.get(kind, "unsigned")
        raise UnsupportedPixelsError(
            f"{directory.bits}-bit {words} pixels, which cannot be shown as colors"
        )
    if directory.bits not in (JPEG_BITS if directory.is_jpeg else BITS):
        raise UnsupportedPixelsError(f"{directory.bits} bits per sample")


def _check_colors(directory: TiffDirectory) -> None:
    """Check that the samples of a pixel make a color."""
    page, photometric, samples = directory.page, directory.page.photometric, directory.samples
    name = _name(PHOTOMETRIC, photometric)
    color = COLOR_SAMPLES.get(int(photometric))
    if color is None:
        raise UnsupportedPixelsError(f"pixels in {name}", only_here=True)
    if photometric in GRAY and samples > 2:
        raise UnsupportedPixelsError(
            f"{samples} samples per pixel that are tagged as gray (PhotometricInterpretation is "
            f"{name})",
            advice="If they are RGB, correct the tag, for example with `tiffset -s 262 2 FILE`.",
        )
    if samples < color or samples > max(color + len(page.extrasamples or ()), color + 1):
        raise UnsupportedPixelsError(f"{samples} samples per pixel with {name}")
    if photometric == PHOTOMETRIC.YCBCR and not (
        directory.is_jpeg or page.compression in RETURN_RGB
    ):
        raise UnsupportedPixelsError("YCbCr pixels that are not encoded as JPEG", only_here=True)
    if photometric == PHOTOMETRIC.SEPARATED and (samples > 4 or directory.bits != 8):
        raise UnsupportedPixelsError(f"{samples} inks of {directory.bits} bits")


def tile_decoder(directory: TiffDirectory, spare: SpareBytes) -> Decoder:
    """Return the decoder of one stored tile, or of one plane of it."""
    samples = directory.samples // directory.planes
    if directory.is_jpeg and directory.bits == 8 and samples in (1, 3):
        return _jpeg_tile_decoder(directory, samples, spare)
    is_in_bytes = directory.bits in (8, 16) and directory.page.fillorder == 1
    if directory.page.compression in LOSSLESS and is_in_bytes:
        return _lossless_decoder(directory, samples)
    return _tifffile_decoder(directory)


def rgb_converter(directory: TiffDirectory, bits: int) -> Converter | None:
    """Return the conversion of decoded samples to 8-bit RGB; None if they are that already.

    Args:
        directory: directory of the image.
        bits: number of bits of a sample that are used.
    """
    photometric = directory.page.photometric
    if photometric == PHOTOMETRIC.PALETTE:
        colors = (np.asarray(directory.page.colormap, dtype=np.uint16).T // 256).astype(np.uint8)

        def look_up(samples: Samples) -> Pixels:
            found: Pixels = colors[samples[..., 0].clip(0, len(colors) - 1)]
            return found

        return look_up
    if photometric == PHOTOMETRIC.SEPARATED:
        return _cmyk_to_rgb
    color = 1 if photometric in GRAY else 3
    alpha = _alpha(directory, color)
    if (color, directory.samples, directory.bits, alpha) == (3, 3, 8, 0):
        return None
    table = _eight_bits(bits, directory.bits)
    inverted = photometric == PHOTOMETRIC.MINISWHITE

    def convert(samples: Samples) -> Pixels:
        if samples.dtype == bool:
            samples = samples.view(np.uint8)
        scaled = samples if bits == 8 and samples.dtype == np.uint8 else table[samples]
        colors = 255 - scaled[..., :color] if inverted else scaled[..., :color]
        rgb = np.repeat(colors, 3, axis=2) if color == 1 else colors
        if alpha:
            return _over_white(rgb, scaled[..., color], is_associated=alpha == ASSOCIATED_ALPHA)
        return np.ascontiguousarray(rgb)

    return convert


def _alpha(directory: TiffDirectory, color: int) -> int:
    """Return the kind of the transparency; 0 for a further sample that is not declared as such."""
    extra = tuple(directory.page.extrasamples or ())
    kind = int(extra[0]) if extra and directory.samples > color else 0
    return kind if kind in (ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA) else 0


def _eight_bits(bits: int, stored_bits: int) -> UInt8[np.ndarray, " n"]:
    """Return the 8-bit value of each stored value, of which only some bits are used."""
    scale = 255 / (2**bits - 1)
    values = np.arange(2 ** (16 if stored_bits > 8 else 8))
    table: UInt8[np.ndarray, " n"] = np.rint(values * scale).clip(0, 255).astype(np.uint8)
    return table


def _over_white(
    rgb: UInt8[np.ndarray, "h w 3"], alpha: UInt8[np.ndarray, "h w"], *, is_associated: bool
) -> Pixels:
    """Compose over white; associated colors are multiplied with the transparency already."""
    if is_associated:
        summed: Pixels = (rgb + np.uint16(255) - alpha[..., None]).clip(0, 255).astype(np.uint8)
        return summed
    image = Image.fromarray(np.dstack([rgb, alpha]))
    white = Image.new("RGBA", image.size, "white")
    return np.array(Image.alpha_composite(white, image).convert("RGB"))


def _cmyk_to_rgb(samples: Samples) -> Pixels:
    return np.array(Image.fromarray(samples, "CMYK").convert("RGB"))


def _jpeg_tile_decoder(directory: TiffDirectory, samples: int, spare: SpareBytes) -> Decoder:
    """Return a strict JPEG decoder that uses the directory's tables and declared colors."""
    stored_tables = directory.page.jpegtables
    return jpeg_decoder(
        partial(_tile_shape, directory),
        samples,
        spare,
        # A tile with a JFIF header is YCbCr, whatever the tags declare.
        is_rgb=directory.is_rgb and not directory.is_jfif,
        tables=stored_tables[2:-2] if stored_tables else b"",  # without start and end markers
    )


def jpeg_decoder(
    shape_of: Callable[[int], tuple[int, int]],
    samples: int,
    spare: SpareBytes,
    *,
    is_rgb: bool,
    tables: bytes = b"",
) -> Decoder:
    """Return a strict JPEG decoder: any warning of libjpeg is an error.

    Args:
        shape_of: returns height and width of a tile, by its index.
        samples: number of samples per pixel, 1 or 3.
        spare: is given the tiles with spare bytes before their end.
        is_rgb: whether three samples are RGB; if False, they are YCbCr.
        tables: tables that the images lack.
    """
    marker = ADOBE_MARKER + bytes([not is_rgb]) if samples == 3 else b""
    start = START_OF_IMAGE + marker + tables
    colors = "RGB" if samples == 3 else "GRAY"

    def decode(encoded: bytes, index: int) -> Samples:
        # A damaged header may declare any size; the buffer holds one tile and no more.
        buffer = np.empty((*shape_of(index), samples), dtype=np.uint8)
        try:
            pixels = simplejpeg.decode_jpeg(start + encoded[2:], colors, buffer=buffer)
        except ValueError as error:
            trimmed = _without_spare_bytes(encoded, str(error))
            if trimmed is None:
                raise
            pixels = simplejpeg.decode_jpeg(start + trimmed[2:], colors, buffer=buffer)
            spare.tiles.add(index)
        if encoded.endswith(b"\0\0" + END_OF_IMAGE):  # few enough for the decoder to accept
            spare.tiles.add(index)
        decoded: Samples = pixels
        return decoded

    return decode


def _without_spare_bytes(encoded: bytes, message: str) -> bytes | None:
    """Remove zeros before the end marker that a decoder complains about; None for other damage.

    All zeros are removed. If some stood for lost pixels, the rest is too short to decode.
    """
    end = encoded.rfind(END_OF_IMAGE)
    if SPARE_BYTES.search(message) is None or end < 0:
        return None
    kept = encoded[:end].rstrip(b"\0")
    if len(kept) == end:
        return None
    stuffing = b"\0" if kept.endswith(b"\xff") else b""
    return kept + stuffing + END_OF_IMAGE


def _lossless_decoder(directory: TiffDirectory, samples: int) -> Decoder:
    """Return a decoder of compressed bytes that accepts only tiles of their exact length."""
    page = directory.page
    decompress = TIFF.DECOMPRESSORS[page.compression]
    unpredict = None if page.predictor == 1 else TIFF.UNPREDICTORS[page.predictor]
    stored = np.dtype(f"{page.parent.byteorder}u{directory.bits // 8}")
    width = directory.tile_size[0]
    is_raw = page.compression == COMPRESSION.NONE

    def decode(encoded: bytes, index: int) -> Samples:
        row_length = width * samples * stored.itemsize
        if is_raw:  # a part of a strip may be read
            height, raw = len(encoded) // row_length, encoded
        else:
            height = _tile_shape(directory, index)[0]
            raw = decompress(encoded, out=height * row_length)
        length = height * row_length
        if len(raw) != length:
            raise ValueError(f"the tile decodes to {len(raw)} bytes instead of {length}")
        values = np.frombuffer(raw, dtype=stored).reshape(height, width, samples)
        values = values.astype(stored.newbyteorder("="))
        if unpredict is not None:
            values = unpredict(values, axis=-2, out=values)
        return values

    return decode


def _tifffile_decoder(directory: TiffDirectory) -> Decoder:
    decode_segment = directory.page.decode
    tables = {"jpegtables": directory.page.jpegtables} if directory.is_jpeg else {}
    is_jpeg_2000 = directory.page.compression in JPEG_2000

    def decode(encoded: bytes, index: int) -> Samples:
        is_codestream = is_jpeg_2000 and encoded.startswith(CODESTREAM)
        # The decoder fills what is missing of a truncated tile with other pixels.
        if is_codestream and not encoded.rstrip(b"\0").endswith(END_OF_IMAGE):
            raise ValueError("the JPEG 2000 image does not end")
        pixels, *_ = decode_segment(encoded, index, **tables)
        assert pixels is not None  # None is returned only for empty data
        return np.array(pixels[0])  # first of the depth axis; a copy, since raw data is read-only

    return decode


def _tile_shape(directory: TiffDirectory, index: int) -> tuple[int, int]:
    """Return height and width of a tile; the last strip has the remaining rows only."""
    width, height = directory.tile_size
    if directory.is_tiled:
        return height, width
    row = index % directory.tile_counts[1]
    return min(height, directory.size[1] - row * height), width


def used_bits(directory: TiffDirectory, largest: int) -> int:
    """Return the number of bits that are used, from the largest value of a picture.

    Cameras of 10, 12 or 14 bits store their values in 16.

    >>> [next(b for b in (8, 10, 12, 14, 16) if largest < 2**b) for largest in (4080, 65535)]
    [12, 16]
    """
    if directory.bits != 16 or largest == 0:
        return directory.bits
    return next(bits for bits in (8, 10, 12, 14, 16) if largest < 2**bits)


def _name(names: type[COMPRESSION] | type[PHOTOMETRIC], value: int) -> str:
    try:
        return names(value).name
    except ValueError:
        return f"number {value}"
