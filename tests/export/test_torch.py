"""Weights to and from PyTorch: its names, its orientation, its outputs; and no pickle is ever read."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.errors import SnapshotError
from thriftgrad.nn import Dropout, Linear, Module, Sequential

RNG = np.random.default_rng(0)


class Net(Module):
    """A model that holds layers in every way: by name, in a list, in a dict, and one of them twice."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.hidden = Sequential(Linear(4, 5, rng=rng, bias_init=tg.nn.init.normal), np.tanh)
        self.heads = [Linear(5, 5, rng=rng), Linear(5, 2, rng=rng)]
        self.more = {"a": Linear(5, 2, bias=False, rng=rng), "again": self.heads[0]}
        self.scale = tg.Parameter(rng.normal(size=(2, 3)).astype(np.float32))

    def __call__(self, x):
        h = self.more["again"](self.heads[0](self.hidden(x)))
        return (self.heads[1](h) + self.more["a"](h)) @ self.scale


def read(path):
    """Read a safetensors file by its definition: a length, a JSON header, and bytes."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, stop = (8 + length + offset for offset in entry["data_offsets"])
        dtype = {"F32": "<f4", "F64": "<f8"}[entry["dtype"]]
        arrays[name] = np.frombuffer(content[start:stop], dtype).reshape(entry["shape"])
    return header.get("__metadata__"), arrays


def written(path, arrays, kind="F32"):
    """Write a safetensors file by its definition."""
    header, data = {}, b""
    for name, array in arrays.items():
        content = array.tobytes()
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_names_and_orientation(tmp_path):
    net = Net(0)
    tg.export.save_torch(net, tmp_path / "net.safetensors")
    metadata, arrays = read(tmp_path / "net.safetensors")
    assert metadata == {"format": "pt"}
    assert {name: a.shape for name, a in arrays.items()} == {
        "hidden.0.weight": (5, 4),
        "hidden.0.bias": (5,),
        "heads.0.weight": (5, 5),
        "heads.0.bias": (5,),
        "heads.1.weight": (2, 5),
        "heads.1.bias": (2,),
        "more.a.weight": (2, 5),
        "more.again.weight": (5, 5),
        "more.again.bias": (5,),
        "scale": (2, 3),
    }
    np.testing.assert_array_equal(arrays["heads.0.weight"], net.heads[0].weight.value.T)
    np.testing.assert_array_equal(arrays["more.again.weight"], net.heads[0].weight.value.T)
    np.testing.assert_array_equal(arrays["scale"], net.scale.value)


def test_there_and_back_by_file_is_the_same_to_the_last_bit(tmp_path):
    a, b = Net(0), Net(1)
    tg.export.save_torch(a, tmp_path / "net.safetensors")
    tg.export.load_torch(b, tmp_path / "net.safetensors")
    x = RNG.normal(size=(7, 4)).astype(np.float32)
    np.testing.assert_array_equal(a(x).value, b(x).value)


def test_a_file_by_another_hand_gives_what_its_formula_gives(tmp_path):
    w = RNG.normal(size=(3, 3)).astype(np.float32)  # square: only the values tell the orientation
    b = RNG.normal(size=3).astype(np.float32)
    path = written(tmp_path / "w.safetensors", {"0.weight": w, "0.bias": b})
    model = Sequential(Linear(3, 3, rng=0), Dropout(0.5))
    tg.export.load_torch(model, path)
    x = RNG.normal(size=(4, 3)).astype(np.float32)
    np.testing.assert_allclose(model.eval()(x).value, x @ w.T + b, rtol=1e-6)


def test_the_state_is_a_copy_and_numbers_keep_the_models_type():
    layer = Linear(2, 2, rng=0)
    before = layer.weight.value.copy()
    state = tg.export.torch_state_dict(layer)
    state["weight"][:] = 0
    np.testing.assert_array_equal(layer.weight.value, before)
    tg.export.load_torch_state_dict(layer, {"weight": np.eye(2), "bias": [1.0, 2.0]})
    assert layer.weight.value.dtype == np.float32


def test_a_state_that_does_not_fit_changes_nothing():
    net = Net(0)
    state, before = tg.export.torch_state_dict(net), net.state_dict()
    for change, message in [
        ({"heads.1.weight": np.ones((5, 2), np.float32)}, r"'heads\.1\.weight' has shape \(2, 5\)"),
        ({"scale": np.ones((2, 3), int)}, "dtype int64"),
        ({"stray": np.ones(1)}, "unexpected 'stray'"),
        ({"more.again.bias": np.ones(5)}, r"different values for 'heads\.0\.bias' and 'more\.ag"),
    ]:
        with pytest.raises(SnapshotError, match=message):
            tg.export.load_torch_state_dict(net, {**state, **change})
    with pytest.raises(SnapshotError, match=r"missing 'scale'.*\(outputs, inputs\)"):
        tg.export.load_torch_state_dict(net, {k: v for k, v in state.items() if k != "scale"})
    with pytest.raises(SnapshotError, match="was given a list"):
        tg.export.load_torch_state_dict(net, list(state))
    np.testing.assert_equal(net.state_dict(), before)


def test_either_place_of_a_shared_layer_is_enough_and_strict_can_be_left_off():
    a, b = Net(0), Net(1)
    state = tg.export.torch_state_dict(a)
    first = {k: v for k, v in state.items() if not k.startswith("more.again")}
    second = {k: v for k, v in state.items() if not k.startswith("heads.0")}
    for part in (first, second):
        tg.export.load_torch_state_dict(b, part)
        np.testing.assert_equal(b.state_dict(), a.state_dict())
    tg.export.load_torch_state_dict(Net(2), {"scale": state["scale"], "stray": 1}, strict=False)


class Bomb:
    def __reduce__(self):
        return exec, ("raise AssertionError('the pickle was run')",)


def test_files_that_are_not_safetensors_are_refused_and_not_run(tmp_path):
    path, layer = tmp_path / "file.pt", Linear(2, 2, rng=0)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    for content, message in [
        (archive.getvalue(), r"is a pickle.*safetensors\.torch\.save_file"),
        (pickle.dumps(Bomb()), "is a pickle"),
        (b"", "not a safetensors file"),
        (b"\x10" * 100, "not a safetensors file"),
    ]:
        path.write_bytes(content)
        with pytest.raises(SnapshotError, match=message):
            tg.export.load_torch(layer, path)
    tg.train.save(layer, path)
    with pytest.raises(SnapshotError, match=r"thriftgrad\.train\.load"):
        tg.export.load_torch(layer, path)
    with pytest.raises(SnapshotError, match=r"float\(\)\.state_dict"):
        tg.export.load_torch(layer, written(path, {"weight": np.ones((2, 2), np.int16)}, "BF16"))
    with pytest.raises(FileNotFoundError):
        tg.export.load_torch(layer, tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pytorch_gives_the_same_outputs(dtype, tmp_path):
    torch = pytest.importorskip("torch")
    files = pytest.importorskip("safetensors.torch")
    model = Sequential(
        Linear(6, 5, rng=0, bias_init=tg.nn.init.normal, dtype=dtype),
        np.tanh,
        Sequential(Linear(5, 5, bias=False, rng=1, dtype=dtype), tg.nn.relu, Dropout(0.2)),
        Linear(5, 3, rng=2, dtype=dtype),
    ).eval()
    net = torch.nn.Sequential(
        torch.nn.Linear(6, 5),
        torch.nn.Tanh(),
        torch.nn.Sequential(torch.nn.Linear(5, 5, bias=False), torch.nn.ReLU(), torch.nn.Dropout()),
        torch.nn.Linear(5, 3),
    ).eval()
    net = net.to(getattr(torch, np.dtype(dtype).name))
    x = RNG.normal(size=(7, 6)).astype(dtype)

    def theirs():
        with torch.no_grad():
            return net(torch.from_numpy(x)).numpy()

    path = tmp_path / "net.safetensors"
    tg.export.save_torch(model, path)
    net.load_state_dict(files.load_file(path))
    np.testing.assert_allclose(theirs(), model(x).value, rtol=1e-6, atol=1e-6)

    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1.5)
    files.save_file(net.state_dict(), path)
    tg.export.load_torch(model, path)
    np.testing.assert_allclose(theirs(), model(x).value, rtol=1e-6, atol=1e-6)

    torch.save(net.state_dict(), tmp_path / "net.pt")
    with pytest.raises(SnapshotError, match="is a pickle"):
        tg.export.load_torch(model, tmp_path / "net.pt")
