"""Logs hold what was written, survive kills and resumes, and fail with one clear message."""

import io
import math
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from curl_rl.run import logger
from curl_rl.run.files import WriteError
from curl_rl.run.logger import (
    MetricMeans,
    RunLogger,
    image_grid,
    raise_on_nonfinite,
)
from curl_rl.types import Clock, ConfigError, Episode, Origin

ORIGIN = Origin("p1", "64 frames", "c0ffee", "torch=2", "1 x cpu")


def events(run_dir: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    return accumulator.Reload()


def steps(run_dir: Path, tag: str) -> list[int]:
    return [event.step for event in events(run_dir).Scalars(tag)]


def write_steps(log: RunLogger, agent_steps: range) -> None:
    for step in agent_steps:
        clock = Clock(step, 4 * step, step // 2)
        log.scalars(clock, {"critic/loss": 0.1 * step, "temperature": 1 / (step + 3)})
        if step % 5 == 0:
            log.evaluation(clock, [Episode(0, 0.1 + step, 125), Episode(1, 100.0, 124)], step / 3)


def test_tables_hold_what_was_written(tmp_path: Path):
    log = RunLogger(tmp_path / "new" / "run", ORIGIN)
    log.scalars(Clock(3, 12, 2), {"critic/loss": 0.1, "q": float("nan")})
    log.evaluation(Clock(4, 16, 3), [Episode(0, np.float64(871.25), 125), Episode(1, 1 / 3, 100)], 7.5)
    log.close()
    run_dir = tmp_path / "new" / "run"
    assert (run_dir / "train.csv").read_text() == (
        "agent_step,frame,update,name,value\n3,12,2,critic/loss,0.1\n3,12,2,q,nan\n"
    )
    assert (run_dir / "eval.csv").read_text() == (
        "agent_step,frame,update,episode,return,length,seconds,protocol,budget,commit,versions,hardware\n"
        "4,16,3,0,871.25,125,7.5,p1,64 frames,c0ffee,torch=2,1 x cpu\n"
        "4,16,3,1,0.3333333333333333,100,7.5,p1,64 frames,c0ffee,torch=2,1 x cpu\n"
    )
    scalars = events(run_dir).Scalars("eval/return")
    assert [(event.step, event.value) for event in scalars] == [(4, pytest.approx((871.25 + 1 / 3) / 2))]


def test_a_name_that_would_break_the_table_is_refused(tmp_path: Path):
    log = RunLogger(tmp_path, ORIGIN)
    with pytest.raises(ValueError, match="cannot hold commas"):
        log.scalars(Clock(), {"a,b": 1.0})
    log.close()
    assert (tmp_path / "train.csv").read_text().count("\n") == 1


@pytest.mark.parametrize("torn", [b"", b"16,64,8,critic/lo", b"1", b"7,28\n", b"\x00\x00\xff\x00\n"])
def test_a_resumed_run_leaves_the_bytes_of_an_uninterrupted_one(tmp_path: Path, torn: bytes):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    log = RunLogger(whole, ORIGIN)
    write_steps(log, range(21))
    log.close()

    log = RunLogger(resumed, ORIGIN)
    write_steps(log, range(11))
    saved = log.state_dict()
    log.scalars(Clock(10, 40, 6), {"critic/loss": 3.0})  # of the step at which the checkpoint was written
    write_steps(log, range(11, 16))
    log.close()
    for name in ("eval.csv", "train.csv"):
        with open(resumed / name, "ab") as file:
            file.write(torn)
    log = RunLogger(resumed, ORIGIN, resume=saved)
    write_steps(log, range(11, 18))
    log.close()
    log = RunLogger(resumed, ORIGIN, resume=saved)  # and killed once more before the next checkpoint
    write_steps(log, range(11, 21))
    log.close()
    for name in ("eval.csv", "train.csv"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    assert steps(resumed, "critic/loss") == steps(whole, "critic/loss") == list(range(21))
    assert steps(resumed, "eval/return") == [0, 5, 10, 15, 20]


def test_tables_without_rows_start_anew_and_others_are_kept(tmp_path: Path):
    RunLogger(tmp_path, ORIGIN).close()
    (tmp_path / "train.csv").write_text("agent_st")  # as a kill at the first start may leave it
    log = RunLogger(tmp_path, ORIGIN)
    write_steps(log, range(6))
    log.close()
    before = {name: (tmp_path / name).read_bytes() for name in logger.COLUMNS}
    with pytest.raises(ConfigError, match=r"eval.csv holds results, and no checkpoint goes on from them: restore"):
        RunLogger(tmp_path, ORIGIN)
    assert {name: (tmp_path / name).read_bytes() for name in logger.COLUMNS} == before
    assert before["train.csv"].count(b"\n") == 1 + 6 * 2


@pytest.mark.parametrize("name", ["eval.csv", "train.csv"])
@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda content: None, "it is missing"),
        (lambda content: content[:-1], r"it has \d+ bytes of"),
        (lambda content: content.replace(b"0", b"1", 1), "it was changed since"),
    ],
)
def test_tables_that_a_checkpoint_does_not_know_are_refused_untouched(tmp_path: Path, name: str, damage, fault: str):
    log = RunLogger(tmp_path, ORIGIN)
    write_steps(log, range(6))
    saved = log.state_dict()
    write_steps(log, range(6, 9))
    log.close()
    content = damage((tmp_path / name).read_bytes()[: saved["tables"][name][0]])
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    with pytest.raises(ConfigError, match=rf"{name} is not the table .* \({fault}.*restore it from a copy"):
        RunLogger(tmp_path, ORIGIN, resume=saved)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == before


