"""What `predict` takes from Python, as batches of pixels: files, PIL images, arrays, tensors."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from PIL import Image

from imgbench.data.shards import ShardImage
from imgbench.errors import DecodeError, UserError
from imgbench.files import cores
from imgbench.intensity import Intensity, to_8_bits
from imgbench.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import TypeIs


@runtime_checkable
class OpenFile(Protocol):
    """A file that is open, such as io.BytesIO, that of `open(path, "rb")`, or an upload to a server."""

    def read(self) -> Any: ...


Known: TypeAlias = str | Path | ShardImage | bytes | Image.Image | np.ndarray
Source: TypeAlias = "Known | Tensor"
CHANNELS = (1, 3, 4)  # grey, RGB, RGB with opacity
EXPECTED = (
    "a path, a PIL image, an array (height, width, 3) or (height, width), a tensor (3, height, width), a file opened "
    "in binary mode or its bytes, a batch of these, or a list"
)


def is_tensor(value: object) -> "TypeIs[Tensor]":
    """There are none where nobody has imported torch, which takes seconds."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def single_images(images: "Source | OpenFile | Iterable[Source | OpenFile]") -> list[Source]:
    """One source for each image: batches (N, height, width, channels) and (N, channels, height, width) are taken apart.

    Open files are read from their beginning.

    Raises:
        UserError: there is something that is none of these.
    """
    several: Any = images
    if isinstance(images, Known | OpenFile | bytearray | memoryview) or is_tensor(images):
        several = [images]
    elif not isinstance(images, Iterable):
        raise UserError(f"predict was given a {type(images).__name__}; expected {EXPECTED}.")
    sources: list[Source] = []
    for number, image in enumerate(several):
        if isinstance(image, OpenFile):
            image = _content(image, number)
        elif isinstance(image, bytearray | memoryview):
            image = bytes(image)
        if not (isinstance(image, Known) or is_tensor(image)):
            raise UserError(f"image {number} of predict is a {type(image).__name__}; expected {EXPECTED}.")
        if (isinstance(image, np.ndarray) or is_tensor(image)) and image.ndim == 4:
            sources.extend(image)
        else:
            sources.append(image)
    return sources


def _content(file: Any, number: int) -> bytes:
    if hasattr(file, "seekable") and file.seekable():
        file.seek(0)  # as Pillow does: one that was just written, or read before, is at its end
    try:
        content = file.read()
    except UnicodeDecodeError:  # of a file in text mode
        content = ""
    if not isinstance(content, bytes):
        raise UserError(f"image {number} of predict is a {type(file).__name__} of text; open it in binary mode, 'rb'.")
    return content


def to_image(pixels: "np.ndarray | Tensor", intensity: Intensity) -> Image.Image:
    """The PIL image of 8 bits that an array or tensor of one image means.

    Raises:
        DecodeError: its shape or its values could mean several things, or nothing.
    """
    layout = "(height, width, 3)"
    if is_tensor(pixels):
        layout, pixels = "(3, height, width)", pixels.detach().cpu()
        values = (pixels.float() if str(pixels.dtype) == "torch.bfloat16" else pixels).numpy()
        found = f"a tensor of {str(pixels.dtype).removeprefix('torch.')} {tuple(values.shape)}"
        ambiguous = values.ndim == 3 and values.shape[2] in CHANNELS
        if values.ndim == 3:
            values = values.transpose(1, 2, 0)
    else:
        values, found = pixels, f"an array of {pixels.dtype} {pixels.shape}"
        ambiguous = values.ndim == 3 and values.shape[0] in CHANNELS
    if values.size == 0 or values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in CHANNELS):
        swap = ".permute(2, 0, 1)" if is_tensor(pixels) else ".transpose(1, 2, 0)"
        hint = f"; {swap} turns the axes" if ambiguous else ""
        raise DecodeError(f"{found}; expected {layout}, or (height, width) for grey{hint}")
    if ambiguous:
        raise DecodeError(f"{found}, whose channels may be the first axis or the last; expected {layout}")
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(_as_uint8(values, intensity, found)))


