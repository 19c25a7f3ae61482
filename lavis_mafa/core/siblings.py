"""Rows of one image in a batch: counting them, and keeping them apart."""

from collections.abc import Iterator
from itertools import islice

import numpy as np

from lavis_mafa.core.neighbors import IntArray


def distinct_images(image_id_KB: IntArray) -> float:
    """The mean number of different images in a batch; image_id (batches, B)."""
    image_id_KB = np.sort(image_id_KB, axis=1)
    return float((image_id_KB[:, 1:] != image_id_KB[:, :-1]).sum(1).mean() + 1)


def keep_apart(order: IntArray, image_id_N: IntArray, batch_size: int) -> IntArray:
    """Reorder whole batches so that a batch holds at most one row of an image, wherever that is possible.

    A row whose image is already in the batch waits for the next batch, so the siblings of a batch of look-alikes form
    the following batches of the same look-alikes.

    Args:
        order: records in the order of a plan.
        image_id_N: (N,) the image of each record.
        batch_size: B.

    Returns:
        The same records in the new order.
    """
    assert len(order) % batch_size == 0
    deferred = _defer(order.tolist(), image_id_N.tolist(), batch_size)
    batches_KB = np.fromiter(deferred, np.int64, len(order)).reshape(-1, batch_size)
    _swap_out(batches_KB, image_id_N)
    return batches_KB.ravel()


def _defer(order: list[int], image_of: list[int], batch_size: int) -> Iterator[int]:
    """Fills batch after batch, first with waiting rows, then with new ones; at the end with whatever is left."""
    waiting: dict[int, list[int]] = {}  # the rows of each image that was met twice in a batch
    rows = iter(order)
    for _ in range(len(order) // batch_size):
        images = set(islice(waiting, batch_size))
        batch = [_take(waiting, image) for image in tuple(islice(waiting, batch_size))]
        while len(batch) < batch_size and (row := next(rows, None)) is not None:
            if image_of[row] in images:
                waiting.setdefault(image_of[row], []).append(row)
            else:
                images.add(image_of[row])
                batch.append(row)
        while len(batch) < batch_size:
            batch.append(_take(waiting, next(iter(waiting))))
        yield from batch


def _take(waiting: dict[int, list[int]], image: int) -> int:
    row = waiting[image].pop()
    if not waiting[image]:
        del waiting[image]
    return row


def _swap_out(batches_KB: IntArray, image_id_N: IntArray) -> None:
    """Swaps rows that share a batch with a sibling (the last batches may hold some) into other batches, in place."""
    image_KB = image_id_N[batches_KB]
    hopeless: set[int] = set()  # images that are in every batch already
    for k in range(len(image_KB)):
        first = np.unique(image_KB[k], return_index=True)[1]
        for b in np.setdiff1d(np.arange(image_KB.shape[1]), first):
            image = image_KB[k, b]
            if image in hopeless:
                continue
            without = np.flatnonzero((image_KB != image).all(1))
            if not len(without):
                hopeless.add(image)
            for other in without[::-1]:  # the last batches first: they are the nearest
                fits = np.flatnonzero(~np.isin(image_KB[other], image_KB[k]))
                if len(fits):
                    here, there = (k, b), (other, fits[0])
                    for table in (batches_KB, image_KB):
                        table[here], table[there] = table[there], table[here]
                    break