def test_other_columns_are_refused_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = RunLogger(tmp_path, ORIGIN)
    saved = log.state_dict()
    log.close()
    monkeypatch.setitem(logger.COLUMNS, "eval.csv", ("step", "score"))
    with pytest.raises(ConfigError, match="it has the columns of another version"):
        RunLogger(tmp_path, ORIGIN, resume=saved)


def test_flush_reaches_the_disk_and_every_row_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced = []
    monkeypatch.setattr(
        logger.os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    )
    log = RunLogger(tmp_path, ORIGIN)
    synced.clear()
    log.scalars(Clock(1), {"x": 1.0})
    assert (tmp_path / "train.csv").read_text().endswith("1,0,0,x,1.0\n")
    assert synced == []
    log.flush()
    assert {Path(path).name.split(".")[0] for path in synced} == {"eval", "train", "events"}
    log.close()


def test_images_and_video_reach_tensorboard(tmp_path: Path):
    frames = np.random.default_rng(0).integers(0, 255, (300, 10, 12, 3), dtype=np.uint8)
    grid = torch.randint(0, 255, (3, 8, 9), dtype=torch.uint8)
    log = RunLogger(tmp_path, ORIGIN)
    log.images(Clock(1), "crops", grid)
    log.video(Clock(2), "eval/video", frames, fps=25)
    with pytest.raises(ValueError, match=r"expected frames \(T, H, W, 3\) uint8"):
        log.video(Clock(2), "eval/video", frames[..., 0], fps=25)
    log.close()
    found = events(tmp_path)
    picture = Image.open(io.BytesIO(found.Images("crops")[0].encoded_image_string))
    assert np.array_equal(np.asarray(picture), grid.permute(1, 2, 0).numpy())
    (video,) = found.Images("eval/video")
    assert (video.step, video.height, video.width) == (2, 10, 12)
    gif = Image.open(io.BytesIO(video.encoded_image_string))
    assert gif.n_frames == 100  # every third of 300
    assert gif.info["duration"] == 120
    assert np.abs(np.asarray(gif.convert("RGB"), int) - frames[0]).mean() < 10


