"""The L0 of Gemma Scope's canonical SAEs: those nearest 100, which have pages on Neuronpedia.

From SAELens 6.54.12's list of pretrained SAEs, residual stream only.
"""


def _layers(values: str) -> dict[str, int]:
    """Numbers the layers from 0."""
    return {str(layer): int(l0) for layer, l0 in enumerate(values.split())}


# (repository, width) -> layer -> L0.
CANONICAL: dict[tuple[str, str], dict[str, int]] = {
    ("gemma-scope-27b-pt-res", "131k"): {"10": 106, "22": 82, "34": 72},
    ("gemma-scope-2b-pt-res", "16k"): _layers(
        "105 102 141 59 124 68 70 69 71 73 77 80 82 84 84 78 78 77 74 73 71 70 72 75 73 116"
    ),
    ("gemma-scope-2b-pt-res", "1m"): {"5": 114, "12": 107, "19": 88},
    ("gemma-scope-2b-pt-res", "262k"): {"12": 121},
    ("gemma-scope-2b-pt-res", "32k"): {"12": 76},
    ("gemma-scope-2b-pt-res", "524k"): {"12": 115},
    ("gemma-scope-2b-pt-res", "65k"): _layers(
        "73 121 77 89 89 105 107 107 111 118 128 70 72 75 73 127 128 125 116 115 114 111 116 "
        "123 124 93"
    ),
    ("gemma-scope-9b-it-res", "16k"): {"9": 88, "20": 91, "31": 76},
    ("gemma-scope-9b-it-res", "131k"): {"9": 121, "20": 81, "31": 109},
    ("gemma-scope-9b-pt-res", "16k"): _layers(
        "129 69 67 90 91 77 93 92 99 100 113 118 130 132 67 131 75 73 71 132 68 129 123 120 "
        "114 114 116 118 119 119 120 114 111 114 114 120 120 124 128 131 125 113"
    ),
    ("gemma-scope-9b-pt-res", "131k"): _layers(
        "41 56 70 103 101 94 120 119 72 75 84 88 96 99 105 103 121 117 113 110 114 109 105 101 "
        "97 96 97 96 98 97 95 92 88 91 89 94 93 96 101 99 94 84"
    ),
    ("gemma-scope-9b-pt-res", "1m"): {"9": 122, "20": 101, "31": 77},
    ("gemma-scope-9b-pt-res", "32k"): {"20": 57},
    ("gemma-scope-9b-pt-res", "524k"): {"20": 48},
    ("gemma-scope-9b-pt-res", "65k"): {"20": 55},
}
