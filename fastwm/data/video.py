"""Frames of a video file by their number, decoded with PyAV (FFmpeg's libraries).

Frames are counted in the order in which they are shown. Which there are is known from the file's packets, without
decoding; to read some, the file is opened, sought to the last point before them from which it can be decoded, and
decoded from there. A file that was cut short still gives the frames before the cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .readers.reader import needs
from .resize import Size, resize

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

GIF_END = b"\x3b"
SLACK = 2.5  # frames that a container's stated duration may be longer than its packets


@dataclass(frozen=True)
class Packets:
    """What a video file consists of: its frames' times, in the order shown, and what is wrong with it."""

    times: NDArray[np.int64]  # [frames], in units of `unit` seconds
    seeks: NDArray[np.int64]  # [.], those of them from which decoding can start
    unit: float
    damage: str | None


class Video:
    """The file `path`: its picture's height and width, its frames per second, and its frames.

    Raises FileNotFoundError, ImportError where PyAV is missing, and ValueError where the file is no video.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        self.path = path
        with self._open() as container:
            stream = container.streams.video[0]
            self.size = (int(stream.height), int(stream.width))
            self.fps = float(stream.average_rate or 0) or None
            self._seekable = container.format.name != "gif"
            end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
            self.cut_short = end > path.stat().st_size  # as far as an index in the file tells
            self.seconds = float(container.duration or 0) / 1e6  # as it says, 0 where it does not

    def __len__(self) -> int:
        """Number of frames that the file holds whole."""
        return len(self.packets.times)

    @cached_property
    def packets(self) -> Packets:
        """What the file consists of; made by reading, not decoding, all of it."""
        times, seeks, damage = [], [], None
        length = self.path.stat().st_size
        with self._open() as container:
            stream = container.streams.video[0]
            unit = float(stream.time_base)
            for packet in _whole(container, stream, length):
                times.append(packet.pts)
                if packet.is_keyframe:
                    seeks.append(packet.pts)
            shown = np.unique(np.array(times, np.int64))
            stated = max(int(stream.frames), len(stream.index_entries) if self.cut_short else 0)
        if len(shown) == 0:
            damage = "it holds no frame"
        elif self.cut_short or len(shown) < stated:
            damage = f"it ends after {len(shown)} of {stated} frames"
        elif (
            self.fps and self.seconds - (shown[-1] - shown[0]) * unit > SLACK / self.fps and not self._is_gif
        ):
            damage = f"it ends after {(shown[-1] - shown[0]) * unit:.3g} of {self.seconds:.3g} seconds"
        elif self._is_gif and not self.path.read_bytes().endswith(GIF_END):
            damage = f"it ends in the middle, after {len(shown)} frames"
        return Packets(shown, np.sort(np.array(seeks, np.int64)), unit, damage)

    def at(self, seconds: NDArray[np.floating[Any]], within: float) -> NDArray[np.int64]:
        """Numbers of the frames [n] nearest to `seconds` [n], or -1 where none is `within` so many seconds."""
        times, unit = self.packets.times, self.packets.unit
        if len(times) == 0:
            return np.full(len(seconds), -1, np.int64)
        place = np.clip(np.searchsorted(times * unit, seconds), 1, max(len(times) - 1, 1))
        near = np.stack([place - 1, np.minimum(place, len(times) - 1)])
        apart = np.abs(times[near] * unit - seconds)
        best = near[np.argmin(apart, axis=0), np.arange(len(seconds))]
        return np.where(apart.min(axis=0) <= within, best, -1)

    def frames(self, numbers: ArrayLike, size: Size | None = None) -> NDArray[np.uint8]:
        """Frames `numbers` [n] in any order, uint8 [n, height, width, 3], resized where `size` is given.

        ValueError naming the file where one of them cannot be decoded.
        """
        wanted = np.asarray(numbers, np.int64)
        height, width = size or self.size
        pictures = np.empty((len(wanted), height, width, 3), np.uint8)
        different, places = np.unique(wanted, return_inverse=True)
        if len(different) == 0:
            return pictures
        if different[0] < 0 or different[-1] >= len(self):
            raise ValueError(f"{self.path}: frames {different[0]} to {different[-1]} of {len(self)}")
        order = np.argsort(places, kind="stable")
        counts = np.bincount(places)
        first = np.cumsum(counts) - counts
        for number, picture in enumerate(self._decode(self.packets.times[different])):
            pictures[order[first[number] : first[number] + counts[number]]] = resize(picture, size)
        return pictures

    @property
    def _is_gif(self) -> bool:
        return not self._seekable

    def _decode(self, times: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        """The pictures uint8 [height, width, 3] shown at `times` [n], which ascend."""
        av = needs("av", "video", self.path)
        done = 0
        try:
            with self._open() as container:
                stream = container.streams.video[0]
                stream.codec_context.thread_count = 1  # batches are decoded side by side
                position = int(self.packets.times[0]) - 1  # of the last frame decoded
                while done < len(times):
                    seek = self._seek(int(times[done]), position)
                    if seek is not None:
                        container.seek(seek, stream=stream, backward=True)
                    begun = done
                    for frame in _shown(container, stream, self.path.stat().st_size):
                        if frame.pts is None:
                            continue
                        position = int(frame.pts)
                        if position < times[done]:
                            continue
                        if position > times[done]:
                            break
                        if frame.is_corrupt:
                            raise ValueError(f"{self.path}: damaged: frame at {position} is corrupt")
                        yield frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
                        done += 1
                        if done == len(times) or self._seek(int(times[done]), position) is not None:
                            break
                    if done == begun:
                        raise ValueError(f"{self.path}: damaged: no frame could be decoded at {times[done]}")
        except av.FFmpegError as error:
            raise ValueError(f"{self.path}: damaged: {error}") from error

    def _seek(self, time: int, position: int) -> int | None:
        """Where to seek to for the frame at `time` when the one at `position` came last; None: read on."""
        if self._is_gif or len(self.packets.seeks) == 0:
            return 0 if position > time else None
        place = int(np.searchsorted(self.packets.seeks, time, side="right")) - 1
        key = int(self.packets.seeks[max(place, 0)])
        return key if position > time or key > position + 1 else None

    def _open(self) -> InputContainer:
        av = needs("av", "video", self.path)
        try:
            container: InputContainer = av.open(str(self.path))
        except av.FFmpegError as error:
            raise ValueError(f"{self.path}: damaged, or not a video ({error})") from error
        if not container.streams.video:
            container.close()
            raise ValueError(f"{self.path}: damaged, or not a video (it has no video stream)")
        if container.streams.video[0].codec_context is None:
            container.close()
            raise ValueError(f"{self.path}: damaged, or of a codec that is not known here")
        return container


def _whole(container: InputContainer, stream: VideoStream, length: int) -> Iterator[Packet]:
    """The packets of `stream` that lie within a file of `length` bytes."""
    av = needs("av", "video", Path(container.name))
    try:
        for packet in container.demux(stream):
            if packet.size == 0 or packet.pts is None:
                continue
            if packet.is_corrupt or (packet.pos is not None and packet.pos + packet.size > length):
                return
            if not packet.is_discard:
                yield packet
    except av.FFmpegError:  # a file cut short: what follows is not there
        return


def _shown(container: InputContainer, stream: VideoStream, length: int) -> Iterator[VideoFrame]:
    """The frames of `stream` from where the container stands, in the order shown."""
    for packet in _whole(container, stream, length):
        yield from stream.codec_context.decode(packet)
    yield from stream.codec_context.decode(None)