def test_image_grid_puts_each_image_in_its_cell():
    batch = torch.randint(1, 255, (5, 3, 4, 6), dtype=torch.uint8)
    grid = image_grid(batch, columns=3)
    assert grid.shape == (3, 4 * 2 + 2, 6 * 3 + 4)
    for index in range(5):
        top, left = 6 * (index // 3), 8 * (index % 3)
        assert torch.equal(grid[:, top : top + 4, left : left + 6], batch[index])
    assert grid[:, 6:, 16:].sum() == 0
    assert grid[:, 4:6].sum() == 0
    assert image_grid(batch[:2], columns=8).shape == (3, 4, 14)
    with pytest.raises(ValueError, match=r"expected images \(B, 3, h, w\)"):
        image_grid(torch.zeros(2, 9, 4, 4, dtype=torch.uint8), 2)


def test_means_are_those_of_each_name():
    means = MetricMeans()
    means.add({"a": torch.tensor(1.0), "b": torch.tensor(10.0)})
    means.add({"b": torch.tensor([30.0]).bfloat16()})
    means.add({"a": torch.tensor(4.0, requires_grad=True), "b": torch.tensor(50.0)})
    means.add({})
    assert means.take() == {"a": 2.5, "b": 30.0}
    assert means.take() == {}


def test_means_do_not_keep_the_graph_or_follow_the_buffer():
    means, buffer = MetricMeans(), torch.tensor(1.0)
    means.add({"a": buffer})
    buffer.fill_(100.0)  # as a replayed CUDA graph does
    assert means.take() == {"a": 1.0}
    means.add({"a": torch.ones((), requires_grad=True) * 2})
    assert not means.state_dict()["groups"][0][1].requires_grad


def test_means_resume_exactly():
    values = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    straight, before = MetricMeans(), MetricMeans()
    resumed = before

    def metrics(index: int):
        pair = {"a": values[index, 0], "b": values[index, 1]}
        return pair if index % 2 == 0 else {"a": pair["a"]}

    for index in range(40):
        straight.add(metrics(index))
        if index == 17:
            resumed = MetricMeans()
            resumed.load_state_dict(before.state_dict())
            before.add({"a": torch.tensor(1e9)})  # the saved run goes on without touching what was saved
        resumed.add(metrics(index))
    taken = straight.take()
    assert resumed.take() == taken
    assert taken["a"] == pytest.approx(values[:, 0].double().mean().item(), abs=1e-12)
    assert taken["b"] == pytest.approx(values[::2, 1].double().mean().item(), abs=1e-12)


def test_a_nonfinite_loss_is_named():
    raise_on_nonfinite({"critic/loss": 1.0}, Clock())
    bad = {"critic/loss": math.nan, "actor/loss": 1.0, "objective/loss": math.inf}
    with pytest.raises(FloatingPointError) as error:
        raise_on_nonfinite(bad, Clock(7, 28, 5))
    message = str(error.value)
    assert message.startswith("critic/loss is nan, objective/loss is inf at agent step 7 (frame 28, update 5)")
    assert "no checkpoint was written of this" in message
    assert "agent.precision=float32" in message


def test_an_unwritable_run_dir_is_one_clear_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"cannot write .*file.*move away what stands in its place"):
        RunLogger(tmp_path / "file" / "run", ORIGIN)


def test_a_full_disk_is_one_clear_error_and_the_resume_is_right(tmp_path: Path):
    log = RunLogger(tmp_path, ORIGIN)
    write_steps(log, range(3))
    log.flush()
    saved = log.state_dict()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "train.csv").stat().st_size + 10, hard))
    try:
        with pytest.raises(WriteError, match=r"cannot write .*train.csv: File too large; free space"):
            write_steps(log, range(3, 5))
        log.close()  # has nothing left that could fail again
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log = RunLogger(tmp_path, ORIGIN, resume=saved)
    write_steps(log, range(3, 5))
    log.close()
    whole = RunLogger(tmp_path / "whole", ORIGIN)
    write_steps(whole, range(5))
    whole.close()
    assert (tmp_path / "train.csv").read_bytes() == (tmp_path / "whole" / "train.csv").read_bytes()


def test_a_table_deleted_while_it_is_written_is_written_anew(tmp_path: Path, capsys):
    log = RunLogger(tmp_path, ORIGIN)
    log.scalars(Clock(1, 4, 0), {"loss": 1.0})
    (tmp_path / "train.csv").unlink()
    log.scalars(Clock(2, 8, 0), {"loss": 2.0})
    log.flush()
    log.scalars(Clock(3, 12, 0), {"loss": 3.0})
    log.close()
    assert "train.csv was deleted while it was written: it is written anew" in capsys.readouterr().err
    assert [line.split(",")[0] for line in (tmp_path / "train.csv").read_text().splitlines()[1:]] == ["1", "2", "3"]


@pytest.mark.parametrize("what", ["folder", "table", "another"])
def test_what_was_moved_or_replaced_while_it_is_written_is_told(tmp_path: Path, what: str):
    log = RunLogger(tmp_path / "run", ORIGIN)
    if what == "folder":
        (tmp_path / "run").rename(tmp_path / "moved")
    else:
        (tmp_path / "run" / "eval.csv").rename(tmp_path / "run" / "moved.csv")
    if what == "another":
        (tmp_path / "run" / "eval.csv").write_text("mine")
    with pytest.raises(WriteError, match=r"eval\.csv is not the file that this run writes, .* bring it back"):
        log.flush()
    log.close()
    assert what != "another" or (tmp_path / "run" / "eval.csv").read_text() == "mine"
    assert (tmp_path / "run").exists() == (what != "folder")