def _as_uint8(values: np.ndarray, intensity: Intensity, found: str) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "uif":
        raise DecodeError(f"{found}; expected uint8, or floats from 0 to 1")
    low, high = float(values.min()), float(values.max())
    found += f" with values from {low:.4g} to {high:.4g}"
    of_model = intensity if not isinstance(intensity, str) and values.ndim == 2 else None
    if values.dtype.kind == "f":
        share = low >= 0 and high <= 1  # False of NaN too
        if of_model and share and of_model[1] > 1:
            raise DecodeError(
                f"{found}, but the files that this model was trained on had values from {of_model[0]:g} to "
                f"{of_model[1]:g}; expected values of that kind"
            )
        if not of_model and not share:
            raise DecodeError(f"{found}; expected floats from 0 to 1, which the model normalises itself, or uint8")
        return to_8_bits(values, of_model or (0, 1))
    if low < 0 and not of_model:
        raise DecodeError(f"{found}; expected uint8, or whole numbers from 0")
    return to_8_bits(values, of_model or intensity)


def _bytes_in_shard(image: ShardImage) -> bytes:
    """Raises:
    OSError: the image cannot be read.
    UserError: none can any more, since the shard is gone, or has become too short.
    """
    try:
        return image.read_bytes()
    except OSError as error:
        if image.shard.is_file() and image.shard.stat().st_size >= image.offset + image.size:
            raise
        raise UserError(
            f"{image.shard} was there when its photographs were listed, and cannot be read now: "
            f"{error.strerror or error}. What was found before is kept. Bring it back, and repeat the same command: it "
            "goes on from there."
        ) from error


def decode_batches(
    sources: Sequence[Source], preprocessing: Preprocessing, batch_size: int = 32
) -> "Iterator[tuple[list[int], Tensor, dict[int, str]]]":
    """As `decode_pixels`, with the images (n, 3, image_size, image_size) as a tensor."""
    from imgbench.data.batches import as_images

    for indices, pixels, errors in decode_pixels(sources, preprocessing, batch_size):
        yield indices, as_images(pixels), errors


def decode_pixels(
    sources: Iterable[Source], preprocessing: Preprocessing, batch_size: int = 32
) -> Iterator[tuple[list[int], np.ndarray, dict[int, str]]]:
    """Decodes single images in threads, a batch ahead of the consumer: of millions, two batches are in memory.

    Yields the indices of the images that could be decoded, the images (n, image_size, image_size, 3) uint8, and for the
    others why not.

    Raises:
        UserError: `batch_size` is no number of images.
    """
    if not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise UserError(f"batch_size={batch_size!r}, but it is a number of images, at least 1.")

    def decode(source: Source) -> np.ndarray | str:
        try:
            if isinstance(source, np.ndarray) or is_tensor(source):
                source = to_image(source, preprocessing.intensity)
            elif isinstance(source, ShardImage):
                source = _bytes_in_shard(source)
            return preprocessing.decode(source)[preprocessing.center, preprocessing.center]
        except (DecodeError, OSError, ValueError) as error:
            return str(error)

    with ThreadPoolExecutor(cores()) as pool:
        rest = iter(sources)

        def submit() -> "list[Future[np.ndarray | str]]":
            return [pool.submit(decode, source) for source in islice(rest, batch_size)]

        start, ahead = 0, submit()
        while ahead:
            futures, ahead = ahead, submit()
            decoded = [future.result() for future in futures]
            good = [i for i, pixels in enumerate(decoded) if not isinstance(pixels, str)]
            size = preprocessing.image_size
            pixels = np.stack([decoded[i] for i in good]) if good else np.empty((0, size, size, 3), np.uint8)
            errors = {start + i: reason for i, reason in enumerate(decoded) if isinstance(reason, str)}
            yield [start + i for i in good], pixels, errors
            start += len(futures)
