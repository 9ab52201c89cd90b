"""Batches of decoded images: from the cache, or decoded when asked for."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from imgbench.data.pixels import digest
from imgbench.data.table import ImageTable
from imgbench.errors import DecodeError, UserError
from imgbench.files import cores
from imgbench.preprocessing import Preprocessing

Batch = tuple[Tensor, Tensor]
WINDOW = 8  # shards, of 10,000 images each unless told otherwise, that are shuffled together


def as_images(pixels: np.ndarray) -> Tensor:
    """(N, 3, H, W) view of (N, H, W, 3) pixels: PyTorch's channels-last layout, without a copy."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


class ImageDataset(Dataset[Batch]):
    """Whole batches of uint8 images (N, 3, stored_size, stored_size) and int64 targets (N,) of rows of a table.

    Where the table has no pixels, images are decoded when they are needed.

    Raises:
        UserError: a file that is decoded then has been changed or removed since it was listed.
    """

    def __init__(self, table: ImageTable, rows: np.ndarray, preprocessing: Preprocessing) -> None:
        self.table, self.rows, self.preprocessing = table, rows, preprocessing

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        rows = self.rows[indices]
        if self.table.pixels is not None:
            images = np.asarray(self.table.pixels[rows])
        else:
            images = np.stack([self._decoded(int(row)) for row in rows])
        return as_images(images), torch.from_numpy(self.table.labels[rows].astype(np.int64))

    def _decoded(self, row: int) -> np.ndarray:
        try:
            data = self.table.read(row)
            if digest(data) != self.table.digests[row].tobytes():
                raise DecodeError("its content is another")
            return self.preprocessing.decode(data)
        except (OSError, DecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            path = self.table.photograph(row)
            raise UserError(
                f"{path} was changed or removed while it was in use ({reason}). Restore it, or begin anew; with "
                "data.cache=disk, nothing is read twice."
            ) from error

    def __getitem__(self, index: int) -> Batch:
        images, targets = self.__getitems__([index])
        return images[0], targets[0]


def keep_batch(batch: Any) -> Any:
    """The `collate_fn` of a data set that returns batches."""
    return batch


class EvenBatches(BatchSampler):
    """As few batches of at most `batch_size` as there can be, and all as large as the others, give or take one.

    Two images left over at the end of each epoch would upset the statistics of batch normalisation just before it is
    evaluated. Processes that train together share each batch, of which no share is empty: all take as many steps, on
    the images of which a single process would make its batches. Lightning would repeat images instead, and count them
    twice.

    Args:
        batch_size: of one process.
        process: the number of this one, of `processes`.
    """

    def __init__(self, sampler: Any, batch_size: int, process: int = 0, processes: int = 1) -> None:
        super().__init__(sampler, batch_size, drop_last=False)
        self.process, self.processes = process, processes

    def __len__(self) -> int:
        number = len(self.sampler)  # pyright: ignore[reportArgumentType]
        return min(-(-number // (self.batch_size * self.processes)), number // self.processes)

    def __iter__(self) -> Iterator[list[int]]:
        number, batches = len(self.sampler), len(self)  # pyright: ignore[reportArgumentType]
        indices = iter(self.sampler)
        for i in range(batches):
            batch = list(islice(indices, number // batches + (i < number % batches)))
            yield batch[self.process :: self.processes]


class StreamingLoader(DataLoader[Batch]):
    """Decodes batches in threads, ahead of the step that needs them.

    Pillow lets go of the interpreter lock while it decodes. Worker processes would take seconds to start, and a copy of
    all paths each.
    """

    def __iter__(self) -> Iterator[Batch]:  # pyright: ignore[reportIncompatibleMethodOverride]
        threads = cores()
        with ThreadPoolExecutor(threads) as pool:
            ahead: deque[Future[Batch]] = deque()
            for indices in self.batch_sampler or ():
                ahead.append(pool.submit(self.dataset.__getitems__, indices))  # pyright: ignore[reportAttributeAccessIssue]
                if len(ahead) > 2 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()


class EpochSampler(Sampler[int]):
    """A new order in every epoch, that depends on the seed and the epoch alone: a resumed run sees the same.

    Of images in shards, `WINDOW` shards, drawn at random, are shuffled together, then the next. So a disk or network
    that is fast only where it is read in one piece has few shards to read at a time, which the system's cache of files
    can hold. With no more shards than that, the order is that of a folder of the same images.

    Args:
        shards: (N,) the number of the shard in which each image lies; 0 of files.
    """

    def __init__(self, shards: np.ndarray, seed: int) -> None:
        self.seed, self.epoch = seed, 0
        self.by_shard = np.argsort(shards, kind="stable")
        self.ends = np.cumsum(np.bincount(shards))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.by_shard)

    def __iter__(self) -> Iterator[int]:
        return map(int, self._order(np.random.default_rng((self.seed, self.epoch))))

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        if len(self.ends) <= WINDOW:
            return rng.permutation(len(self))
        shards = rng.permutation(len(self.ends))
        starts = np.concatenate([[0], self.ends[:-1]])
        windows = []
        for first in range(0, len(shards), WINDOW):
            rows = [self.by_shard[starts[shard] : self.ends[shard]] for shard in shards[first : first + WINDOW]]
            windows.append(rng.permutation(np.concatenate(rows)))
        return np.concatenate(windows)
