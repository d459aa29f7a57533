"""Tasks of the DeepMind Control Suite as Gymnasium environments, from pixels or from the simulator's state."""

import contextlib
import logging
import weakref
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np

from curl_rl.envs import gl
from curl_rl.envs.distraction import Distraction, check_distraction
from curl_rl.envs.errors import EnvError
from curl_rl.envs.labels import check_labels, label_side

# Written down so that listing and registering tasks imports no simulator; a test holds it equal to suite.ALL_TASKS.
DOMAINS: dict[str, tuple[str, ...]] = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": ("balance", "balance_sparse", "swingup", "swingup_sparse", "two_poles", "three_poles"),
    "cheetah": ("run",),
    "dog": ("stand", "walk", "trot", "run", "fetch"),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("upright", "swim"),
    "hopper": ("stand", "hop"),
    "humanoid": ("stand", "walk", "run", "run_pure_state"),
    "humanoid_CMU": ("stand", "walk", "run"),
    "lqr": ("lqr_2_1", "lqr_6_2"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("walk", "run", "escape", "fetch"),
    "reacher": ("easy", "hard"),
    "stacker": ("stack_2", "stack_4"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("stand", "walk", "run"),
}
TASKS = {f"{domain}_{task}": (domain, task) for domain, tasks in DOMAINS.items() for task in tasks}

# In the order of a task's own observations; other tasks number theirs.
_CHEETAH = ("root_x", "root_z", "root_pitch", "b_thigh", "b_shin", "b_foot", "f_thigh", "f_shin", "f_foot")
_QUANTITIES = {
    "cartpole_swingup": ("cart_position", "pole_cos", "pole_sin", "cart_velocity", "pole_velocity"),
    "cheetah_run": (  # which leaves out how far it has run
        *(f"{joint}_position" for joint in _CHEETAH[1:]),
        *(f"{joint}_velocity" for joint in _CHEETAH),
    ),
}

_UNLIMITED = 1e10  # dm_control's bound of an actuator without a range (mjMAXVAL)


class DmcEnv(gym.Env[np.ndarray, np.ndarray]):
    """One task of the suite.

    Observations are frames (3, H, W) uint8 or, with `obs="state"`, the task's own observations in its order as float32
    (D,). Actions are float32 in [-1, 1], scaled to the actuators. A step repeats its action `action_repeat` times, or
    to the episode's end, and adds up the rewards. A time limit truncates. `reset(seed=s)` starts the episode that
    `suite.load(..., task_kwargs={"random": s})` starts, whatever ran before, bit for bit.

    With `labels`, `info["labels"]` (s, s) uint8 with s = label_side(image_size) says what each cell of the frame shows:
    0 nothing, 1 the world (its floor and walls), else 1 + the body's index, at most 255. Tendons and skins, which
    belong to no single body, come after the last one. With `state`, `info["state"]` names the numbers of the task's own
    observations, whatever `obs` is.

    With `distraction` colours, camera or background differ from episode to episode and, where `distraction_dynamic`,
    from step to step (see `Distraction`): an episode is still what its seed and actions make it, and its states and
    rewards are those of the plain task.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(
        self,
        task: str,
        *,
        obs: str = "pixels",
        image_size: int = 100,
        camera: int | str = 0,
        action_repeat: int = 1,
        time_limit: float | None = None,
        render_mode: str | None = "rgb_array",
        labels: bool = False,
        state: bool = False,
        distraction: str = "",
        distraction_intensity: str = "easy",
        distraction_dynamic: bool = True,
        distraction_split: str = "train",
    ):
        if obs not in ("pixels", "state"):
            raise EnvError(f"obs must be 'pixels' or 'state', not {obs!r}")
        check_labels(labels, obs, image_size)
        check_distraction(distraction, obs, camera)
        if image_size < 1 or action_repeat < 1:
            raise EnvError(f"image_size ({image_size}) and action_repeat ({action_repeat}) must be at least 1")
        self._name, self._obs, self._size, self._repeat = task, obs, (image_size, image_size), action_repeat
        self._label_side, self._tells = label_side(image_size) if labels else 0, state
        self._limit = {} if time_limit is None else {"time_limit": time_limit}
        self.render_mode = render_mode
        gl.choose(required=obs == "pixels")
        self._load(None)
        self._camera = self._camera_index(camera)
        self._distraction = Distraction(
            distraction,
            distraction_intensity,
            dynamic=distraction_dynamic,
            split=distraction_split,
            domain=TASKS[task][0],
            camera=self._camera,
        )
        self._distraction.prepare(self._env.physics)
        self._renderers: dict[tuple[int, int], _Renderer] = {}
        self._ended = True
        self.metadata = {**self.metadata, "render_fps": round(1 / (self._env.control_timestep() * action_repeat))}
        self.observation_space = self._observation_space()
        self._middle, self._half = _actuator_range(self._env.action_spec())
        self.action_space = gym.spaces.Box(-1, 1, self._middle.shape, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Start an episode, exactly reproducible from `seed` (0 to 2**32 - 1); without one go on with the last."""
        super().reset(seed=seed, options=options)
        if seed is not None and self._name.startswith("lqr"):
            self._load(seed)  # the only domain that draws its model when it is loaded
            self._distraction.prepare(self._env.physics)
        elif seed is not None:
            self._env.task._random = np.random.RandomState(seed)
        # Nothing of the last episode stays: the simulator clears its state with the solver's warm start, and each task
        # sets anew whatever it randomises in the model.
        step = self._env.reset()
        for renderer in self._renderers.values():
            renderer.upload(self._env.physics)
        self._distraction.start(self._env.physics, seed)
        self._ended = False
        return self._observe(step), self._info(step)

    def step(self, action: np.ndarray):
        """Act for `action_repeat` simulator steps, fewer where the episode ends."""
        if self._ended:
            raise RuntimeError("this episode has ended: call reset before step")
        action = np.asarray(action, np.float64)
        if action.shape != self._middle.shape:
            raise ValueError(f"{self._name} takes actions of shape {self._middle.shape}, not {action.shape}")
        action = self._middle + self._half * action
        step = self._env.step(action)
        reward, frames = float(step.reward), 1
        while frames < self._repeat and not step.last():
            step = self._env.step(action)
            reward += float(step.reward)
            frames += 1
        self._distraction.advance(self._env.physics, frames)
        self._ended = step.last()
        terminated = self._ended and step.discount == 0
        return self._observe(step), reward, terminated, self._ended and not terminated, self._info(step)

    def render(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return the camera's view (H, W, 3) uint8, `size` = (H, W) if not that of the observations."""
        renderer = self._renderer(size or self._size)
        if self._distraction.texture is not None:
            renderer.upload_texture(self._env.physics, self._distraction.texture)
        return renderer.render(self._env.physics, self._camera)

    def close(self) -> None:
        """Let go of the OpenGL context, which other environments of the process may share."""
        self._renderers.clear()

    @property
    def render_info(self) -> dict[str, str]:
        """What decides an image's bits beside the task: versions of the simulator and, for pixels, the renderer."""
        import mujoco

        info = {"mujoco": mujoco.__version__}
        if self._obs == "pixels":
            info |= {"gl_backend": gl.choose(), "gl_renderer": self._renderer(self._size).name}
        return info

    def _load(self, seed: int | None) -> None:
        with _quiet():
            suite = _suite()
            domain, task = TASKS[self._name]
            self._env = suite.load(domain, task, task_kwargs={"random": seed, **self._limit})
        # A task with terrain uploads it to the physics' own context, and would create one even where nothing renders.
        self._env.physics._make_rendering_contexts = lambda: None

    def _camera_index(self, camera: int | str) -> int:
        model = self._env.physics.model.ptr
        names = [model.camera(i).name for i in range(model.ncam)]
        if isinstance(camera, str) and camera in names:
            return names.index(camera)
        if isinstance(camera, int) and -1 <= camera < model.ncam:
            return camera
        raise EnvError(f"{self._name} has cameras 0 to {model.ncam - 1} ({', '.join(names)}), not {camera!r}")

    def _observation_space(self) -> gym.spaces.Box:
        if self._obs == "pixels":
            return gym.spaces.Box(0, 255, (3, *self._size), np.uint8)
        dims = sum(int(np.prod(spec.shape)) for spec in self._env.observation_spec().values())
        return gym.spaces.Box(-np.inf, np.inf, (dims,), np.float32)

    def _observe(self, step: Any) -> np.ndarray:
        if self._obs == "pixels":
            return np.ascontiguousarray(self.render().transpose(2, 0, 1))
        return _flat(step)

    def _info(self, step: Any) -> dict[str, Any]:
        info: dict[str, Any] = {}
        if self._label_side:
            renderer = self._renderer((self._label_side, self._label_side))
            info["labels"] = renderer.segment(self._env.physics, self._camera)
        if self._tells:
            state = _flat(step)
            names = _QUANTITIES.get(self._name) or [f"state_{i}" for i in range(len(state))]
            info["state"] = dict(zip(names, state.tolist(), strict=True))
        return info

    def _renderer(self, size: tuple[int, int]) -> "_Renderer":
        if size not in self._renderers:
            physics = self._env.physics
            # Terrain and textures live in the context, so environments that change them cannot share one.
            shared = physics.model.nhfield == 0 and self._distraction.texture is None
            renderer = _RENDERERS.get((self._name, size)) if shared else None
            if renderer is None:
                renderer = _Renderer(physics, size)
                if shared:
                    _RENDERERS[self._name, size] = renderer
            self._renderers[size] = renderer
        return self._renderers[size]


def _flat(step: Any) -> np.ndarray:
    return np.concatenate([np.ravel(value) for value in step.observation.values()]).astype(np.float32)


class _Renderer:
    """An off-screen buffer of exactly the image's size and a scene, for all environments of one task and size.

    The same bits as `physics.render`, which builds a scene and resolves a 640x480 buffer at each call.
    """

    def __init__(self, physics: Any, size: tuple[int, int]):
        import mujoco
        from dm_control import _render
        from dm_control.mujoco import wrapper

        self._size = size
        self._mujoco: Any = mujoco  # its members are compiled, and unknown to a type checker
        offscreen = physics.model.vis.global_
        usual = offscreen.offheight, offscreen.offwidth
        offscreen.offheight, offscreen.offwidth = size
        try:
            self._gl: Any = _render.Renderer(max_width=size[1], max_height=size[0])
            self._context = wrapper.MjrContext(physics.model, self._gl)
        except Exception as error:
            raise EnvError(f"OpenGL ({_render.BACKEND}) cannot render here ({error!r}): {gl.MEND}") from error
        finally:
            offscreen.offheight, offscreen.offwidth = usual
        self._scene = wrapper.MjvScene(model=physics.model)
        self._option, self._perturb = wrapper.MjvOption(), wrapper.MjvPerturb()  # dm_control's: no rangefinder rays
        self._rect = self._mujoco.MjrRect(0, 0, size[1], size[0])
        with self._gl.make_current() as context:
            self.name: str = context.call(gl.renderer_name)

    def upload(self, physics: Any) -> None:
        """Bring an episode's terrain to the context."""
        for index in range(physics.model.nhfield):
            with self._gl.make_current() as context:
                context.call(self._mujoco.mjr_uploadHField, physics.model.ptr, self._context.ptr, index)

    def upload_texture(self, physics: Any, texture: int) -> None:
        """Bring a texture, as it is in the model now, to the context."""
        with self._gl.make_current() as context:
            context.call(self._mujoco.mjr_uploadTexture, physics.model.ptr, self._context.ptr, texture)

    def render(self, physics: Any, camera: int) -> np.ndarray:
        """Return a view (H, W, 3) uint8; camera -1 is the free one."""
        self._update(physics, camera)
        return self._read()

    def segment(self, physics: Any, camera: int) -> np.ndarray:
        """Return the class of each pixel of a view, (H, W) uint8, as `DmcEnv` describes it."""
        flags, model = self._mujoco.mjtRndFlag, physics.model
        self._update(physics, camera)
        with self._scene.override_flags({flags.mjRND_SEGMENT: True, flags.mjRND_IDCOLOR: True}):
            red, green, blue = np.moveaxis(self._read().astype(np.int64), 2, 0)
        kinds = self._mujoco.mjtObj
        bodies = {kinds.mjOBJ_GEOM: model.geom_bodyid, kinds.mjOBJ_SITE: model.site_bodyid}
        classes = np.zeros(self._scene.ngeom + 1, np.uint8)  # by colour, which is 0 where nothing was drawn
        for geom in (geom for geom in self._scene.geoms if geom.segid >= 0):
            body = bodies[geom.objtype][geom.objid] if geom.objtype in bodies else model.nbody
            classes[geom.segid + 1] = min(body + 1, 255)
        return classes[red + (green << 8) + (blue << 16)]

    def _update(self, physics: Any, camera: int) -> None:
        mujoco, model = self._mujoco, physics.model.ptr
        view = mujoco.MjvCamera()
        view.fixedcamid = camera
        if camera < 0:
            mujoco.mjv_defaultFreeCamera(model, view)
        else:
            view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        every = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(model, physics.data.ptr, self._option, self._perturb, view, every, self._scene)

    def _read(self) -> np.ndarray:
        image = np.empty((*self._size, 3), np.uint8)
        with self._gl.make_current() as context:
            context.call(self._draw, image)
        return np.ascontiguousarray(image[::-1])  # OpenGL's first row is the lowest

    def _draw(self, image: np.ndarray) -> None:
        self._mujoco.mjr_render(self._rect, self._scene, self._context.ptr)
        self._mujoco.mjr_readPixels(image, None, self._rect, self._context.ptr)


_RENDERERS: weakref.WeakValueDictionary[tuple[str, tuple[int, int]], _Renderer] = weakref.WeakValueDictionary()


def _suite() -> Any:
    try:
        from dm_control import suite
    except (ImportError, AttributeError) as error:  # PyOpenGL fails with either when a library is missing
        raise EnvError(f"dm_control cannot be imported ({error!r}). If OpenGL is the cause: {gl.MEND}") from error
    return suite


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence absl's warnings, which are about the suite's own XML and not for its users."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _actuator_range(spec: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return middle and half-width of each actuator's range; one without a range takes actions as they are."""
    limited = np.abs(spec.maximum) < _UNLIMITED
    low, high = np.where(limited, spec.minimum, -1.0), np.where(limited, spec.maximum, 1.0)
    return (low + high) / 2, (high - low) / 2
