"""Videos: the rollouts they show are those of an evaluation, pictures are right, what is missing is named."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from policysearch import Continuous, Discrete, Specification, Task, evaluate, resolve
from policysearch.cli.main import main
from policysearch.cli.render import main as command
from policysearch.core.controller import Controller
from policysearch.core.initial import random_layers
from policysearch.core.policies import LinearGaussian, NeuralGaussian, Parameters, Softmax
from policysearch.report import camera, video
from policysearch.report.drawings import MOST_CURVES, draw
from policysearch.report.filming import studio
from policysearch.report.studio import NoRendererError, Pace
from policysearch.report.video import render
from policysearch.runs import journal
from policysearch.tasks.gymnasium_task import GymnasiumTask
from policysearch.tasks.pendulum import Pendulum

CART_POLE = GymnasiumTask("CartPole-v1")
#: pushes to the side to which the pole leans: it falls after 30 to 60 stages
LEANING = Controller({"policy": "softmax"}, {"weight_0": [[0.0, 0.0, -1.0, 0.0], [0.0, 0.0, 1.0, 0.0]]})


def network(p, scale=2.0, seed=0):
    return NeuralGaussian(random_layers([p, 8, 1], seed, last=1.0), action_scale=[scale]).controller()


def linear(task):
    m, p = task.specification.action.size, task.specification.observation_size
    return LinearGaussian(-0.3 * np.ones((m, p))).controller()


def frames(path):
    """The frames of a GIF, RGB (n, height, width, 3), and the duration of each in ms."""
    with Image.open(path) as film:
        pictures, durations = [], []
        for index in range(film.n_frames):
            film.seek(index)
            pictures.append(np.asarray(film.convert("RGB")))
            durations.append(film.info["duration"])
    return np.stack(pictures), durations


@pytest.fixture
def pygame():
    """Skip unless the renderer of Gymnasium's classic environments is installed."""
    pytest.importorskip("pygame", reason="drawing CartPole takes the extra video")


@pytest.fixture
def opengl(monkeypatch):
    """Skip unless MuJoCo can draw here; environment variables are restored."""
    pytest.importorskip("mujoco", reason="needs the extra mujoco")
    monkeypatch.setenv("MUJOCO_GL", os.environ.get("MUJOCO_GL", ""))
    if not camera.prepare_opengl():
        pytest.skip("OpenGL does not work here without a display")


# native plants


def test_a_pendulum_has_a_frame_for_each_state_of_the_size_asked_for(tmp_path):
    path = tmp_path / "swing.gif"
    written = render(resolve("pendulum"), network(3), path, size=(161, 120), seconds=2.0)
    pictures, durations = frames(path)
    # 40 stages of 0.05 s and the state after the last one
    assert pictures.shape == (41, 120, 161, 3)
    assert set(durations) == {50}
    assert (written.frames, written.rate, written.speed) == (41, 20.0, 1.0)
    assert written.rollouts[0].stages == 40
    assert (pictures[1:] != pictures[:-1]).any(axis=(1, 2, 3)).all()


def test_the_same_seed_gives_the_same_file_and_another_one_does_not(tmp_path):
    task, policy = resolve("pendulum"), network(3)
    files = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        render(task, policy, tmp_path / f"{name}.gif", seed=seed, seconds=0.3, size=(120, 120))
        files.append((tmp_path / f"{name}.gif").read_bytes())
    assert files[0] == files[1] != files[2]


def test_a_plants_rollouts_are_the_first_ones_of_the_evaluation(tmp_path):
    task, policy = Pendulum(horizon=20), network(3)
    shown = render(task, policy, tmp_path / "swing.gif", rollouts=2, seed=5, size=(96, 96)).rollouts
    costs = evaluate(task, policy, 20, seed=5).costs
    assert np.allclose([rollout.total for rollout in shown], costs[:2], rtol=1e-5)
    assert [rollout.stages for rollout in shown] == [20, 20]


