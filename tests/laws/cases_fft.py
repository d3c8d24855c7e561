"""Calls of the table fft."""

import numpy as np
from laws.harness import case, complex_, real

_LENGTHS = ({}, {"n": 3}, {"n": 4}, {"n": 8}, {"n": 9}, {"axis": 0}, {"axis": 0, "n": 1})
_NORMS = ("backward", "ortho", "forward")

ONE_AXIS = [
    *(
        case(f, sample(2, 5), **options)
        for f, sample in [
            (np.fft.fft, complex_), (np.fft.fft, real), (np.fft.ifft, complex_), (np.fft.ifft, real),
            (np.fft.rfft, real), (np.fft.ihfft, real),
            (np.fft.irfft, complex_), (np.fft.irfft, real), (np.fft.hfft, complex_), (np.fft.hfft, real),
        ]
        for options in [*_LENGTHS, *({"norm": norm} for norm in _NORMS)]
    ),
    *(case(f, real(6), norm=norm) for f in (np.fft.rfft, np.fft.ihfft) for norm in _NORMS),
    *(case(f, complex_(4), n=7, norm=norm) for f in (np.fft.irfft, np.fft.hfft) for norm in _NORMS),
    *(case(f, real(1)) for f in (np.fft.fft, np.fft.ifft, np.fft.rfft, np.fft.ihfft)),
]  # fmt: skip

_AXES = (
    {}, {"axes": (0, 1)}, {"axes": (1, 0)}, {"axes": (-1,)}, {"axes": (2, 0)},
    {"axes": (0, 2), "s": (2, 6)}, {"axes": (2, 1), "s": (5, 2)}, {"axes": (1, 2), "s": (-1, 3)},
    {"axes": (1, 1)}, {"axes": (1, 1), "s": (2, 5)}, {"axes": (2, 1, 2)}, {"axes": (2, 1, 2), "s": (3, 2, 6)},
    *({"norm": norm} for norm in _NORMS),
)  # fmt: skip
SEVERAL_AXES = [
    *(
        case(f, sample(2, 3, 4), **options)
        for f, sample in [
            (np.fft.fftn, complex_), (np.fft.ifftn, complex_), (np.fft.fft2, real), (np.fft.ifft2, real),
            (np.fft.rfftn, real), (np.fft.rfft2, real), (np.fft.irfftn, complex_), (np.fft.irfft2, complex_),
        ]
        for options in _AXES
    ),
    case(np.fft.irfftn, real(3, 4)),
]  # fmt: skip

SHIFTS = [
    case(f, sample(3, 4), **axes)
    for f in (np.fft.fftshift, np.fft.ifftshift)
    for sample in (real, complex_)
    for axes in ({}, {"axes": 0}, {"axes": (-1, 0)})
]

CASES = [*ONE_AXIS, *SEVERAL_AXES, *SHIFTS]
