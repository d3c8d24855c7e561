"""Calls of the table contraction that `cases_core` does not make."""

import numpy as np
from laws.harness import case, complex_, real

from thriftgrad.autodiff.rules.contraction import einsum_many, einsum_one, einsum_two

_CHAIN = "ij,jk,kl->il"
EINSUM = [
    *(
        case(np.einsum, _CHAIN, real(2, 3), real(3, 4), real(4, 2), optimize=how, _name=f"einsum {how}")
        for how in (True, "greedy", "optimal", ["einsum_path", (1, 2), (0, 1)])
    ),
    *(
        case(np.einsum, text, *(real(*shape) for shape in shapes), _name=f"einsum {text} {shapes}")
        for text, *shapes in [
            ("ij,ij->ij", (1, 3), (2, 3)), ("ij,ij->i", (2, 1), (2, 3)), ("ij,ij->", (2, 3), (1, 1)),
            ("iii->i", (2, 2, 2)), ("iii", (2, 2, 2)), ("ijij->ij", (2, 3, 2, 3)),
            ("ii,jj->ij", (2, 2), (3, 3)), ("i,j,k->ijk", (2,), (3,), (2,)),
            (",i->i", (), (3,)), (",->", (), ()), ("...,...", (2, 3), (3,)), ("i...->...i", (2, 3, 4)),
            ("...ii->...", (4, 2, 2)), (" i j , j k -> i k ", (2, 3), (3, 4)), ("Ab,bA", (2, 3), (3, 2)),
            ("bA,Ac", (2, 3), (3, 2)), ("ij...,jk...->ik...", (2, 3, 4), (3, 2, 1)),
        ]
    ),
    case(einsum_one, real(3, 2), ("ij->j", None), {}),
    case(einsum_two, real(3, 2), real(2), ("ij,j->i", None, None), {}),
    case(einsum_many, [real(3, 2), real(2), real(3)], (None, (0, 1), None, (1,), None, (0,)), {}),
    case(np.einsum, real(3, 2), [26, 25], _name="einsum of lists, late letters"),
    case(np.einsum, real(3, 2, 2), [..., 1, 1], [...], _name="einsum of lists, ellipsis"),
    case(np.einsum, real(3, 2), [0, 0 + 1], complex_(2), [1], [0], _name="einsum of lists, complex"),
    case(np.einsum, "i,i->i", real(3), [1.0, 2.0, 3.0], _name="einsum with a list", _single=False),
]  # fmt: skip

PRODUCTS = [
    case(np.vecdot, real(2, 3), real(3)),
    case(np.vecdot, complex_(3), complex_(2, 3)),
    *(
        [
            case(np.matvec, real(2, 3), real(3)),
            case(np.matvec, complex_(4, 2, 3), complex_(1, 3)),
            case(np.matvec, real(2, 3), real(4, 3)),
            case(np.vecmat, real(2), real(2, 3)),
            case(np.vecmat, complex_(4, 2), complex_(2, 3)),
            case(np.vecmat, complex_(2), complex_(4, 2, 3)),
        ]
        if hasattr(np, "matvec")
        else []
    ),
    *(
        case(np.kron, real(*a), real(*b), _name=f"kron {a} {b}")
        for a, b in [((2,), (3,)), ((2, 3), (3, 2)), ((2, 3), (4,)), ((3,), (2, 1, 2)), ((), (2, 3)),
                     ((2,), ())]
    ),
    case(np.kron, complex_(2, 2), complex_(1, 3)),
    case(np.cross, real(3), real(3)),
    case(np.cross, complex_(3), complex_(2, 3)),
    case(np.cross, real(4, 1, 3), real(5, 3)),
    case(np.cross, real(3, 4), real(2, 4, 3), axisa=0, axisc=0),
    case(np.cross, real(2, 3, 4), real(2, 3, 4), axis=1),
    case(np.inner, complex_(2, 3), complex_(3)),
    case(np.dot, complex_(2, 3), complex_(3)),
    case(np.dot, real(2, 3), [1.0, 2.0, 3.0], _single=False),
    case(np.outer, complex_(2), complex_(3)),
    case(np.tensordot, complex_(2, 3), complex_(3, 2), axes=((1, 0), (0, 1))),
    case(np.tensordot, real(2, 3, 4), real(4, 3), axes=([-1, -2], [0, 1])),
]  # fmt: skip

CASES = [*EINSUM, *PRODUCTS]
