"""Weight files as people have them: containers, code in pickles, torn files, another architecture."""

import json
import math
import pickle
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.models.tiny import make
from tests.models.towers.test_pretrained import timm_vit
from vlp.core.config import ConfigError
from vlp.models.weights.files import read_weights
from vlp.models.weights.load import load_initial


class Trap:
    def __reduce__(self) -> Any:
        return Path.write_text, (Path(self.path), "the code in the pickle ran")  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["weights.pt", "pytorch_model.bin"])
@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_code_in_a_pickle_does_not_run(name: str, protocol: str, tmp_path: Path) -> None:
    trap = Trap()
    trap.path = str(tmp_path / "ran")  # type: ignore[attr-defined]
    if protocol == "torch":
        torch.save({"model": {"a": torch.zeros(1)}, "more": trap}, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(pickle.dumps({"a": trap}))
    with pytest.raises(ConfigError, match=name):
        read_weights(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_the_arguments_beside_a_model_do_not_keep_it_out_and_are_not_run(tmp_path: Path) -> None:
    arguments = Namespace(lr=1e-3, blr=None, nested=Namespace(names=["a", "b"], more={"x": (1, 2)}))
    torch.save({"model": {"a": torch.ones(2)}, "args": arguments, "epoch": 3}, tmp_path / "mae.pth")
    assert torch.equal(read_weights(tmp_path / "mae.pth")["a"], torch.ones(2))
    trap = Trap()
    trap.path = str(tmp_path / "ran")  # type: ignore[attr-defined]
    torch.save({"model": {"a": torch.ones(2)}, "args": Namespace(lr=trap)}, tmp_path / "trap.pth")
    with pytest.raises(ConfigError, match=r"trap\.pth holds more than tensors \(getattr\), which is not loaded"):
        read_weights(tmp_path / "trap.pth")
    assert not (tmp_path / "ran").exists()


def test_a_torchscript_archive_is_a_program(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "ViT-B-32.pt"))
    with pytest.raises(ConfigError, match=r"ViT-B-32\.pt is a TorchScript archive, which holds a program"):
        read_weights(tmp_path / "ViT-B-32.pt")


def test_a_model_in_several_files_needs_all_of_them(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, str(tmp_path / "model-1.safetensors"))
    save_file({"b": torch.ones(2)}, str(tmp_path / "model-2.safetensors"))
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert set(read_weights(tmp_path)) == {"a", "b"}
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"no such file: .*model-2\.safetensors"):
        read_weights(tmp_path)
    index["weight_map"]["b"] = "../elsewhere.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="is not a file beside it"):
        read_weights(tmp_path)


def test_bad_files_are_named(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(100)}, str(tmp_path / "x.safetensors"))
    whole = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "y.safetensors").write_bytes(whole[:-50])
    with pytest.raises(ConfigError, match=r"y\.safetensors: it is truncated"):
        read_weights(tmp_path / "y.safetensors")
    with pytest.raises(ConfigError, match=r"no such file: .*z\.safetensors: did you mean"):
        read_weights(tmp_path / "z.safetensors")
    with pytest.raises(ConfigError, match="several weights"):
        read_weights(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no weights in"):
        read_weights(tmp_path / "empty")
    torch.save({"epoch": 3}, tmp_path / "e.pt")
    with pytest.raises(ConfigError, match="holds no weights"):
        read_weights(tmp_path / "e.pt")


def test_weights_of_another_architecture_are_refused_with_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet.pth")
    vit = {**timm_vit(64, 16), "pretrained": str(tmp_path / "resnet.pth")}
    with pytest.raises(
        ConfigError, match=r"model\.image\.pretrained: resnet\.pth: loaded \d+ of \d+ tensors.*less than"
    ):
        make(image=vit, size=64, channels=3)
    with pytest.raises(ConfigError, match=r"Without .*pos_embed \(positions\).* model\.image\.allow_missing"):
        make(image={**vit, "minimum_loaded": 0.0}, size=64, channels=3)
    random = {"minimum_loaded": 0.0, "allow_missing": ["patch_embed", "blocks", "pos_embed", "cls_token", "norm"]}
    model, _ = make(image={**vit, **random}, size=64, channels=3)
    report = load_initial(model)["image"]
    assert report.share < 0.1 and len(report.missing) > 20 and "layer1.0.conv1.weight" in report.unexpected
    with pytest.raises(
        ConfigError, match=r"model\.image\.pretrained: 'hf:nobody/nothing' is neither cached nor to be had"
    ):
        make(image={**vit, "pretrained": "hf:nobody/nothing"}, size=64, channels=3)
    assert np.isfinite(report.share)


def test_nine_tenths_must_be_loaded_unless_told_otherwise(tmp_path: Path) -> None:
    whole = make(image=timm_vit(64, 16), size=64, channels=3)[0].image_tower.model.state_dict()  # type: ignore[union-attr]
    names = sorted(whole)
    most = math.ceil(0.9 * len(names))
    given = {
        **timm_vit(64, 16),
        "pretrained": str(tmp_path / "vit.pt"),
        "allow_missing": ["norm", "patch_embed", "pos_embed"],
    }
    for count, more in ((most, {}), (most - 1, {"minimum_loaded": (most - 1) / len(names)})):
        torch.save({name: whole[name] for name in names[:count]}, tmp_path / "vit.pt")
        model, _ = make(image={**given, **more}, size=64, channels=3)
        report = load_initial(model)["image"]
        assert (len(report.loaded), len(report.missing)) == (count, len(names) - count)
    with pytest.raises(
        ConfigError, match=rf"loaded {most - 1} of {len(names)} tensors.* less than .*minimum_loaded=90%"
    ):
        make(image=given, size=64, channels=3)