@pytest.mark.parametrize("name", ["cartpole-swingup", "double-integrator", "lqr", "lqr-mushroom"])
def test_what_moves_in_a_plant_moves_in_its_picture(name):
    task = resolve(name)
    policy = network(5, 10.0) if name.startswith("cart") else linear(task)
    pictures = []
    studio(task, policy, 1, 0, (200, 160)).rollout(0, 10, 5, pictures.append, "")
    assert [picture.shape for picture in pictures] == [(160, 200, 3)] * 3
    # not the caption, which has the time
    drawn = [picture[20:] for picture in pictures]
    assert (drawn[0] != drawn[1]).any()
    assert (drawn[1] != drawn[2]).any()


def test_the_pole_points_where_the_angle_says():
    task = resolve("cartpole-balance")
    motion = []
    original = draw.dispatch(type(task))

    def spy(task, axes, it):
        motion.append((axes, it))
        return original(task, axes, it)

    draw.register(type(task), spy)
    try:
        studio(task, network(5, 10.0), 1, 0, (300, 300)).rollout(0, 40, 40, lambda picture: None, "")
    finally:
        draw.register(type(task), original)
    axes, it = motion[0]
    pole = next(line for line in axes.lines if line.get_linewidth() == 6)
    (x0, x1), (y0, y1) = pole.get_data()
    # the rollout ended with stage 40; the pole is 1 m long, and its angle is 0 upright
    assert np.allclose([x0, y0], [it.states.position[40], 0])
    assert np.allclose([x1 - x0, y1 - y0], [np.sin(it.states.angle[40]), np.cos(it.states.angle[40])], atol=1e-5)


class Wide(Task):
    """Eight numbers that fall; the last stages of some rollouts are not finite."""

    breaks: float = 1e9

    @property
    def specification(self):
        return Specification(
            name="wide",
            action=Continuous((-1.0, -1.0, -1.0, -1.0, -1.0), (1.0, 1.0, 1.0, 1.0, 1.0)),
            observation_size=8,
            horizon=12,
            dt=2.0,
        )

    def reset(self, key):
        return jnp.arange(8.0)

    def step(self, x, u, w):
        x = x - 1.0
        return jnp.where(x[0] < -self.breaks, jnp.nan, x)

    def cost(self, x, u):
        return jnp.sum(x**2)


def test_a_plant_of_ones_own_is_shown_as_curves_and_slow_ones_faster(tmp_path):
    written = render(Wide(), linear(Wide()), tmp_path / "wide.gif", size=(200, 200))
    assert (written.frames, written.rate, written.speed) == (13, 5.0, 10.0)
    figures = []

    def spy(task, axes, motion):
        move = draw.dispatch(object)(task, axes, motion)
        figures.append(axes)
        return move

    draw.register(Wide, spy)
    studio(Wide(), linear(Wide()), 1, 0, None).rollout(0, 12, 4, lambda picture: None, "")
    assert len(figures[0].child_axes) == MOST_CURVES


def test_a_failed_rollout_is_shown_up_to_its_last_finite_state(tmp_path):
    written = render(Wide(breaks=4.5), linear(Wide()), tmp_path / "wide.gif", size=(96, 96))
    shown = written.rollouts[0]
    # the numbers start at 0 and lose 1 a stage; stage 5 finds them at −5, which is not finite
    assert (shown.stages, written.frames) == (5, 5)
    assert "stage 5 is not finite" in shown.reason


class Never(Wide):
    def reset(self, key):
        return jnp.full(8, jnp.nan)


def test_bars_show_the_action_within_its_limits():
    task = resolve("pendulum")
    red = []
    for torque in (-2.0, 1.0):
        policy = LinearGaussian([[0.0, 0.0, 0.0]], bias=[torque]).controller()
        pictures = []
        studio(task, policy, 1, 0, (400, 400)).rollout(0, 1, 1, pictures.append, "")
        found = np.argwhere((np.abs(pictures[0].astype(int) - (196, 69, 28)) < 4).all(-1))
        assert (np.abs(pictures[1].astype(int) - (196, 69, 28)) < 4).all(-1).sum() == 0  # none acts at the end
        red.append(found[:, 1])
    full, half = np.ptp(red[0]), np.ptp(red[1])
    assert red[0].max() < red[1].min() + 3
    assert abs(half / full - 0.5) < 0.05


