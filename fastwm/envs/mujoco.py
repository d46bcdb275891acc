"""Pictures of MuJoCo scenes on a processor without a GPU, 19 to 44 times as fast.

There, shadows, multisampling, reflections and the skybox are nearly the whole cost of a picture (dm_control's reacher at
64 x 64, one core, EGL with llvmpipe: 90 pictures a second with them, 3199 without). Turning them off changes the picture:
no shadow, jagged edges, another background. That is fine for data of one's own; compare with published results only
pictures drawn as theirs were (`fast=False`).

Set MUJOCO_GL=egl (or osmesa) where there is no display, before Python starts: MuJoCo reads it when it is imported.
"""

from __future__ import annotations

import atexit
import importlib.util
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import mujoco

COSTLY = ("SHADOW", "REFLECTION", "SKYBOX", "HAZE", "FOG")


def make_fast(model: mujoco.MjModel, height: int, width: int) -> None:
    """Change `model`, before a renderer of `height` x `width` pixels is made, so that its pictures cost little."""
    model.vis.quality.offsamples = 0
    model.vis.quality.shadowsize = 0
    model.vis.global_.offheight, model.vis.global_.offwidth = height, width


def make_scene_fast(scene: mujoco.MjvScene) -> None:
    """Turn off what costs much in `scene`, a renderer's (`renderer.scene`)."""
    import mujoco

    for name in COSTLY:
        scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{name}")] = 0


def load_triton_first() -> None:
    """Import triton, where it is installed, before OpenGL is: it brings an LLVM of its own, and imported after Mesa has
    loaded the system's for llvmpipe it ends the process (triton 3, Mesa 22.3). PyTorch imports it unasked.
    """
    if importlib.util.find_spec("triton") is not None:
        importlib.import_module("triton")


class Pictures:
    """Draws `model` at `size` (height, width) as `camera` sees it; `fast` changes `model`, see above.

    An OpenGL context belongs to one thread, so pictures are drawn by a thread of their own. RuntimeError where there is
    no OpenGL: the first time MuJoCo says so, and from then on, for asked again it waits for ever.
    """

    _refused: str | None = None  # what MuJoCo said

    def __init__(
        self, model: mujoco.MjModel, size: tuple[int, int], *, camera: int | str = -1, fast: bool = True
    ) -> None:
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="pictures", daemon=True)
        self._model, self._size, self._camera, self._fast = model, size, camera, fast
        self._renderer: mujoco.Renderer
        self._thread.start()
        self._do(self._open)
        atexit.register(self.close)  # after MuJoCo's own, which it has to come before

    def draw(self, data: mujoco.MjData) -> NDArray[np.uint8]:
        """The picture uint8 [height, width, 3] of `data`, which nobody may change meanwhile."""
        picture: NDArray[np.uint8] = self._do(lambda: self._draw(data))
        return picture

    def close(self) -> None:
        """Let go of the OpenGL context."""
        if self._thread.is_alive():
            self._tasks.put(None)
            self._thread.join()

    def _open(self) -> None:
        load_triton_first()
        import mujoco

        if self._fast:
            make_fast(self._model, *self._size)
        if Pictures._refused is None:
            try:
                self._renderer = mujoco.Renderer(self._model, *self._size)
                return
            except (mujoco.FatalError, AttributeError, ImportError) as error:
                Pictures._refused = str(error)
        raise RuntimeError(
            f"MuJoCo cannot draw here ({Pictures._refused}); without a display set MUJOCO_GL=egl or osmesa before Python "
            "starts"
        )

    def _draw(self, data: mujoco.MjData) -> NDArray[np.uint8]:
        self._renderer.update_scene(data, self._camera)
        if self._fast:
            make_scene_fast(self._renderer.scene)
        return np.array(self._renderer.render())

    def _do(self, task: Callable[[], Any]) -> Any:
        if not self._thread.is_alive():
            raise RuntimeError("draw: these pictures were closed")
        future: Future[Any] = Future()
        self._tasks.put((future, task))
        return future.result()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, call = task
            try:
                future.set_result(call())
            except (RuntimeError, ValueError, TypeError, OSError) as error:
                future.set_exception(error)
        if hasattr(self, "_renderer"):
            self._renderer.close()
