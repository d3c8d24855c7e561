"""Trees of arrays."""

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad import tree


def test_flatten_and_unflatten_are_inverse() -> None:
    nested = {"b": [np.ones(2), (1.0, 2j)], "a": np.zeros(3), "none": None}
    leaves, structure = tree.flatten(nested)
    assert len(leaves) == 4
    again = tree.unflatten(structure, leaves)
    assert list(again) == list(nested)
    assert again["b"][1] == (1.0, 2j)
    assert again["none"] is None


@pytest.mark.parametrize("leaf", [np.ones(2), np.float32(1.0), 1.0, 1j])
def test_a_single_array_is_a_tree(leaf) -> None:
    leaves, structure = tree.flatten(leaf)
    assert leaves[0] is leaf
    assert tree.unflatten(structure, leaves) is leaf
    assert tree.map(lambda x, y: (x, y), leaf, 5) == (leaf, 5)
    assert tree.paths(leaf, "x") == ["x"]


def test_structures_compare() -> None:
    one = tree.flatten([np.ones(2), {"a": 1.0}])[1]
    same = tree.flatten([np.zeros(3), {"a": 2.0}])[1]
    other = tree.flatten([np.ones(2), {"b": 1.0}])[1]
    assert one == same
    assert one != other


def test_map_refuses_trees_of_different_structure() -> None:
    with pytest.raises(ValueError, match="key"):
        tree.map(lambda a, b: a + b, {"a": 1.0}, {"b": 1.0})


def test_paths_are_python() -> None:
    nested = {"W": {"hidden": np.ones(2)}, "b": [1.0, 2.0]}
    for path, leaf in zip(tree.paths(nested, "p"), tree.flatten(nested)[0], strict=True):
        assert eval(path, {"p": nested}) is leaf


def test_paths_into_a_module_are_attributes() -> None:
    model = tg.nn.Sequential(tg.nn.Linear(2, 3, rng=0))
    assert tree.paths({"m": model}, "p") == ["p['m'].0.weight", "p['m'].0.bias"]