def test_a_choice_among_actions_can_be_drawn():
    class Choice(Wide):
        @property
        def specification(self):
            return Specification(name="choice", action=Discrete(3), observation_size=8, horizon=4)

    policy = Softmax([(np.eye(3, 8), None)]).controller()
    pictures = []
    drawn = studio(Choice(), policy, 1, 0, (200, 200))
    assert drawn.dt is None
    drawn.rollout(0, 4, 2, pictures.append, "")
    assert len(pictures) == 3


@pytest.mark.parametrize(("name", "words"), [("bowl", "a cost of parameters"), ("bandit", "one stage")])
def test_a_task_in_which_nothing_moves_is_refused(name, words, tmp_path):
    task = resolve(name)
    policies = {
        "bowl": Parameters([f"x{i}" for i in range(10)], np.zeros(10)).controller(),
        "bandit": Softmax([(np.zeros((4, 1)), None)]).controller(),
    }
    with pytest.raises(ValueError, match=words):
        render(task, policies[name], tmp_path / "x.gif")
    assert list(tmp_path.iterdir()) == []


# Gymnasium environments


def test_an_environments_rollouts_are_the_first_ones_of_the_evaluation(tmp_path, pygame):
    written = render(CART_POLE, LEANING, tmp_path / "pole.gif", rollouts=2, seed=7, size=(150, 100))
    result = evaluate(CART_POLE, LEANING, 3, seed=7, workers=1)
    assert tuple(rollout.total for rollout in written.rollouts) == result.returns[:2]
    assert tuple(rollout.stages for rollout in written.rollouts) == result.lengths[:2]
    assert result.lengths[0] != result.lengths[1]
    pictures, durations = frames(tmp_path / "pole.gif")
    # dt is 0.02 s: each second state is shown, and the last one
    assert len(pictures) == sum(-(-rollout.stages // 2) + 1 for rollout in written.rollouts)
    assert pictures.shape[1:] == (100, 150, 3)
    assert set(durations) == {40}


def test_an_environment_keeps_its_own_size_and_shows_returns_so_far(tmp_path, pygame):
    pictures = []
    studio = camera.Environment(CART_POLE, LEANING, 0, None)
    total, stages, reason = studio.rollout(0, 4, 2, pictures.append, "")
    studio.close()
    assert (total, stages, reason) == (4.0, 4, "")
    assert [picture.shape for picture in pictures] == [(400, 600, 3)] * 3
    # the caption is all that is grey in the upper left corner; the bar below is there while an action acts
    assert all((picture[:12, :60] != 255).any() for picture in pictures)
    assert (pictures[0][-10:, :30] != 255).any()
    assert (pictures[2][-10:, :30] == 255).all()


def test_mujoco_is_drawn_without_a_display_and_followed(tmp_path, opengl):
    task = GymnasiumTask("Hopper-v5")
    written = render(task, linear(task), tmp_path / "hop.gif", size=(80, 64), seconds=0.05)
    pictures, _ = frames(tmp_path / "hop.gif")
    assert pictures.shape == (3, 64, 80, 3)
    assert written.rate == 31.25
    assert pictures[0].std() > 20
    env = camera._drawing(task, (80, 64))
    try:
        env.reset(seed=0)
        colours = []
        for position in (0.0, 30.0):
            state = env.unwrapped.data.qpos.copy()
            state[0] = position
            env.unwrapped.set_state(state, env.unwrapped.data.qvel)
            picture = env.render().astype(int)
            colours.append(int(((picture[..., 0] - picture[..., 2]) > 40).sum()))  # the hopper is brown
        assert min(colours) > 0.5 * max(colours) > 0
    finally:
        env.close()


def test_an_environment_that_cannot_draw_is_named(tmp_path):
    task = GymnasiumTask("environments:Drift", horizon=20)
    still = Controller({"policy": "linear_gaussian"}, {"gain": np.zeros((2, 2))})
    with pytest.raises(NoRendererError, match=r"environments:Drift cannot be drawn.*render_mode"):
        render(task, still, tmp_path / "x.gif")
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not fit CartPole-v1"):
        render(CART_POLE, network(4), tmp_path / "x.gif")


# the files


@pytest.mark.parametrize(
    ("dt", "expected"),
    [
        (0.05, Pace(1, 20.0, 1.0)),
        (0.02, Pace(2, 25.0, 1.0)),
        (0.008, Pace(4, 31.25, 1.0)),
        (0.1, Pace(1, 10.0, 1.0)),
        (3600.0, Pace(1, 5.0, 18000.0)),
        (None, Pace(1, 50.0, None)),
    ],
)
def test_films_play_in_real_time_unless_too_few_frames_a_second_would_be_left(dt, expected):
    assert Pace.of(dt, 50) == pytest.approx(expected)


def test_a_gif_has_every_frame_even_equal_ones_and_lasts_as_long_as_the_motion(tmp_path):
    rng = np.random.default_rng(0)
    still = np.full((20, 30, 3), 255, np.uint8)
    moving = rng.integers(0, 255, (20, 30, 3)).astype(np.uint8)
    writer = video._Gif(tmp_path / "a.gif", 31.25)
    shown = [still, still, moving, moving, still] * 5
    for frame in shown:
        writer.add(frame)
    writer.close()
    pictures, durations = frames(tmp_path / "a.gif")
    assert len(pictures) == 25
    assert sum(durations) == 800
    error = np.abs(pictures.astype(int) - np.stack(shown))
    assert error.mean() < 12  # 256 colours for 600 random ones
    assert error[::5].max() == 0


@pytest.mark.parametrize("writer", [video._Gif, video._Mp4])
def test_frames_do_not_pile_up_in_memory(tmp_path, writer):
    if writer is video._Mp4:
        pytest.importorskip("imageio_ffmpeg", reason="needs the extra video")
    film = writer(tmp_path / ("a.gif" if writer is video._Gif else "a.mp4"), 20.0)
    alive = []
    for value in range(12):
        frame = np.full((64, 64, 3), value, np.uint8)
        alive.append(weakref.ref(frame))
        film.add(frame)
        del frame
    assert sum(reference() is not None for reference in alive) <= 1
    film.close()


def test_an_mp4_plays(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="needs the extra video")
    path = tmp_path / "deeper" / "swing.mp4"
    written = render(resolve("pendulum"), network(3), path, size=(161, 121), seconds=0.5)
    assert [inside.name for inside in path.parent.iterdir()] == ["swing.mp4"]
    source = [ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path)]
    raw = subprocess.run([*source, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    # colours of MP4 come in squares of 2 × 2
    pictures = np.frombuffer(raw, np.uint8).reshape(-1, 120, 160, 3).astype(int)
    assert len(pictures) == written.frames == 11
    about = subprocess.run([source[0], "-i", str(path)], capture_output=True, text=True).stderr
    assert "160x120" in about
    assert "20 fps" in about
    made = []
    drawn = studio(resolve("pendulum"), network(3), 1, 0, (161, 121))
    drawn.rollout(0, 10, 1, made.append, "")
    assert np.abs(pictures - np.stack(made)[:, :120, :160]).mean() < 4


def test_an_older_film_stays_if_the_new_one_fails(tmp_path):
    path = tmp_path / "x.gif"
    path.write_bytes(b"older")
    with pytest.raises(ValueError, match="nothing to show"):
        render(Never(), linear(Never()), path)
    assert [inside.name for inside in tmp_path.iterdir()] == ["x.gif"]
    assert path.read_bytes() == b"older"


def test_what_mp4_takes_is_said_before_anything_is_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(NoRendererError, match=r"pip install 'policysearch\[video\]'.*\.gif"):
        render(None, None, tmp_path / "x.mp4")


def test_an_ffmpeg_that_does_not_work_is_named(tmp_path, monkeypatch):
    pytest.importorskip("imageio_ffmpeg", reason="needs the extra video")
    for program, words in (("/nowhere/ffmpeg", "does not start"), ("/bin/false", "could not write")):
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", program)
        with pytest.raises(NoRendererError, match=words):
            render(resolve("pendulum"), network(3), tmp_path / "x.mp4", seconds=1.0)
    assert list(tmp_path.iterdir()) == []


# the command


def stored(folder, task="CartPole-v1", controller=LEANING, **options):
    """A finished run, made without a search."""
    record = journal.Journal(folder, {"task": task, "task_options": options, "seed": 3})
    record.add({"update": 1.0, "rollouts": 1.0})
    record.save(controller.with_interface(resolve(task).specification.interface))
    record.finish({})
    record.close()
    return str(folder)


def test_the_command_writes_a_film_and_says_what_it_shows(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "unused"))
    folder = stored(tmp_path / "run", "pendulum", network(3))
    out = tmp_path / "x.gif"
    arguments = ["--seconds", "0.5", "--rollouts", "2", "--size", "120x96", "--seed", "1"]
    assert main(["render", folder, "--out", str(out), *arguments]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("rollout 1: cost ")
    assert printed[0].endswith(" in 10 stages")
    assert printed[2] == f"saved: {out}, 22 frames, 1.1 s"
    assert frames(out)[0].shape == (22, 96, 120, 3)


def test_without_the_extra_the_film_is_a_gif_in_the_runs_folder(tmp_path, capsys, monkeypatch, pygame):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    folder = stored(tmp_path / "run", horizon=6)
    assert command([folder]) == 0
    assert frames(Path(folder, "video.gif"))[0].shape == (4, 400, 600, 3)
    assert command([folder, "--out", str(tmp_path / "x.mp4")]) == 1
    assert "policysearch[video]" in capsys.readouterr().err


def test_what_an_environment_draws_with_is_named_where_it_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    assert command([stored(tmp_path / "run"), "--out", str(tmp_path / "x.gif")]) == 1
    message = capsys.readouterr().err
    assert message.startswith("policysearch: CartPole-v1 cannot be drawn")
    assert "pip install 'policysearch[video]'" in message
    assert "Traceback" not in message
    assert not (tmp_path / "x.gif").exists()


@pytest.mark.parametrize("chosen", ["", "egl", "osmesa"])
def test_without_opengl_the_message_says_what_to_install(tmp_path, chosen):
    pytest.importorskip("mujoco", reason="needs the extra mujoco")
    if sys.platform != "linux":
        pytest.skip("EGL and OSMesa are Linux's")
    task = GymnasiumTask("Hopper-v5")
    folder = stored(tmp_path / "run", "Hopper-v5", linear(task))
    # no driver for EGL, no display; OSMesa is hidden from the loader of OpenGL
    environment = os.environ | {"MUJOCO_GL": chosen, "__EGL_VENDOR_LIBRARY_FILENAMES": "/dev/null", "DISPLAY": ""}
    code = (
        "import ctypes.util, sys\n" + NO_OSMESA + "from policysearch.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    )
    (tmp_path / "sitecustomize.py").write_text("import ctypes.util\n" + NO_OSMESA)
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code, "render", folder], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "apt-get install libegl1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(Path(folder).glob("*video*"))


NO_OSMESA = """
found = ctypes.util.find_library
ctypes.util.find_library = lambda name: None if name == 'OSMesa' else found(name)
"""


def test_films_of_environments_do_not_import_jax(tmp_path, pygame):
    code = (
        "import sys\n"
        "from policysearch.cli.main import main\n"
        "assert main(['render', *sys.argv[1:]]) == 0 and 'jax' not in sys.modules\n"
        "assert 'matplotlib' not in sys.modules\n"
    )
    folder = stored(tmp_path / "run", horizon=4)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, folder, "--out", str(tmp_path / "x.gif")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "rollout 1: return 4 in 4 stages",
        f"saved: {tmp_path / 'x.gif'}, 3 frames, 0.1 s",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "x.avi"], "must end with .mp4 or .gif"),
        (["--size", "480"], "480x480"),
        (["--size", "2x2"], "64 … 4096"),
        (["--rollouts", "0"], "at least 1"),
        (["--rollouts", "x"], "whole number"),
        (["--seconds", "0"], "more than 0 s"),
        (["--seconds", "nan"], "more than 0 s"),
        (["--sizes", "2x2"], "Did you mean --size"),
    ],
)
def test_wrong_input_is_answered_with_what_is_allowed(tmp_path, capsys, arguments, words):
    assert main(["render", stored(tmp_path / "run"), *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""
