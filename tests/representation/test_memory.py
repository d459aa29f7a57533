"""What a fine-tuned classifier's folder remembers, and that nothing else is taken for it."""

import pytest
import torch
from test_distil import distilled
from test_finetune import FEW, tuned
from test_pretrain import play, small

from curl_rl import load_encoder
from curl_rl.representation import memory as module
from curl_rl.representation.export import EncoderError, copy_encoder
from curl_rl.representation.memory import load_memory


def uneven(**known):
    """Forty frames that stand alone, of three classes: 20, 12 and 8."""
    return play(classes=torch.tensor([0] * 20 + [1] * 12 + [2] * 8), episode=None, **known)


def test_features_classes_and_exemplars_are_those_of_the_frames(tmp_path):
    frames = uneven()
    trainer = tuned(small(), tmp_path, frames=frames, labels=None, held_out=0.25, exemplars=3)
    memory = load_memory(tmp_path)
    ids = torch.tensor([*sorted(trainer.learned.tolist()), *sorted(trainer.held_out.tolist())])
    assert torch.equal(memory.classes, frames.classes[ids])
    assert memory.held_out.tolist() == [False] * len(trainer.learned) + [True] * len(trainer.held_out)
    torch.testing.assert_close(memory.features, load_encoder(tmp_path)(frames.obs(ids)))
    for held_out, wanted in ((False, [3, 3, 3]), (True, [3, 3, 2])):
        kept = memory.exemplars_of(held_out=held_out)
        numbers = ids[memory.exemplars[kept]]
        assert memory.classes[memory.exemplars[kept]].bincount().tolist() == wanted
        assert torch.equal(memory.images[kept], frames.obs(numbers))
        assert [memory.names[i] for i in kept.tolist()] == [frames.name(i) for i in numbers.tolist()]
        assert set(numbers.tolist()) <= set((trainer.held_out if held_out else trainer.learned).tolist())
    assert len(set(memory.names)) == len(memory.names) == 17


def test_nothing_is_kept_where_nothing_is_asked_for(tmp_path):
    tuned(small(), tmp_path, exemplars=0)
    memory = load_memory(tmp_path)
    assert (memory.features.shape, memory.images.shape, memory.names) == ((len(FEW), 6), (0, 3, 16, 16), ())
    assert not memory.held_out.any()


def test_of_many_frames_some_are_remembered_and_every_exemplar(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MOST", 5)
    tuned(small(), tmp_path, frames=uneven(), labels=None, exemplars=2)
    memory = load_memory(tmp_path)
    assert 6 <= len(memory.features) <= 11
    assert memory.classes[memory.exemplars].bincount().tolist() == [2, 2, 2]
    torch.testing.assert_close(memory.features[memory.exemplars], load_encoder(tmp_path)(memory.images))


def test_a_memory_that_was_tampered_with_is_refused(tmp_path):
    tuned(small(), tmp_path / "clf")
    file = tmp_path / "clf" / "memory.safetensors"
    intact = file.read_bytes()
    for content in (b"", intact[:-1], intact[:-1] + bytes([intact[-1] ^ 1])):
        file.write_bytes(content)
        with pytest.raises(EncoderError, match=r"memory\.safetensors cannot be used: its checksum is not the one in"):
            load_memory(tmp_path / "clf")
    file.unlink()
    with pytest.raises(EncoderError, match=r"memory\.safetensors cannot be used: it is missing"):
        copy_encoder(tmp_path / "clf", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    file.write_bytes(intact)
    copy_encoder(tmp_path / "clf", tmp_path / "copy")
    assert load_memory(tmp_path / "copy").names == load_memory(tmp_path / "clf").names


def test_a_student_remembers_nothing(tmp_path):
    tuned(small(), tmp_path / "clf")
    distilled(tmp_path / "clf", tmp_path / "student")
    assert load_memory(tmp_path / "student") is None
