"""A stretch of the rows of published embeddings, read without the others, from this machine or from the object store.

An output is verified by the digests of whole files. So that a stretch can be verified as well, `embeddings/row_digests.npy` has the SHA-256 of
every ROWS_TOGETHER rows of each array. Embeddings of before there was that file are fetched and verified whole.
"""

from __future__ import annotations

import hashlib
import io
import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from smar_model.lake.artifacts import Artifact, DamagedOutput
from smar_model.lake.shared_files import store
from smar_model.retrieval.item_embeddings import KINDS

ROWS_TOGETHER = 1 << 12
"""Rows that are read and verified together: 2 MB of vectors of 128 dimensions."""
DIGESTS = "embeddings/row_digests.npy"
_LONGEST_HEADER = 1 << 12
"""Bytes in which an array's header ends."""


def write_row_digests(folder: Path, arrays: list[np.memmap]) -> None:
    """Write `row_digests.npy`, (kinds, ⌈N / ROWS_TOGETHER⌉, 32) uint8, beside finished arrays (N, D)."""
    digests = [[_digest(block) for _, block in _blocks(array)] for array in arrays]
    np.save(folder / Path(DIGESTS).name, np.array(digests, np.uint8).reshape(len(arrays), -1, 32))


class RoutedStretch:
    """[S_t ; S_m − S_t] of the items from `start` up to `stop`, (stop − start, 2D) float32, for the rows that are asked for, from 0.

    Read by blocks from files: what has been read is the kernel's to keep, and `forget` gives it back.
    """

    def __init__(self, embed: Artifact, start: int, stop: int, scratch: Path) -> None:
        """
        Args:
            embed: output of embed or embed-release.
            scratch: folder of this machine for copies of what lies in the object store.

        Raises:
            DamagedOutput: the stretch is not what was published.
        """
        kinds = [kind for kind in KINDS if f"embeddings/{kind}.npy" in embed.manifest["files"]]
        arrays = [_stretch(embed, number, start, stop, scratch) for number, kind in enumerate(kinds)]
        self._text, self._multimodal = arrays[0], arrays[-1]
        self.shape = (stop - start, 2 * self._text.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        width = self._text.shape[1]
        text = self._text[rows]
        routed = np.empty((len(text), 2 * width), np.float32)
        routed[:, :width] = text
        np.subtract(self._multimodal[rows], text, out=routed[:, width:])
        return routed

    def forget(self) -> None:
        """Let the kernel take the pages of what has been read; they are read again where they are asked for."""
        for array in (self._text, self._multimodal):
            _advise(array)


def _stretch(embed: Artifact, number: int, start: int, stop: int, scratch: Path) -> np.ndarray:
    """Rows of an array, verified, memory-mapped."""
    name = f"embeddings/{KINDS[number]}.npy"
    if DIGESTS not in embed.manifest["files"]:
        return np.load(embed.file(name), mmap_mode="r")[start:stop]
    digests = np.load(embed.file(DIGESTS))[number]
    is_here = (embed.place / name).is_file()
    remote = _RemoteArray(embed, name) if store() and not is_here else None
    source: _RemoteArray | np.ndarray = _opened(embed, name) if remote is None else remote
    first = start // ROWS_TOGETHER * ROWS_TOGETHER
    copy = None
    if remote is not None:
        shape = (stop - start, source.shape[1])
        copy = np.lib.format.open_memmap(scratch / f"{KINDS[number]}.npy", mode="w+", dtype=np.float32, shape=shape)
    for begin in range(first, stop, ROWS_TOGETHER):
        block = source[begin : begin + ROWS_TOGETHER]
        if _digest(block) != digests[begin // ROWS_TOGETHER].tolist():
            raise DamagedOutput(
                embed, f"{embed.place / name}: missing or damaged (rows from {begin:,} are not what was published)"
            )
        if copy is not None:
            low, high = max(start, begin), min(stop, begin + len(block))
            copy[low - start : high - start] = block[low - begin : high - begin]
    if copy is not None:
        copy.flush()
        _advise(copy)
        return np.load(scratch / f"{KINDS[number]}.npy", mmap_mode="r")
    assert isinstance(source, np.ndarray)
    _advise(source)
    mine: np.ndarray = source[start:stop]
    return mine


def _opened(embed: Artifact, name: str) -> np.ndarray:
    try:
        return np.load(embed.place / name, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DamagedOutput(embed, f"{embed.place / name}: missing or damaged ({error})") from None


class _RemoteArray:
    """Rows of an array (N, D) float32 of an output, each stretch by one request to the object store."""

    def __init__(self, artifact: Artifact, name: str) -> None:
        self._artifact, self._name = artifact, name
        header = io.BytesIO(self._read(0, _LONGEST_HEADER))
        np.lib.format.read_magic(header)
        self.shape, _, self._type = np.lib.format.read_array_header_1_0(header)
        self._begin = header.tell()

    def __getitem__(self, rows: slice) -> np.ndarray:
        row = self._type.itemsize * self.shape[1]
        first, stop = rows.start, min(rows.stop, self.shape[0])
        content = self._read(self._begin + first * row, self._begin + stop * row)
        return np.frombuffer(content, self._type).reshape(-1, self.shape[1])

    def _read(self, start: int, stop: int) -> bytes:
        shared, path = store(), self._artifact.place / self._name
        assert shared, "a file that is not on this machine is in a store"
        stop = min(stop, self._artifact.manifest["files"][self._name]["bytes"])
        content = shared.read_range(path, start, stop)
        if content is None or len(content) != stop - start:
            raise DamagedOutput(self._artifact, f"{path}: missing or damaged (gone from the object store, or cut off)")
        return content


def _blocks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(array), ROWS_TOGETHER):
        yield start, array[start : start + ROWS_TOGETHER]


def _digest(block: np.ndarray) -> list[int]:
    return list(hashlib.sha256(np.ascontiguousarray(block).data).digest())


def _advise(array: np.ndarray) -> None:
    """Give the pages of a memory-mapped array back; its content is in the file."""
    mapped: object = array
    while isinstance(mapped, np.ndarray):
        mapped = getattr(mapped, "_mmap", None) or mapped.base
    if isinstance(mapped, mmap.mmap):
        mapped.madvise(mmap.MADV_DONTNEED)
